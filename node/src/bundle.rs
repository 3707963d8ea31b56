//! The bundle as it lies in the image of a server: everything that runs in the cluster, rendered and
//! checked by `builder`, applied by `firstboot`. The index, `bundle.json`, names every file with its
//! digest, so the digest of its own bytes names the whole bundle.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::values::{Digest, Hostname};

/// The bundle's folder in an image, relative to its root.
pub const FOLDER: &str = "usr/lib/firstboot/bundle";
/// The index inside the folder.
pub const INDEX: &str = "bundle.json";
/// Version of the index's shape. A firstboot refuses any other: both come from one build.
pub const SCHEMA: u32 = 1;
/// Who owns the fields that firstboot applies by server-side apply.
pub const MANAGER: &str = "firstboot";

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Raised with every change: a lower one never replaces a higher one.
    pub revision: u64,
    /// `CustomResourceDefinitions`, one file per chart or release that brings some.
    pub crds: Vec<File>,
    /// Namespaces with what guards them, in the order of their names.
    pub namespaces: Vec<Namespace>,
    /// Groups of releases in their order.
    pub waves: Vec<Wave>,
}

/// A file of the bundle. Those with objects are JSON: a Kubernetes `List`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Path below the bundle's folder.
    pub path: String,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: Hostname,
    /// The Namespace object and what belongs to it.
    pub file: File,
}

/// A group of releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Its name.
    pub name: String,
    /// Its releases, each after those it needs.
    pub releases: Vec<Release>,
}

/// A Helm release, or a set of plain objects, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its name, unique in the bundle.
    pub name: Hostname,
    /// Its namespace.
    pub namespace: Hostname,
    /// Its chart; none for plain objects alone.
    pub chart: Option<Chart>,
    /// The chart's values, YAML.
    pub values: Option<File>,
    /// Objects applied after the chart.
    pub manifests: Vec<File>,
    /// Releases that must be healthy first.
    pub after: Vec<Hostname>,
    /// Whether it holds data: then nothing of it is ever removed.
    pub stateful: bool,
    /// How long Helm waits for it.
    pub timeout_seconds: u64,
    /// What must hold beyond Helm's own wait.
    pub healthy: Vec<Gate>,
}

/// A packed chart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chart {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The archive; none where the image was built without it (a stand-in).
    pub file: Option<File>,
}

/// A thing that must be healthy before what depends on its release begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// API group and version, such as `apps/v1`.
    pub api: String,
    /// Kind.
    pub kind: String,
    /// Name, in the release's namespace if the kind has one.
    pub name: String,
    /// Condition that must be `True`; none where the kind has a rule of its own.
    pub condition: Option<String>,
    /// How long that may take.
    pub within_seconds: u64,
}

impl Release {
    /// Whether its chart is missing in this image.
    pub fn is_left_out(&self) -> bool {
        self.chart.as_ref().is_some_and(|chart| chart.file.is_none())
    }

    /// `NAMESPACE/NAME`, as messages and the record in the cluster call it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        let chart = self.chart.iter().filter_map(|chart| chart.file.as_ref());
        chart.chain(&self.values).chain(&self.manifests)
    }

    /// Digest of everything that is applied; what only says when and how long does not count.
    pub fn digest(&self) -> Digest {
        let parts = self.files().map(|file| format!("{} {}\n", file.path, file.sha256));
        Digest::of(self.id() + "\n" + &parts.collect::<String>())
    }
}

impl Bundle {
    /// Reads and checks the index in `folder`; returns it with the digest of the whole bundle.
    ///
    /// # Errors
    /// The index is missing, of another shape or version, or contradicts itself.
    pub fn load(folder: &Path) -> Result<(Self, Digest)> {
        let path = folder.join(INDEX);
        let text = fs_err::read(&path)?;
        let what = || format!("{} is not an index of a bundle", path.display());
        let bundle: Self = serde_json::from_slice(&text).with_context(what)?;
        bundle.check().with_context(what)?;
        Ok((bundle, Digest::of(text)))
    }

