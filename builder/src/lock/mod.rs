//! `builder.lock`: every input of every image by version, digest and size.
//!
//! A build takes nothing that does not stand here, so two builds from one lock are one image.
//! The file is TOML with one line per package, so that a diff reads well. No mirror's address is
//! in it: a package names its mirror (`debian`) and its path there, and each machine knows where
//! its mirrors are.

pub mod apt;
mod diff;
pub mod mirror;
#[cfg(test)]
mod mirror_tests;
mod parse;
mod request;
pub mod standin;
mod until;
mod write;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use node::files::write_atomic;
use node::values::Digest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Problems;

pub use diff::Diff;
pub use parse::RawLock;
pub use standin::{check_artifact, parse_assignments, standin};

/// The schema this program reads and writes.
pub const SCHEMA: u64 = 1;

/// The whole lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// Released files such as the K3s binary, by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// Exact sets of distribution packages, by name.
    pub bases: BTreeMap<String, BaseSet>,
}

/// What an [`Artifact`] is, and so what a build does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// One program.
    Binary,
    /// Container images in one archive, imported by K3s at its start.
    AirgapImages,
    /// An archive to be unpacked.
    Archive,
    /// A packaged Helm chart.
    Chart,
}

/// One released file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// What builds call it, such as `k3s`.
    pub name: String,
    /// What it is.
    pub kind: ArtifactKind,
    /// The release's version, as its makers write it.
    pub version: String,
    /// Where it can be downloaded; none for a stand-in.
    #[serde(default)]
    pub url: Option<String>,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// Bytes, where known.
    #[serde(default)]
    pub size: Option<u64>,
    /// Where the digest was read: the evidence for it.
    pub source: String,
    /// Whether this file only takes the place of the real release.
    #[serde(default)]
    pub standin: bool,
    /// Whether images are made without this file, which cannot be had here; charts only.
    #[serde(default)]
    pub left_out: bool,
}

/// The exact packages of one base system or tools tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseSet {
    /// Its name, such as `debian-13`.
    pub name: String,
    /// Digest of what was asked for ([`apt::SetRequest::digest`]): another one means that the
    /// lock is older than the profile.
    pub request: Digest,
    /// Sorted by name, then architecture.
    pub packages: Vec<Package>,
}

/// One package file.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Package name.
    pub name: String,
    /// Architecture: `amd64` or `all`.
    pub arch: String,
    /// Full version with epoch.
    pub version: String,
    /// The name of the mirror that has it, such as `debian-security`.
    pub mirror: String,
    /// Path below the mirror's root, not URL-encoded.
    pub path: String,
    /// Bytes of the .deb.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub sha256: Digest,
}

impl Package {
    /// File name as apt writes it: `name_version_arch.deb`, with the epoch's colon encoded.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.arch)
    }
}

impl BaseSet {
    /// Bytes of all packages together.
    pub fn size(&self) -> u64 {
        self.packages.iter().map(|p| p.size).sum()
    }

    /// Digest of the exact content: over each package's name, version, architecture and digest.
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for p in &self.packages {
            let _ = writeln!(text, "{} {} {} {}", p.name, p.version, p.arch, p.sha256);
        }
        Digest::of(text)
    }
}

