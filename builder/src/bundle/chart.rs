//! Charts: our own, packed here so that equal sources give equal bytes, and locked ones, whose
//! archives lie in the cache. The CRDs of both are taken out: Helm installs those of a chart once and
//! never touches them again.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use fs_err as fs;
use node::values::Digest;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::objects::parse_yaml;
use crate::config::{Problem, Problems};
use crate::image::tarball::Tarball;
use crate::lock::{ArtifactKind, Lock};
use crate::store::Store;

/// Where our own charts lie, below the project.
const FOLDER: &str = "cluster/charts";
/// Time of every file in an archive of ours, in seconds since 1970.
const EPOCH: i64 = 0;
/// Bytes of one file in a chart: a guard against an archive that only unpacks for ever. The largest
/// CRD known here has 1 MB.
const FILE_MAX: u64 = 32 << 20;

/// A chart that a release can name.
#[derive(Debug, Clone)]
pub enum Chart {
    /// A folder of `cluster/charts`, packed.
    Own {
        /// Version of its `Chart.yaml`.
        version: String,
        /// The archive.
        archive: Vec<u8>,
        /// Whether one of its templates makes a volume.
        holds_data: bool,
    },
    /// An archive of the lock.
    Locked {
        /// The lock's version.
        version: String,
        /// Digest of the archive.
        sha256: Digest,
        /// Whether the lock says to go on without it.
        left_out: bool,
    },
}

/// What a digest needs: the archive by its own digest.
impl Serialize for Chart {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Own { archive, .. } => Digest::of(archive).serialize(s),
            Self::Locked { left_out: true, version, .. } => {
                format!("without {version}").serialize(s)
            }
            Self::Locked { sha256, .. } => sha256.serialize(s),
        }
    }
}

impl Chart {
    /// Its version.
    pub fn version(&self) -> &str {
        match self {
            Self::Own { version, .. } | Self::Locked { version, .. } => version,
        }
    }

    /// Whether the bundle is made without it.
    pub fn is_left_out(&self) -> bool {
        matches!(self, Self::Locked { left_out: true, .. })
    }

    /// Whether its templates are known to make a volume.
    pub fn holds_data(&self) -> bool {
        matches!(self, Self::Own { holds_data: true, .. })
    }

    /// The archive; `None` for one that is left out.
    ///
    /// # Errors
    /// A locked one is not in the cache.
    pub fn archive(&self, store: &Store) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Own { archive, .. } => Ok(Some(archive.clone())),
            Self::Locked { left_out: true, .. } => Ok(None),
            Self::Locked { sha256, .. } => Ok(Some(fs::read(store.object(sha256))?)),
        }
    }
}

/// The lock's charts, but for those whose name one of our own has.
pub fn locked(lock: &Lock, own: &BTreeMap<String, Chart>) -> BTreeMap<String, Chart> {
    let charts = lock.artifacts.values().filter(|a| a.kind == ArtifactKind::Chart);
    let charts = charts.filter(|a| !own.contains_key(&a.name)).map(|a| {
        let (version, sha256, left_out) = (a.version.clone(), a.sha256, a.left_out);
        (a.name.clone(), Chart::Locked { version, sha256, left_out })
    });
    charts.collect()
}

/// Every folder of `cluster/charts`, packed.
pub fn own(root: &Path, problems: &mut Problems) -> BTreeMap<String, Chart> {
    let mut charts = BTreeMap::new();
    let entries = fs::read_dir(root.join(FOLDER)).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match pack(&path, &name) {
            Ok(chart) => drop(charts.insert(name, chart)),
            Err(error) => {
                let shown = format!("{FOLDER}/{name}");
                let text = format!("{error:#}").replace(&format!("{}/", root.display()), "");
                problems.push(Problem::of_file(shown, text));
            }
        }
    }
    charts
}

fn pack(folder: &Path, name: &str) -> Result<Chart> {
    let mut files = BTreeMap::new();
    walk(folder, folder, &mut files)?;
    let version = head(&files, name)?;
    let holds_data = files.iter().any(|(path, bytes)| {
        path.starts_with("templates/") && makes_volumes(&String::from_utf8_lossy(bytes))
    });
    let mut tarball = Tarball::default();
    for (path, bytes) in files {
        tarball.file(&format!("{name}/{path}"), bytes, 0o644)?;
    }
    let mut tar = Vec::new();
    tarball.write(&mut tar, EPOCH)?;
    let mut gz = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gz.write_all(&tar)?;
    Ok(Chart::Own { version, archive: gz.finish()?, holds_data })
}

fn walk(top: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(top, &path, files)?;
        } else {
            let inside = path.strip_prefix(top)?.to_string_lossy().into_owned();
            files.insert(inside, fs::read(&path)?);
        }
    }
    Ok(())
}