    /// Every release in its order.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.waves.iter().flat_map(|wave| &wave.releases)
    }

    /// Every file that must be in the folder.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        let namespaces = self.namespaces.iter().map(|n| &n.file);
        self.crds.iter().chain(namespaces).chain(self.releases().flat_map(Release::files))
    }

    /// Holds the index against its own rules: version, plain paths, names that are unique, and
    /// dependencies that come first.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<()> {
        ensure!(self.schema == SCHEMA, "its schema is {}, not {SCHEMA}", self.schema);
        ensure!(self.revision > 0, "its revision is 0");
        for file in self.files() {
            let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
            ensure!(
                !file.path.is_empty() && Path::new(&file.path).components().all(plain),
                "`{}` is no path below the bundle's folder",
                file.path
            );
        }
        let mut seen = BTreeSet::new();
        for release in self.releases() {
            for name in &release.after {
                ensure!(
                    seen.contains(name),
                    "release {} comes before {name}, which it needs",
                    release.name
                );
            }
            ensure!(seen.insert(&release.name), "release {} stands there twice", release.name);
        }
        Ok(())
    }
}

impl File {
    /// The file's bytes, which must be those that were packed.
    ///
    /// # Errors
    /// It cannot be read, or its digest is another.
    pub fn read(&self, folder: &Path) -> Result<Vec<u8>> {
        let path = folder.join(&self.path);
        let bytes = fs_err::read(&path)?;
        let found = Digest::of(&bytes);
        ensure!(
            found == self.sha256,
            "{} is damaged: its SHA-256 is {found}, the index says {}",
            path.display(),
            self.sha256
        );
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> File {
        File { path: path.to_owned(), sha256: Digest::of(path) }
    }

    fn release(name: &str, after: &[&str]) -> Release {
        Release {
            name: name.parse().unwrap(),
            namespace: "apps".parse().unwrap(),
            chart: None,
            values: None,
            manifests: vec![file("manifests/a.json")],
            after: after.iter().map(|n| n.parse().unwrap()).collect(),
            stateful: false,
            timeout_seconds: 600,
            healthy: vec![],
        }
    }

    fn bundle(releases: Vec<Release>) -> Bundle {
        let waves = vec![Wave { name: "apps".into(), releases }];
        Bundle { schema: SCHEMA, revision: 1, crds: vec![], namespaces: vec![], waves }
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused() {
        let refused = |b: &Bundle| b.check().unwrap_err().to_string();
        bundle(vec![release("a", &[]), release("b", &["a"])]).check().unwrap();
        let late = bundle(vec![release("b", &["a"]), release("a", &[])]);
        assert_eq!(refused(&late), "release b comes before a, which it needs");
        let twice = bundle(vec![release("a", &[]), release("a", &[])]);
        assert_eq!(refused(&twice), "release a stands there twice");
        for path in ["/etc/x", "../x", "a/../../x", ""] {
            let mut out = bundle(vec![]);
            out.crds.push(file(path));
            assert!(refused(&out).contains("no path below"), "{path}");
        }
        assert!(refused(&Bundle { schema: 2, ..bundle(vec![]) }).contains("schema is 2"));
        assert_eq!(refused(&Bundle { revision: 0, ..bundle(vec![]) }), "its revision is 0");
    }

    #[test]
    fn a_release_changes_with_what_is_applied_and_with_nothing_else() {
        let plain = release("a", &[]);
        let mut other = plain.clone();
        (other.timeout_seconds, other.stateful) = (1, true);
        assert_eq!(plain.digest(), other.digest());
        other.values = Some(file("values/a.yaml"));
        assert_ne!(plain.digest(), other.digest());
        let mut moved = plain.clone();
        moved.namespace = "dev".parse().unwrap();
        assert_ne!(plain.digest(), moved.digest());
    }

    #[test]
    fn what_is_read_is_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let index = bundle(vec![release("a", &[])]);
        let text = serde_json::to_vec(&index).unwrap();
        fs_err::write(dir.path().join(INDEX), &text).unwrap();
        assert_eq!(Bundle::load(dir.path()).unwrap(), (index, Digest::of(&text)));
        let one = File { path: "x".into(), sha256: Digest::of("whole") };
        fs_err::write(dir.path().join("x"), "whol").unwrap();
        assert!(one.read(dir.path()).unwrap_err().to_string().contains("is damaged"));
        fs_err::write(dir.path().join("x"), "whole").unwrap();
        assert_eq!(one.read(dir.path()).unwrap(), b"whole");
        for cut in 0..text.len() {
            fs_err::write(dir.path().join(INDEX), &text[..cut]).unwrap();
            assert!(Bundle::load(dir.path()).is_err(), "cut at {cut}");
        }
    }
}