impl Lock {
    /// Reads and checks the file. Every problem is reported, each as `file:line:column`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!("no lock at {}; make it with `builder lock`", path.display())
        })?;
        Self::parse(path, &text)
    }

    /// As [`Lock::read`], but a file that is not there yet is an empty lock.
    pub fn read_or_empty(path: &Path) -> Result<Self> {
        if path.try_exists()? { Self::read(path) } else { Ok(Self::default()) }
    }

    /// Checks the text of a lock; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        parse::parse(text).map_err(|found| {
            let file = path.display().to_string();
            let mut problems = Problems::default();
            problems.extend(found.into_iter().map(|p| p.of(&file)));
            problems.into()
        })
    }

    /// Writes the file whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, self.to_text()?.as_bytes(), 0o644)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    /// The artifact of this name; an error that says what to do when there is none.
    pub fn artifact(&self, name: &str) -> Result<&Artifact> {
        let Some(artifact) = self.artifacts.get(name) else {
            bail!(
                "the lock has no artifact `{name}` (it has: {}); add it to builder.lock with its \
                 real digest, or give a stand-in: `builder lock --standin {name}=PATH`",
                names(self.artifacts.keys())
            );
        };
        Ok(artifact)
    }

    /// The package set of this name for this request; refused when it is missing or was
    /// resolved for something else than what is asked for now.
    pub fn base(&self, request: &apt::SetRequest) -> Result<&BaseSet> {
        let (name, origin) = (&request.name, &request.origin);
        let Some(base) = self.bases.get(name) else {
            bail!("the lock has no packages for `{name}`; run `builder lock --update {name}`");
        };
        if base.request != request.digest() {
            bail!(
                "the lock is older than {origin}: `{name}` was resolved for another list of \
                 packages or suites; run `builder lock --update {name}`"
            );
        }
        Ok(base)
    }

    /// What people call each file of the lock: name and version.
    pub fn titles(&self) -> BTreeMap<Digest, String> {
        let packages = self.bases.values().flat_map(|b| &b.packages);
        let packages = packages.map(|p| (p.sha256, format!("{} {}", p.name, p.version)));
        let artifacts = self.artifacts.values();
        artifacts.map(|a| (a.sha256, format!("{} {}", a.name, a.version))).chain(packages).collect()
    }

    /// Digests of every file the lock names, which garbage collection keeps.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        let packages = self.bases.values().flat_map(|b| &b.packages).map(|p| p.sha256);
        self.artifacts.values().map(|a| a.sha256).chain(packages)
    }
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small lock with one of each.
    pub(crate) fn sample() -> Lock {
        let artifact = Artifact {
            name: "k3s".into(),
            kind: ArtifactKind::Binary,
            version: "v1.36.4+k3s1".into(),
            url: Some("https://example.org/k3s".into()),
            sha256: Digest::of("k3s"),
            size: Some(3),
            source: "a \"quoted\" place".into(),
            standin: false,
            left_out: false,
        };
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            arch: "amd64".into(),
            version: version.into(),
            mirror: "debian".into(),
            path: format!("pool/main/{name}.deb"),
            size: 10,
            sha256: Digest::of(format!("{name}{version}")),
        };
        let base = BaseSet {
            name: "debian-13".into(),
            request: Digest::of("request"),
            packages: vec![package("bash", "5.2"), package("libc6", "1:2.41~x+deb13u5")],
        };
        Lock {
            artifacts: [("k3s".to_owned(), artifact)].into(),
            bases: [("debian-13".to_owned(), base)].into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_equal_locks_are_equal_bytes() {
        let lock = sample();
        let text = lock.to_text().unwrap();
        insta::assert_snapshot!(text);
        let again = Lock::parse(Path::new("builder.lock"), &text).unwrap();
        assert_eq!(again, lock);
        assert_eq!(again.to_text().unwrap(), text);
    }

    proptest::proptest! {
        #[test]
        fn any_words_survive_writing_and_reading(
            source in "\\PC{0,60}", version in "[0-9][a-z0-9+.~:-]{0,20}", size: u32,
        ) {
            let mut lock = sample();
            for artifact in lock.artifacts.values_mut() {
                (artifact.source, artifact.version) = (source.clone(), version.clone());
                artifact.size = Some(size.into());
            }
            for base in lock.bases.values_mut() {
                base.packages[0].version = version.clone();
            }
            let text = lock.to_text().unwrap();
            proptest::prop_assert_eq!(Lock::parse(Path::new("l"), &text).unwrap(), lock);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
            let _ = Lock::parse(Path::new("l"), &format!("schema = 1\n{text}"));
        }
    }

    #[test]
    fn a_name_that_is_not_locked_says_what_to_do() {
        let text = sample().artifact("helm").unwrap_err().to_string();
        assert!(text.contains("it has: k3s") && text.contains("--standin helm=PATH"), "{text}");
    }

    #[test]
    fn a_missing_lock_says_how_to_make_it() {
        let text = format!("{:#}", Lock::read(Path::new("no/such.lock")).unwrap_err());
        assert!(text.starts_with("no lock at no/such.lock; make it with `builder lock`"), "{text}");
    }
}
