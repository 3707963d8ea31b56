//! The bundle: everything that runs in the cluster, read from `cluster/`, rendered, checked, and
//! packed as a server's image holds it. `docs/bundle.md` says how the folders look.
//!
//! All problems are collected with those of the configuration; whoever holds a [`Bundle`] holds one
//! that keeps every rule.

mod chart;
mod folder;
mod objects;
mod order;
mod pack;
mod raw;
mod release;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use node::bundle::Gate;
use node::values::{Digest, Hostname};
use serde::Serialize;
use serde_json::Value;

pub use chart::Chart;
pub use pack::{Files, pack, write};
pub use raw::{RawBundle, RawRelease};
pub use render::{Part, render};

use crate::config::{At, CLUSTER_FILE, Document, Problem, Problems, RawCluster, suggest};
use crate::image::facts::Facts;
use crate::image::key::Key;
use crate::lock::Lock;
use folder::Folder;

/// The file whose presence says that a project has a bundle.
pub const FILE: &str = "cluster/bundle.toml";

/// The version of the code that packs: raise it when equal sources give other files.
const VERSION: u32 = 2;

/// The whole bundle, rendered and checked.
#[derive(Debug, Clone, Serialize)]
pub struct Bundle {
    /// Raised with every change.
    pub revision: u64,
    /// Objects of each namespace.
    pub namespaces: BTreeMap<Hostname, Vec<Value>>,
    /// Groups of releases in their order, each with its name; a release after those it needs.
    pub waves: Vec<(String, Vec<Release>)>,
    /// The charts that releases name.
    pub charts: BTreeMap<String, Chart>,
}

/// A release that is on.
#[derive(Debug, Clone, Serialize)]
pub struct Release {
    /// Its name.
    pub name: Hostname,
    /// Its namespace.
    pub namespace: Hostname,
    /// Its wave.
    pub wave: String,
    /// Name of its chart.
    pub chart: Option<String>,
    /// The chart's values, YAML.
    pub values: Option<String>,
    /// Plain objects by the name of their file, without endings.
    pub manifests: BTreeMap<String, Vec<Value>>,
    /// Releases that must be healthy first.
    pub after: Vec<Hostname>,
    /// Whether it holds data.
    pub stateful: bool,
    /// How long Helm waits, in seconds.
    pub timeout_seconds: u64,
    /// What must hold beyond that.
    pub healthy: Vec<Gate>,
}

impl Bundle {
    /// Reads the bundle below `root`, renders it with `facts`, and checks it; `None` for a project
    /// without [`FILE`].
    ///
    /// # Errors
    /// Every problem of every file, sorted by place.
    pub fn load(root: &Path, facts: &Facts, lock: &Lock) -> Result<Option<Self>, Problems> {
        if !root.join(FILE).exists() {
            return Ok(None);
        }
        let mut problems = Problems::default();
        let bundle = read(root, facts, lock, &mut problems);
        match bundle {
            Some(bundle) if problems.is_empty() => Ok(Some(bundle)),
            _ => Err(problems.sorted()),
        }
    }

    /// Digest of everything that packing depends on.
    ///
    /// # Errors
    /// Never in practice: no value of it is one that JSON cannot hold.
    pub fn digest(&self) -> serde_json::Result<Digest> {
        Ok(Key::of("bundle", VERSION).json("bundle", self)?.finish())
    }

    /// Every release in its order.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        self.waves.iter().flat_map(|(_, releases)| releases)
    }

    /// Charts that this bundle was made without.
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        let absent = self.charts.iter().filter(|(_, chart)| chart.is_left_out());
        absent.map(|(name, _)| name.as_str())
    }
}

/// Switches of `cluster.toml`: releases on or off in this home.
#[derive(Debug, Default)]
struct Switches {
    on: BTreeSet<String>,
    off: BTreeSet<String>,
}

fn read(root: &Path, facts: &Facts, lock: &Lock, problems: &mut Problems) -> Option<Bundle> {
    let head = Document::read::<RawBundle>(root, FILE, problems);
    let (revision, waves) =
        head.as_ref().map(|(doc, raw)| check_head(doc, raw, problems)).unwrap_or_default();
    let folder = Folder::open(root, facts, problems)?;
    let mut charts = chart::own(root, problems);
    charts.extend(chart::locked(lock, &charts));
    let releases = folder.releases(problems);
    let switches = switches(root, &releases, problems);
    let known = release::Known { waves: &waves, charts: &charts, switches: &switches };
    let checked = releases.iter().filter_map(|found| release::check(found, &known, problems));
    let checked: Vec<_> = checked.collect();
    let waves = order::waves(&waves, checked, problems);
    let used: BTreeSet<_> =
        waves.iter().flat_map(|(_, all)| all).filter_map(|r| r.chart.clone()).collect();
    charts.retain(|name, _| used.contains(name));
    let namespaces = folder.namespaces(problems);
    Some(Bundle { revision, namespaces, waves, charts })
}

/// Revision and waves.
fn check_head(doc: &Document, raw: &RawBundle, problems: &mut Problems) -> (u64, Vec<String>) {
    let revision = doc.need(None, "revision", raw.revision.as_ref(), problems);
    if let Some(at) = revision.filter(|at| *at.get() == 0) {
        problems.push(doc.problem(&at.span(), "must be at least 1"));
    }
    let waves =
        doc.need(None, "waves", raw.waves.as_ref(), problems).map_or(&[][..], |at| at.get());
    let mut seen = BTreeSet::new();
    for at in waves {
        if let Err(error) = at.get().parse::<Hostname>() {
            problems.push(doc.problem(&at.span(), error.rule));
        }
        if !seen.insert(at.get()) {
            problems.push(doc.problem(&at.span(), "stands there twice"));
        }
    }
    (revision.map_or(0, |at| *at.get()), waves.iter().map(|at| at.get().clone()).collect())
}

/// Reads `[bundle]` of the cluster's file, whose other problems are told elsewhere.
fn switches(root: &Path, releases: &[folder::Found], problems: &mut Problems) -> Switches {
    let mut elsewhere = Problems::default();
    let read = Document::read::<RawCluster>(root, CLUSTER_FILE, &mut elsewhere);
    let Some((doc, raw)) = read else { return Switches::default() };
    let Some(table) = raw.bundle.as_ref().map(At::get) else { return Switches::default() };
    let names: BTreeSet<_> = releases.iter().map(|found| found.name.as_str()).collect();
    let mut known = |list: &Option<At<Vec<At<String>>>>| {
        let all = list.as_ref().map_or(&[][..], |at| at.get());
        for at in all.iter().filter(|at| !names.contains(at.get().as_str())) {
            let hint = suggest(at.get(), names.iter().copied());
            problems.push(doc.problem(&at.span(), "is no release of the bundle").hint(hint));
        }
        all.iter().map(|at| at.get().clone()).collect::<BTreeSet<_>>()
    };
    let switches = Switches { on: known(&table.on), off: known(&table.off) };
    for name in switches.on.intersection(&switches.off) {
        let rule = format!("[bundle] has `{name}` both on and off");
        problems.push(Problem::of_file(CLUSTER_FILE, rule));
    }
    switches
}
