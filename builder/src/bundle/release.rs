//! One release: from `release.toml` as written to a checked one.

use std::collections::BTreeMap;

use node::bundle::Gate;

use super::capacity::{Request, Requests};
use super::chart::Chart;
use super::folder::Found;
use super::objects::{holds_data, title};
use super::raw::{RawGate, RawRelease, RawRequests};
use super::references::Made;
use super::{Release, Switches};
use crate::cli::duration;
use crate::config::{At, Document, Problem, Problems, suggest};

/// Helm's wait where a release says nothing, in seconds: an image of a GiB over a home's line.
const TIMEOUT: u64 = 600;

/// Kinds that firstboot knows when to call healthy, with their API. `firstboot/src/bundle/gate.rs`
/// has the rules.
const KINDS: [(&str, &str); 6] = [
    ("Deployment", "apps/v1"),
    ("StatefulSet", "apps/v1"),
    ("DaemonSet", "apps/v1"),
    ("Job", "batch/v1"),
    ("PersistentVolumeClaim", "v1"),
    ("Service", "v1"),
];

/// What a release may refer to.
#[derive(Debug)]
pub struct Known<'a> {
    /// Waves in their order.
    pub waves: &'a [String],
    /// Charts by name.
    pub charts: &'a BTreeMap<String, Chart>,
    /// What this home turns on and off.
    pub switches: &'a Switches,
}

/// A checked release with the places of what it needs, for messages about their order.
#[derive(Debug)]
pub struct Checked {
    /// The release.
    pub release: Release,
    /// Whether it is on.
    pub enabled: bool,
    /// One problem, without its rule, for each entry of `after`.
    pub after: Vec<Problem>,
}

/// Checks `found`; `None` when too little of it stands to go on.
pub fn check(found: &Found, known: &Known<'_>, problems: &mut Problems) -> Option<Checked> {
    let (doc, raw) = found.file.as_ref()?;
    let wave = doc.need(None, "wave", raw.wave.as_ref(), problems);
    if let Some(at) = wave.filter(|at| !known.waves.contains(at.get())) {
        let hint = suggest(at.get(), known.waves.iter().map(String::as_str));
        problems.push(doc.problem(&at.span(), "is no wave of cluster/bundle.toml").hint(hint));
    }
    check_chart(doc, raw, found, known, problems);
    let stateful = raw.stateful.as_ref().is_some_and(|at| *at.get());
    if !stateful {
        check_data(raw, found, known, problems);
    }
    let after = raw.after.as_ref().map_or(&[][..], |at| at.get());
    let timeout = raw.timeout.as_ref().map(|at| seconds(doc, at, problems));
    let makes = raw.makes.as_ref().map_or(&[][..], |at| at.get());
    let makes = makes.iter().filter_map(|at| made(doc, at, problems)).collect();
    let requests = Requests {
        together: request(doc, raw.requests.as_ref(), problems),
        per_node: request(doc, raw.per_node.as_ref(), problems),
    };
    let gates = raw.healthy.as_ref().map_or(&[][..], |at| at.get());
    let healthy = gates.iter().filter_map(|at| gate(doc, at, problems)).collect();
    let (on, off) = (&known.switches.on, &known.switches.off);
    let usually = raw.enabled.as_ref().is_none_or(|at| *at.get());
    Some(Checked {
        enabled: (usually || on.contains(&found.name)) && !off.contains(&found.name),
        after: after.iter().map(|at| doc.problem(&at.span(), "")).collect(),
        release: Release {
            name: found.name.parse().ok()?,
            namespace: found.namespace.clone(),
            wave: wave?.get().clone(),
            chart: raw.chart.as_ref().map(|at| at.get().clone()),
            values: found.values.clone(),
            manifests: found.manifests.clone(),
            after: after.iter().filter_map(|at| at.get().parse().ok()).collect(),
            stateful,
            makes,
            requests,
            timeout_seconds: timeout.unwrap_or(TIMEOUT),
            healthy,
        },
    })
}

