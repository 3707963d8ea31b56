//! Proves that an image is what its inputs give: every stage made again from the downloaded files
//! alone, and the result compared bit for bit. On a difference, the first differing file is named.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use node::command::Run;
use node::values::Digest;
use serde::Serialize;

use super::loader::ESP_BYTES;
use super::tools::Tools;
use super::{Build, Manifest, Paths, Plan};
use crate::disk::extents::{CLUSTER, used_clusters};
use crate::disk::gpt;
use crate::store::{Store, hash_file};
use crate::ui::Ui;

/// Bytes of an ext4 block in our images.
const BLOCK: u64 = 4096;
/// Differing blocks asked about before giving up on a name: the first ones may be metadata.
const ASKED: usize = 256;

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// The image.
    pub image: PathBuf,
    /// Digest of the qcow2 file as it lies there.
    pub found: Digest,
    /// Digest of the one built again.
    pub rebuilt: Digest,
    /// What differs first, when they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<String>,
}

/// Builds `image` again from `plan` in a fresh place and compares.
///
/// # Errors
/// The inputs here are not those of the image (each that differs is named), or the build fails.
pub fn verify(image: &Path, plan: &Plan, store: &Store, ui: &Ui) -> Result<Verified> {
    let manifest = Manifest::beside(image)?;
    same_inputs(&manifest, plan)?;
    let (found, _) = hash_file(image)?;
    let place = store.temp_dir("verify")?;
    let fresh = fresh_store(store, place.path())?;
    let out = place.path().join("out");
    let again = Build { plan, store: &fresh, ui }.run(&out)?;
    let rebuilt = again.qcow2.sha256;
    let difference = if found == rebuilt {
        None
    } else {
        let tools = Tools::new(&fresh.stage("tools", &plan.keys.tools));
        Some(first_difference(image, &Paths::new(&out, &plan.id).qcow2, &tools, place.path())?)
    };
    Ok(Verified { image: image.to_owned(), found, rebuilt, difference })
}

/// A store that has the downloads of `store`, but none of its stage outputs.
fn fresh_store(store: &Store, place: &Path) -> Result<Store> {
    let root = place.join("cache");
    fs::create_dir_all(&root)?;
    let objects = store.root().join("sha256");
    fs_err::os::unix::fs::symlink(objects, root.join("sha256"))?;
    Store::open(Some(&root))
}

fn same_inputs(manifest: &Manifest, plan: &Plan) -> Result<()> {
    if manifest.key == plan.keys.image {
        return Ok(());
    }
    let here = super::manifest::inputs(plan);
    let names: BTreeSet<_> = manifest.inputs.keys().chain(here.keys()).collect();
    let differs = |name: &&&String| manifest.inputs.get(**name) != here.get(**name);
    let mut changed: Vec<String> = names.iter().filter(differs).map(|n| (*n).clone()).collect();
    if changed.is_empty() {
        changed
            .push("the configuration (profiles/, images/, cluster/) or builder itself".to_owned());
    }
    bail!(
        "{} was built from other inputs than those here; changed: {}; check out the revision and \
         use the lock it was built with",
        manifest.image_id,
        changed.join(", ")
    );
}

/// Where two disks differ first, in words: a file's path where one holds the place.
fn first_difference(a: &Path, b: &Path, tools: &Tools, temp: &Path) -> Result<String> {
    let raw = |from: &Path, name: &str| -> Result<PathBuf> {
        let to = temp.join(name);
        let mut convert = tools.command("usr/bin/qemu-img");
        convert.args(["convert", "-O", "raw"]).arg(from).arg(&to).run()?;
        Ok(to)
    };
    let (a, b) = (raw(a, "a.raw")?, raw(b, "b.raw")?);
    let blocks = differing_blocks(&a, &b)?;
    let Some(first) = blocks.first() else {
        return Ok("the disks are equal; the qcow2 files are laid out differently".to_owned());
    };
    let start = gpt::root_offset(ESP_BYTES);
    match first * BLOCK {
        0..0x10_0000 => Ok("the partition table".to_owned()),
        0x10_0000..0x20_0000 => Ok("GRUB's core image".to_owned()),
        at if at < start => Ok("the EFI system partition".to_owned()),
        _ => {
            let in_root: Vec<u64> = blocks.iter().map(|n| n - start / BLOCK).collect();
            // A file may have its block there in only one of the two.
            let name = match owner(&b, start, &in_root, tools)? {
                Some(name) => Some(name),
                None => owner(&a, start, &in_root, tools)?,
            };
            Ok(name.unwrap_or_else(|| "the root file system's own tables".to_owned()))
        }
    }
}

/// Numbers of the first [`ASKED`] blocks of [`BLOCK`] bytes that differ.
fn differing_blocks(a: &Path, b: &Path) -> Result<Vec<u64>> {
    let (a, b) = (File::from(fs::File::open(a)?), File::from(fs::File::open(b)?));
    let size = a.metadata()?.len();
    ensure!(size == b.metadata()?.len(), "the disks differ in size");
    let used: BTreeSet<u64> = [&a, &b]
        .iter()
        .map(|f| used_clusters(f, size))
        .collect::<Result<Vec<_>>>()?
        .concat()
        .into_iter()
        .collect();
    let (mut left, mut right) = (vec![0; CLUSTER as usize], vec![0; CLUSTER as usize]);
    let mut found = Vec::new();
    for cluster in used {
        let length = CLUSTER.min(size - cluster * CLUSTER) as usize;
        for (file, buffer) in [(&a, &mut left), (&b, &mut right)] {
            file.read_exact_at(&mut buffer[..length], cluster * CLUSTER)
                .context("failed to compare")?;
        }
        let pairs = left.chunks(BLOCK as usize).zip(right.chunks(BLOCK as usize)).enumerate();
        let first = cluster * (CLUSTER / BLOCK);
        found.extend(pairs.filter(|(_, (x, y))| x != y).map(|(i, _)| first + i as u64));
        if found.len() >= ASKED {
            break;
        }
    }
    Ok(found)
}

/// Path of the first file that holds one of `blocks` of the file system at `offset` in `disk`.
fn owner(disk: &Path, offset: u64, blocks: &[u64], tools: &Tools) -> Result<Option<String>> {
    let ask = |request: String| {
        let device = format!("{}?offset={offset}", disk.display());
        tools.command("usr/sbin/debugfs").arg("-R").arg(request).arg(device).stdout_text()
    };
    let numbers: Vec<String> = blocks.iter().map(u64::to_string).collect();
    let inodes = ask(format!("icheck {}", numbers.join(" ")))?;
    let inode_of = |line: &str| line.split_once('\t')?.1.trim().parse::<u64>().ok();
    // Inodes below 11 are the file system's own: journal, resize reserve.
    let Some(inode) = inodes.lines().filter_map(inode_of).find(|n| *n >= 11 || *n == 2) else {
        return Ok(None);
    };
    let names = ask(format!("ncheck {inode}"))?;
    let path = names
        .lines()
        .find_map(|l| Some(l.split_once('\t')?.1.trim().to_owned()).filter(|p| p.starts_with('/')));
    Ok(path)
}
