//! The bundle as it lies in an image: an index and the files it names. Objects are JSON, so that a
//! node needs no YAML rules to know what was meant.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use node::bundle::{self, File, INDEX, SCHEMA};
use node::values::Digest;
use serde_json::{Value, json};

use super::chart::{Chart, crds};
use super::{Bundle, Release};
use crate::store::Store;

/// Every file of a packed bundle by its path in the bundle's folder.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Packs `bundle`; the archives of locked charts are taken from `store`.
///
/// # Errors
/// An archive is missing or damaged.
pub fn pack(bundle: &Bundle, store: &Store) -> Result<Files> {
    let mut packer = Packer::default();
    for (name, chart) in &bundle.charts {
        packer.chart(name, chart, store)?;
    }
    let (definitions, manifests) = split(bundle);
    for (release, objects) in &definitions {
        packer.crds(&format!("crds/release-{release}.json"), objects)?;
    }
    let mut namespaces = Vec::new();
    for (name, objects) in &bundle.namespaces {
        let file = packer.list(&format!("namespaces/{name}.json"), objects)?;
        namespaces.push(bundle::Namespace { name: name.clone(), file });
    }
    let mut waves = Vec::new();
    for (name, releases) in &bundle.waves {
        let pack = |release: &Release| packer.release(release, &manifests);
        let releases = releases.iter().map(pack).collect::<Result<_>>()?;
        waves.push(bundle::Wave { name: name.clone(), releases });
    }
    let Packer { mut files, crds, .. } = packer;
    let index =
        bundle::Bundle { schema: SCHEMA, revision: bundle.revision, crds, namespaces, waves };
    index.check().context("the packed bundle contradicts itself")?;
    files.insert(INDEX.to_owned(), serde_json::to_vec_pretty(&index)?);
    Ok(files)
}

/// Writes packed files into `folder`.
///
/// # Errors
/// A file cannot be written.
pub fn write(files: &Files, folder: &Path) -> Result<()> {
    for (path, bytes) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs_err::create_dir_all(parent)?;
        }
        fs_err::write(&path, bytes)?;
    }
    Ok(())
}

type Manifests = BTreeMap<(String, String), Vec<Value>>;

/// CRDs among the manifests of each release, and all else by release and file: CRDs come before
/// everything, as objects of other releases may need them.
fn split(bundle: &Bundle) -> (BTreeMap<String, Vec<Value>>, Manifests) {
    let (mut definitions, mut manifests) = (BTreeMap::<_, Vec<Value>>::new(), Manifests::new());
    for release in bundle.releases() {
        for (stem, objects) in &release.manifests {
            let is_crd = |o: &&Value| o["kind"] == "CustomResourceDefinition";
            let (own, rest): (Vec<_>, Vec<_>) = objects.iter().partition(is_crd);
            if !own.is_empty() {
                definitions
                    .entry(release.name.to_string())
                    .or_default()
                    .extend(own.into_iter().cloned());
            }
            if !rest.is_empty() {
                let key = (release.name.to_string(), stem.clone());
                manifests.insert(key, rest.into_iter().cloned().collect());
            }
        }
    }
    (definitions, manifests)
}

#[derive(Default)]
struct Packer {
    files: Files,
    crds: Vec<File>,
    charts: BTreeMap<String, bundle::Chart>,
}

impl Packer {
    fn add(&mut self, path: &str, bytes: Vec<u8>) -> File {
        let file = File { path: path.to_owned(), sha256: Digest::of(&bytes) };
        self.files.insert(path.to_owned(), bytes);
        file
    }

    fn list(&mut self, path: &str, objects: &[Value]) -> Result<File> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        Ok(self.add(path, serde_json::to_vec(&list)?))
    }

    fn crds(&mut self, path: &str, objects: &[Value]) -> Result<()> {
        if !objects.is_empty() {
            let file = self.list(path, objects)?;
            self.crds.push(file);
        }
        Ok(())
    }

    fn chart(&mut self, name: &str, chart: &Chart, store: &Store) -> Result<()> {
        let archive = chart.archive(store)?;
        if let Some(archive) = &archive {
            self.crds(&format!("crds/{name}.json"), &crds(name, archive)?)?;
        }
        let file = archive.map(|bytes| self.add(&format!("charts/{name}.tgz"), bytes));
        let version = chart.version().to_owned();
        self.charts.insert(name.to_owned(), bundle::Chart { name: name.to_owned(), version, file });
        Ok(())
    }

    fn release(&mut self, release: &Release, manifests: &Manifests) -> Result<bundle::Release> {
        let place = format!("{}/{}", release.namespace, release.name);
        let text = release.values.as_ref();
        let values =
            text.map(|t| self.add(&format!("values/{place}.yaml"), t.clone().into_bytes()));
        let mut files = Vec::new();
        for stem in release.manifests.keys() {
            if let Some(objects) = manifests.get(&(release.name.to_string(), stem.clone())) {
                files.push(self.list(&format!("manifests/{place}/{stem}.json"), objects)?);
            }
        }
        Ok(bundle::Release {
            name: release.name.clone(),
            namespace: release.namespace.clone(),
            chart: release.chart.as_ref().and_then(|name| self.charts.get(name).cloned()),
            values,
            manifests: files,
            after: release.after.clone(),
            stateful: release.stateful,
            timeout_seconds: release.timeout_seconds,
            healthy: release.healthy.clone(),
        })
    }
}
