//! The bundle: everything that runs in the cluster, read from `cluster/`, rendered, checked, and
//! packed as a server's image holds it. `docs/bundle.md` says how the folders look.
//!
//! All problems are collected with those of the configuration; whoever holds a [`Bundle`] holds one
//! that keeps every rule.

mod capacity;
mod chart;
mod folder;
mod objects;
mod order;
mod pack;
mod raw;
mod references;
mod release;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use node::bundle::Gate;
use node::values::{Digest, Hostname};
use serde::Serialize;
use serde_json::Value;

pub use capacity::{Request, Requests};
pub use chart::Chart;
pub use pack::{Files, pack, write};
pub use raw::{RawBundle, RawRelease};
pub use references::Made;
pub use render::{Part, render};

use crate::config::{
    Alerts, At, CLUSTER_FILE, Document, Problem, Problems, Project, RawCluster, RawHome, suggest,
};
use crate::image::facts::Facts;
use crate::image::key::Key;
use crate::lock::Lock;
use crate::secrets::needs::Needs;
use folder::Folder;
use references::{Known, Placed};

/// The file whose presence says that a project has a bundle.
pub const FILE: &str = "cluster/bundle.toml";

/// Who is asked for certificates where `[bundle]` says nothing.
const ISSUER: &str = "letsencrypt-prod";

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
    /// What its chart makes that others name: a statement, no part of what is packed.
    #[serde(skip)]
    pub makes: Vec<Made>,
    /// What its chart's pods ask for, as stated.
    #[serde(skip)]
    pub requests: Requests,
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

    /// Whether the nodes of `project` have room for it.
    ///
    /// # Errors
    /// [`Problems`]: where they have not.
    pub fn check_capacity(&self, project: &Project) -> Result<(), Problems> {
        let (mut problems, mut all) = (Problems::default(), Vec::new());
        for release in self.releases() {
            all.push(release.requests);
            for (stem, objects) in &release.manifests {
                let file =
                    format!("cluster/{}/{}/manifests/{stem}.yaml", release.namespace, release.name);
                match Requests::of(objects) {
                    Ok(requests) => all.push(requests),
                    Err(rule) => problems.push(Problem::of_file(file, rule)),
                }
            }
        }
        problems.extend(capacity::check(project, &all));
        if problems.is_empty() { Ok(()) } else { Err(problems.sorted()) }
    }

    /// Objects that need no rendering: file, namespace, objects.
    fn plain(&self) -> Vec<(String, String, Vec<Value>)> {
        let namespaces = self.namespaces.iter().map(|(name, objects)| {
            (format!("cluster/{name}/{}", folder::NAMESPACE), name.to_string(), objects.clone())
        });
        let manifests = self.releases().flat_map(|r| {
            r.manifests.iter().map(move |(stem, objects)| {
                let file = format!("cluster/{}/{}/manifests/{stem}.yaml", r.namespace, r.name);
                (file, r.namespace.to_string(), objects.clone())
            })
        });
        namespaces.chain(manifests).collect()
    }

    /// Names in `objects` that neither these nor what releases state nor the Secrets of `needs` have.
    /// A release that is `rendered` must make what it states.
    fn references(
        &self,
        needs: &Needs,
        objects: &[(String, String, Vec<Value>)],
        rendered: impl Fn(&Release) -> bool,
    ) -> Vec<Problem> {
        let placed: Vec<_> = objects
            .iter()
            .flat_map(|(file, namespace, all)| {
                all.iter().map(move |object| Placed { file, namespace, object })
            })
            .collect();
        let (mut known, mut problems) = (Known::of(&placed), Vec::new());
        for release in self.releases() {
            let namespace = release.namespace.as_str();
            for made in &release.makes {
                if !rendered(release) {
                    known.add(made, namespace);
                } else if !known.has(made, namespace) {
                    let file = format!("cluster/{namespace}/{}/release.toml", release.name);
                    let rule = format!("makes has `{made}`, which its chart does not render");
                    problems.push(Problem::of_file(file, rule));
                }
            }
        }
        known.add_secrets(needs, |name| self.releases().any(|r| r.name.as_str() == name));
        problems.extend(references::check(&placed, &known));
        problems
    }

    /// The same for the bundle as rendered, charts and all.
    ///
    /// # Errors
    /// [`Problems`], or a chart rendered what is no YAML.
    pub fn check_rendered(&self, root: &Path, parts: &[Part]) -> anyhow::Result<()> {
        let needs = Needs::load(root)?;
        let of = |part: &Part| Ok((part.path.clone(), part.namespace.clone(), part.objects()?));
        let charts = parts.iter().filter(|part| part.helm.is_some());
        let rendered = charts.map(of).collect::<anyhow::Result<Vec<_>>>()?;
        // Not those of `parts`: a release whose chart is left out is none, and others name its objects.
        let objects: Vec<_> = self.plain().into_iter().chain(rendered).collect();
        let charts: BTreeSet<_> = parts.iter().filter_map(|part| part.helm.as_deref()).collect();
        let mut problems = Problems::default();
        let rendered = |release: &Release| charts.contains(release.name.as_str());
        problems.extend(self.references(&needs, &objects, rendered));
        problems.extend(self.releases().filter_map(|release| {
            let path = format!("{}/{}/chart.yaml", release.namespace, release.name);
            let (file, _, objects) = objects.iter().find(|(file, ..)| *file == path)?;
            let rule = match Requests::of(objects) {
                Ok(asked) if release.requests.cover(&asked) => return None,
                Ok(asked) => format!(
                    "the chart's pods ask for {} together and {} on each node, more than `requests` and \
                     `per_node` in release.toml say",
                    asked.together, asked.per_node
                ),
                Err(rule) => rule,
            };
            Some(Problem::of_file(file, rule))
        }));
        if problems.is_empty() { Ok(()) } else { Err(problems.sorted().into()) }
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

/// What the bundle's templates see of `[bundle]`, as `bundle`. It is no fact of every image: a change
/// concerns servers only.
#[derive(Debug, Serialize)]
struct Home {
    issuer: String,
    alerts: Alerts,
}

/// `[bundle]` of the cluster's file, whose problems are told elsewhere.
fn raw_home(root: &Path) -> Option<(Document, At<RawHome>)> {
    let mut elsewhere = Problems::default();
    let (doc, raw) = Document::read::<RawCluster>(root, CLUSTER_FILE, &mut elsewhere)?;
    Some((doc, raw.bundle?))
}

impl Home {
    fn of(raw: Option<&RawHome>) -> Self {
        let issuer = raw.and_then(|raw| raw.issuer.as_ref());
        let alerts = raw.and_then(|raw| raw.alerts.as_ref());
        Self {
            issuer: issuer.map_or_else(|| ISSUER.to_owned(), |at| at.get().to_string()),
            alerts: alerts.map(|at| *at.get()).unwrap_or_default(),
        }
    }
}

fn read(root: &Path, facts: &Facts, lock: &Lock, problems: &mut Problems) -> Option<Bundle> {
    let head = Document::read::<RawBundle>(root, FILE, problems);
    let (revision, waves) =
        head.as_ref().map(|(doc, raw)| check_head(doc, raw, problems)).unwrap_or_default();
    let raw = raw_home(root);
    let home = Home::of(raw.as_ref().map(|(_, at)| at.get()));
    let folder = Folder::open(root, facts, &home, problems)?;
    let mut charts = chart::own(root, problems);
    charts.extend(chart::locked(lock, &charts));
    let releases = folder.releases(problems);
    let switches = raw.map(|(doc, at)| switches(&doc, at.get(), &releases, problems));
    let switches = switches.unwrap_or_default();
    let known = release::Known { waves: &waves, charts: &charts, switches: &switches };
    let checked = releases.iter().filter_map(|found| release::check(found, &known, problems));
    let checked: Vec<_> = checked.collect();
    let waves = order::waves(&waves, checked, problems);
    let used: BTreeSet<_> =
        waves.iter().flat_map(|(_, all)| all).filter_map(|r| r.chart.clone()).collect();
    charts.retain(|name, _| used.contains(name));
    let namespaces = folder.namespaces(problems);
    let bundle = Bundle { revision, namespaces, waves, charts };
    // What is wrong with the list of Secrets is told with it.
    let needs = Needs::load(root).unwrap_or_default();
    problems.extend(bundle.references(&needs, &bundle.plain(), |_| false));
    Some(bundle)
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

/// Releases that `[bundle]` turns on and off.
fn switches(
    doc: &Document,
    table: &RawHome,
    releases: &[folder::Found],
    problems: &mut Problems,
) -> Switches {
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