fn check_chart(
    doc: &Document,
    raw: &RawRelease,
    found: &Found,
    known: &Known<'_>,
    problems: &mut Problems,
) {
    match &raw.chart {
        Some(at) if !known.charts.contains_key(at.get()) => {
            let hint = suggest(at.get(), known.charts.keys().map(String::as_str));
            let rule = "is neither a folder of cluster/charts nor a chart in builder.lock";
            problems.push(doc.problem(&at.span(), rule).hint(hint));
        }
        None if found.values.is_some() => {
            let rule = "has values but release.toml names no chart";
            problems.push(Problem::of_file(&found.path, rule));
        }
        None if found.manifests.is_empty() => {
            let rule = "has neither a chart nor manifests";
            problems.push(Problem::of_file(&found.path, rule));
        }
        _ => {}
    }
}

/// What holds data must say so, or a bundle without it would remove the data with it.
fn check_data(raw: &RawRelease, found: &Found, known: &Known<'_>, problems: &mut Problems) {
    let hint = "write `stateful = true` into its release.toml";
    let mut says = |path: String, what: &str| {
        let rule = format!("{what} holds data, but the release is not stateful");
        problems.push(Problem::of_file(path, rule).hint(hint.to_owned()));
    };
    for (stem, objects) in &found.manifests {
        for object in objects.iter().filter(|object| holds_data(object)) {
            says(format!("{}/manifests/{stem}.yaml", found.path), &title(object));
        }
    }
    let chart = raw.chart.as_ref().and_then(|at| known.charts.get_key_value(at.get()));
    if let Some((name, _)) = chart.filter(|(_, chart)| chart.holds_data()) {
        says(format!("{}/release.toml", found.path), &format!("chart {name}"));
    }
}

fn seconds(doc: &Document, at: &At<String>, problems: &mut Problems) -> u64 {
    match duration(at.get()) {
        Ok(time) => time.as_secs(),
        Err(rule) => {
            problems.push(doc.problem(&at.span(), rule));
            1
        }
    }
}

fn request(doc: &Document, at: Option<&At<RawRequests>>, problems: &mut Problems) -> Request {
    let Some(at) = at else { return Request::default() };
    let cpu = doc.need(Some(&at.span()), "cpu", at.get().cpu.as_ref(), problems);
    let memory = doc.need(Some(&at.span()), "memory", at.get().memory.as_ref(), problems);
    let (Some(cpu), Some(memory)) = (cpu, memory) else { return Request::default() };
    Request::parse(cpu.get(), memory.get()).unwrap_or_else(|rule| {
        problems.push(doc.problem(&at.span(), rule));
        Request::default()
    })
}

fn made(doc: &Document, at: &At<String>, problems: &mut Problems) -> Option<Made> {
    let parsed = at.get().parse::<Made>();
    parsed.map_err(|rule| problems.push(doc.problem(&at.span(), rule))).ok()
}

fn gate(doc: &Document, at: &At<RawGate>, problems: &mut Problems) -> Option<Gate> {
    let (raw, table) = (at.get(), Some(&at.span()));
    let kind = doc.need(table, "kind", raw.kind.as_ref(), problems);
    let name = doc.need(table, "name", raw.name.as_ref(), problems);
    let within = doc.need(table, "within", raw.within.as_ref(), problems);
    let within = within.map(|at| seconds(doc, at, problems));
    let kind = kind?;
    let api = match (&raw.api, KINDS.iter().find(|(k, _)| k == kind.get())) {
        (Some(api), _) => api.get().clone(),
        (None, Some((_, api))) => (*api).to_owned(),
        (None, None) => {
            let hint = suggest(kind.get(), KINDS.iter().map(|(kind, _)| *kind));
            let rule = "is a kind that needs `api` and `condition`";
            problems.push(doc.problem(&kind.span(), rule).hint(hint));
            return None;
        }
    };
    let own_rule = KINDS.contains(&(kind.get(), &api));
    if raw.condition.is_none() && !own_rule {
        problems.push(doc.problem(&kind.span(), "needs a `condition` that must be True"));
    }
    Some(Gate {
        api,
        kind: kind.get().clone(),
        name: name?.get().clone(),
        condition: raw.condition.as_ref().map(|at| at.get().clone()),
        within_seconds: within?,
    })
}
