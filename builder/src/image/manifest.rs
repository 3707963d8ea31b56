//! The manifest beside an image: what it is made from, what it holds, and the digests that prove
//! it. It holds no time and no host, so that equal inputs give equal manifests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fs_err as fs;
use node::image_id::ImageId;
use node::values::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::assemble::Disk;
use super::plan::Plan;
use super::scan::Scan;
use crate::lock::{Artifact, Package};

/// Version of the manifest's shape.
pub const SCHEMA: u32 = 1;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the image.
    pub image_id: ImageId,
    /// The whole build key the name is cut from.
    pub key: Digest,
    /// Whether K3s is the stand-in: such an image is for tests and is never pushed.
    pub standin: bool,
    /// Profile it was built from.
    pub profile: String,
    /// Operating system, such as `debian-13`.
    pub image: String,
    /// Version of K3s.
    pub k3s_version: String,
    /// The qcow2 file.
    pub qcow2: FileDigest,
    /// Digest of the disk inside (see [`crate::disk::qcow2::Written::disk_sha256`]).
    pub disk_sha256: Digest,
    /// Bytes the guest sees before the disk is grown.
    pub virtual_bytes: u64,
    /// Sizes and counts.
    pub root: RootSizes,
    /// Keys of the stages.
    pub stages: BTreeMap<String, Digest>,
    /// Everything that went in beside distribution packages, by name.
    pub inputs: BTreeMap<String, Input>,
    /// What the secret scan looked at; it found nothing, or there were no image.
    pub secret_scan: Scan,
    /// Name of the bill of materials beside this file (`CycloneDX` 1.6).
    pub sbom: String,
}

/// A file by name, content and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// File name, beside the manifest.
    pub file: String,
    /// SHA-256.
    pub sha256: Digest,
    /// Bytes.
    pub bytes: u64,
}

/// Sizes of the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSizes {
    /// Distribution packages.
    pub packages: usize,
    /// Bytes of the base's files before K3s, in blocks of 4 KiB.
    pub base_bytes: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its version, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256.
    pub sha256: Digest,
    /// Where its digest was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Paths of an image's files below `out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The disk.
    pub qcow2: PathBuf,
    /// The manifest; written last, so that where it is, all are.
    pub manifest: PathBuf,
    /// The bill of materials.
    pub sbom: PathBuf,
}

impl Paths {
    /// Those of image `id`.
    pub fn new(out: &Path, id: &ImageId) -> Self {
        let with = |ending: &str| out.join(format!("{id}.{ending}"));
        Self { qcow2: with("qcow2"), manifest: with("manifest.json"), sbom: with("sbom.cdx.json") }
    }
}

impl Manifest {
    /// Describes the finished `disk` of `plan`.
    pub fn new(plan: &Plan, disk: &Disk, base_bytes: u64, scan: Scan) -> Self {
        let k = &plan.keys;
        let stages = [("tools", k.tools), ("base", k.base), ("k3s", k.k3s), ("loader", k.loader)];
        Self {
            schema: SCHEMA,
            image_id: plan.id.clone(),
            key: k.image,
            standin: plan.facts.standin,
            profile: plan.profile.name.to_string(),
            image: plan.image.name.clone(),
            k3s_version: plan.k3s.version.clone(),
            qcow2: FileDigest {
                file: format!("{}.qcow2", plan.id),
                sha256: disk.written.file_sha256,
                bytes: disk.written.file_bytes,
            },
            disk_sha256: disk.written.disk_sha256,
            virtual_bytes: disk.virtual_bytes,
            root: RootSizes {
                packages: plan.base.packages.len(),
                base_bytes,
                bytes: disk.content_bytes,
            },
            stages: stages.map(|(name, key)| (name.to_owned(), key)).into(),
            inputs: inputs(plan),
            secret_scan: scan,
            sbom: format!("{}.sbom.cdx.json", plan.id),
        }
    }

    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// It is missing or not a manifest of this version.
    pub fn load(path: &Path) -> Result<Self> {
        serde_json::from_slice(&fs::read(path)?)
            .with_context(|| format!("{} is not an image manifest", path.display()))
    }

    /// The manifest of the image file `qcow2`, which must lie beside it.
    ///
    /// # Errors
    /// As [`Manifest::load`].
    pub fn beside(qcow2: &Path) -> Result<Self> {
        let path = qcow2.with_extension("manifest.json");
        Self::load(&path).with_context(|| format!("failed to find out what {} is", qcow2.display()))
    }
}

/// Everything that goes into `plan` beside distribution packages, by name.
pub fn inputs(plan: &Plan) -> BTreeMap<String, Input> {
    let artifact = |a: &Artifact| Input {
        version: Some(a.version.clone()),
        sha256: a.sha256,
        source: Some(a.source.clone()),
    };
    let own = |sha256| Input { version: None, sha256, source: None };
    let mut all: BTreeMap<_, _> = plan.artifacts().map(|a| (a.name.clone(), artifact(a))).collect();
    all.insert("firstboot".to_owned(), own(plan.firstboot.1));
    all.insert("trees".to_owned(), own(plan.trees.digest()));
    all.insert(format!("packages {}", plan.base.name), own(plan.base.digest()));
    all.insert(format!("packages {}", plan.tools.name), own(plan.tools.digest()));
    all
}

/// The bill of materials: every distribution package and artifact with its digest, as `CycloneDX`
/// 1.6 JSON (ECMA-424). Its optional time stamp and serial number are left out: they would differ
/// from build to build.
pub fn sbom(plan: &Plan) -> Value {
    let os = &plan.image;
    let package = |p: &Package| {
        let version = p.version.replace(':', "%3A").replace('+', "%2B").replace('~', "%7E");
        json!({
            "type": "library", "name": p.name, "version": p.version,
            "purl": format!("pkg:deb/{}/{}@{version}?arch={}", os.distribution, p.name, p.arch),
            "hashes": [{"alg": "SHA-256", "content": p.sha256}],
        })
    };
    let artifact = |a: &Artifact| {
        json!({
            "type": "application", "name": a.name, "version": a.version,
            "hashes": [{"alg": "SHA-256", "content": a.sha256}],
        })
    };
    let artifacts = plan.artifacts().map(artifact);
    let components: Vec<_> = artifacts.chain(plan.base.packages.iter().map(package)).collect();
    json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {
            "type": "operating-system", "name": plan.id.profile(), "version": plan.id,
            "description": format!("K3s node image on {} {}", os.distribution, os.version),
        }},
        "components": components,
    })
}
