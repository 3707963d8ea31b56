//! The project's configuration: read, joined and checked before anything is done with it.
//!
//! Each kind of file has two sets of types. The raw ones (`raw_*`) are the TOML as written: every
//! field may be missing, unknown keys are refused, every value knows its place in the file. The
//! checked ones ([`Image`], [`Profile`], [`Cluster`]) are made from them here and nowhere else, so
//! that whoever holds one holds a value that keeps every rule. All problems of all files are
//! collected ([`Problems`]) and told together.

mod cluster;
mod common;
mod document;
mod entries;
mod explain;
mod image;
mod network;
mod nodes;
mod problem;
mod profile;
mod proxmox;
mod raw_cluster;
mod raw_image;
mod raw_profile;
mod syntax;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use node::values::Hostname;
use serde::de::DeserializeOwned;

pub use cluster::{Birth, Cluster, Nfs, NodeSpec, Rollout};
pub use document::{At, Document};
pub use image::{Esp, Image, Sources};
pub use network::Network;
pub use problem::{Problem, Problems, nearest, suggest};
pub use profile::{CPU, DISK_MIN, K3sSettings, Profile, Upgrades, Vm, memory_min};
pub use proxmox::{Place, Proxmox};
pub use raw_cluster::{Alerts, FlannelBackend, RawCluster, RawHome, SecretsEncryption};
pub use raw_image::RawImage;
pub use raw_profile::RawProfile;

/// Where the cluster's facts stand, relative to the project folder.
pub const CLUSTER_FILE: &str = "cluster/cluster.toml";

/// Everything the project folder says, checked.
#[derive(Debug)]
pub struct Project {
    /// The project folder.
    pub root: PathBuf,
    /// Base operating systems by name.
    pub images: BTreeMap<String, Image>,
    /// Profiles that have a role, by name, with what they extend.
    pub profiles: BTreeMap<String, Profile>,
    /// The cluster.
    pub cluster: Cluster,
}

impl Project {
    /// Reads and checks every file below `root`.
    ///
    /// # Errors
    /// Every problem of every file, sorted by place.
    pub fn load(root: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let images = load_images(root, &mut problems);
        let image_names: BTreeSet<_> = images.keys().map(String::as_str).collect();
        let sources = read_all(root, "profiles", &mut problems);
        let profiles = profile::check_all(root, &sources, &image_names, &mut problems);
        let cluster = Document::read(root, CLUSTER_FILE, &mut problems).and_then(|(doc, raw)| {
            let known = known(&sources, &profiles);
            cluster::check(&doc, &raw, &known, &mut problems)
        });
        match cluster {
            Some(cluster) if problems.is_empty() => {
                let images = images.into_iter().filter_map(|(n, image)| Some((n, image?)));
                Ok(Self { root: root.to_owned(), images: images.collect(), profiles, cluster })
            }
            _ => Err(problems.sorted()),
        }
    }

    /// A profile by name.
    ///
    /// # Errors
    /// No such profile, with the nearest name.
    pub fn profile(&self, name: &str) -> Result<&Profile, Problems> {
        self.profiles.get(name).ok_or_else(|| {
            let known = self.profiles.keys().map(String::as_str);
            Problems::usage(format!("unknown profile `{name}`"), suggest(name, known))
        })
    }

    /// The image a profile stands on.
    pub fn image_of(&self, profile: &Profile) -> Option<&Image> {
        self.images.get(&profile.image)
    }
}

impl Profile {
    /// The resolved profile as JSON: for people, golden files and keys.
    ///
    /// # Errors
    /// Never in practice: the type has no value that JSON cannot hold.
    pub fn resolved_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// What the cluster's file may refer to.
fn known<'a>(
    sources: &'a BTreeMap<String, Option<profile::Source>>,
    profiles: &'a BTreeMap<String, Profile>,
) -> nodes::Known<'a> {
    let role = |source: &Option<profile::Source>| {
        source.as_ref().and_then(|(_, raw)| raw.role.as_ref()).map(|at| *at.get())
    };
    let names = sources.iter().map(|(name, source)| (name.as_str(), role(source))).collect();
    let broken = sources
        .iter()
        .filter(|(name, source)| {
            let read = source.as_ref().map(|(doc, raw)| (doc, raw));
            // A role that stands there, but wrong, is not a role left out.
            let has_role = read.is_none_or(|(doc, raw)| {
                raw.role.is_some() || raw.extends.is_some() || doc.missing("role").is_none()
            });
            has_role && !profiles.contains_key(*name)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    nodes::Known { names, profiles, broken }
}

fn load_images(root: &Path, problems: &mut Problems) -> BTreeMap<String, Option<Image>> {
    let sources = read_all::<RawImage>(root, "images", problems);
    let names: BTreeSet<_> = sources.keys().cloned().collect();
    let mut images = BTreeMap::new();
    for (name, source) in sources {
        let image = source
            .and_then(|(doc, raw)| image::check(root, (&name, &names), (&doc, &raw), problems));
        images.insert(name, image);
    }
    images
}

/// Every `*.toml` in a folder by its name without `.toml`; `None` for one that is no TOML.
fn read_all<T: DeserializeOwned>(
    root: &Path,
    folder: &str,
    problems: &mut Problems,
) -> BTreeMap<String, Option<(Document, T)>> {
    let mut files = BTreeMap::new();
    let Ok(entries) = fs_err::read_dir(root.join(folder)) else {
        problems.push(Problem::of_file(folder, "is missing"));
        return files;
    };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.collect();
    names.sort();
    for file in names.iter().filter(|name| !name.starts_with('.')) {
        let Some(name) = file.strip_suffix(".toml") else { continue };
        let path = format!("{folder}/{file}");
        if let Err(error) = file_name(folder, name) {
            problems.push(Problem::of_file(&path, format!("has a name that {error}")));
        }
        files.insert(name.to_owned(), Document::read(root, &path, problems));
    }
    files
}

/// File names become parts of image-ids and of paths; only an image's may carry a version's dot.
fn file_name(folder: &str, name: &str) -> Result<(), node::values::Invalid> {
    let name = if folder == "images" { name.replace('.', "-") } else { name.to_owned() };
    name.parse::<Hostname>().map(|_| ())
}