/// Checks `Chart.yaml` and returns the version.
fn head(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Result<String> {
    let text = files.get("Chart.yaml").context("Chart.yaml is missing")?;
    let text = std::str::from_utf8(text).context("Chart.yaml is not UTF-8")?;
    let documents =
        parse_yaml(text).map_err(|(line, _, rule)| anyhow!("Chart.yaml:{line}: {rule}"))?;
    let chart = documents.into_iter().next().unwrap_or_default();
    ensure!(chart["apiVersion"] == "v2", "Chart.yaml: apiVersion must be v2");
    ensure!(chart["name"] == name, "Chart.yaml: name must be that of the folder, `{name}`");
    ensure!(chart["dependencies"].is_null(), "Chart.yaml: dependencies are not resolved here");
    let version = chart["version"].as_str().context("Chart.yaml: version is missing")?;
    Ok(version.to_owned())
}

/// Whether a template makes a volume. Templates are not YAML before Helm rendered them.
fn makes_volumes(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.any(|l| l == "kind: PersistentVolumeClaim" || l.starts_with("volumeClaimTemplates:"))
}

/// The CRDs in a chart's archive, its subcharts' too, sorted by file.
///
/// # Errors
/// It is no gzipped tar, or one of its CRDs is not YAML.
pub fn crds(name: &str, archive: &[u8]) -> Result<Vec<Value>> {
    let what = || format!("failed to read the archive of chart {name}");
    let mut found = BTreeMap::new();
    let mut tar = tar::Archive::new(GzDecoder::new(archive));
    for entry in tar.entries().with_context(what)? {
        let entry = entry.with_context(what)?;
        let path = entry.path().with_context(what)?.to_string_lossy().into_owned();
        if is_crd(&path) {
            let mut text = String::new();
            entry.take(FILE_MAX).read_to_string(&mut text).with_context(what)?;
            found.insert(path, text);
        }
    }
    let mut objects = Vec::new();
    for (path, text) in found {
        let parsed = parse_yaml(&text);
        let parsed = parsed.map_err(|(line, _, rule)| anyhow!("{path}:{line}: {rule}"));
        let parsed = parsed.with_context(what)?;
        objects.extend(parsed.into_iter().filter(|o| o["kind"] == "CustomResourceDefinition"));
    }
    Ok(objects)
}

/// `NAME/crds/x.yaml`, `NAME/charts/SUB/crds/y/z.yaml`.
fn is_crd(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    loop {
        match parts.next() {
            Some("charts") => drop(parts.next()),
            Some("crds") => break,
            _ => return false,
        }
    }
    [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(folder: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    const HEAD: &str = "apiVersion: v2\nname: x\nversion: 1.2.3\n";
    const CRD: &str = "kind: CustomResourceDefinition\nmetadata: {name: a}\n";

    #[test]
    fn equal_charts_are_equal_archives_whatever_their_times() {
        let pack_one = |order: &[(&str, &str)]| {
            let dir = tempfile::tempdir().unwrap();
            chart(dir.path(), order);
            match pack(dir.path(), "x").unwrap() {
                Chart::Own { archive, .. } => archive,
                Chart::Locked { .. } => unreachable!(),
            }
        };
        let files = [("Chart.yaml", HEAD), ("templates/a.yaml", "a"), (".helmignore", "z")];
        let one = pack_one(&files);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(one, pack_one(&[files[1], files[0]]));
        assert_ne!(one, pack_one(&[files[0], ("templates/a.yaml", "b")]));
        let mut tar = tar::Archive::new(GzDecoder::new(&one[..]));
        for entry in tar.entries().unwrap() {
            let header = entry.unwrap().header().clone();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
        }
    }

    #[test]
    fn crds_are_found_in_the_chart_and_its_subcharts_only() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("Chart.yaml", HEAD),
            ("crds/a.yaml", CRD),
            ("charts/sub/crds/deep/b.yaml", CRD),
            ("templates/crds/c.yaml", CRD),
            ("crds/README.md", "no"),
        ];
        chart(dir.path(), &files);
        let Chart::Own { archive, .. } = pack(dir.path(), "x").unwrap() else { unreachable!() };
        assert_eq!(crds("x", &archive).unwrap().len(), 2);
        let text = format!("{:#}", crds("x", &archive[..archive.len() / 2]).unwrap_err());
        assert!(text.starts_with("failed to read the archive of chart x"), "{text}");
    }

    #[test]
    fn a_broken_chart_says_what_is_wrong() {
        for (head, want) in [
            ("", "apiVersion must be v2"),
            ("apiVersion: v2\nname: y\nversion: 1.0.0", "name must be that of the folder, `x`"),
            ("apiVersion: v2\nname: x", "version is missing"),
            ("apiVersion: [", "Chart.yaml:"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            chart(dir.path(), &[("Chart.yaml", head)]);
            let text = format!("{:#}", pack(dir.path(), "x").unwrap_err());
            assert!(text.contains(want), "{text}");
        }
    }

    #[test]
    fn volumes_are_seen_in_templates() {
        assert!(makes_volumes("  kind: PersistentVolumeClaim\n"));
        assert!(makes_volumes("  volumeClaimTemplates:\n"));
        assert!(!makes_volumes("kind: Deployment # no PersistentVolumeClaim\n"));
    }
}
