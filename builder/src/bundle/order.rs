//! The order of the releases: waves as `bundle.toml` lists them, and inside one each release after
//! those it needs, by name where that leaves a choice.

use std::collections::{BTreeMap, BTreeSet};

use node::values::Hostname;

use super::Release;
use super::release::Checked;
use crate::config::{Problem, Problems, suggest};

/// Puts what is on into its waves; releases that are off are gone afterwards.
pub fn waves(
    names: &[String],
    checked: Vec<Checked>,
    problems: &mut Problems,
) -> Vec<(String, Vec<Release>)> {
    check(names, &checked, problems);
    let mut open: BTreeMap<Hostname, Release> = checked
        .into_iter()
        .filter(|c| c.enabled)
        .map(|c| (c.release.name.clone(), c.release))
        .collect();
    let mut sorted: Vec<(String, Vec<Release>)> = Vec::new();
    for wave in names {
        let mut releases: Vec<Release> = Vec::new();
        loop {
            let next = open.values().find(|r| {
                let waits = |name: &Hostname| open.get(name).is_some_and(|o| o.wave == *wave);
                r.wave == *wave && !r.after.iter().any(waits)
            });
            let Some(name) = next.map(|r| r.name.clone()) else { break };
            releases.extend(open.remove(&name));
        }
        // What is left waits for itself, which `check` has told.
        open.retain(|_, release| release.wave != *wave);
        sorted.push((wave.clone(), releases));
    }
    sorted.retain(|(_, releases)| !releases.is_empty());
    sorted
}

/// What each release says it comes after.
fn check(names: &[String], checked: &[Checked], problems: &mut Problems) {
    let all: BTreeMap<&str, &Checked> =
        checked.iter().map(|c| (c.release.name.as_str(), c)).collect();
    let place = |wave: &String| names.iter().position(|name| name == wave);
    for one in checked.iter().filter(|c| c.enabled) {
        let own = place(&one.release.wave);
        for problem in &one.after {
            let name = problem.value.as_deref().unwrap_or_default().trim_matches(['"', '\'']);
            let rule = match all.get(name) {
                None => {
                    let others = all.keys().copied();
                    let hint = suggest(name, others);
                    problems.push(with(problem, "is no release of the bundle").hint(hint));
                    continue;
                }
                Some(other) if !other.enabled => "is a release that is not enabled",
                // A wave that does not exist was told of already.
                Some(other) if own.is_some() && place(&other.release.wave) > own => {
                    "is in a later wave"
                }
                Some(other) if reaches(&all, other, one) => "waits for this one in turn",
                Some(_) => continue,
            };
            problems.push(with(problem, rule));
        }
    }
}

fn with(problem: &Problem, rule: &str) -> Problem {
    Problem { rule: rule.to_owned(), ..problem.clone() }
}

/// Whether `from` waits for `to`, directly or by way of others.
fn reaches(all: &BTreeMap<&str, &Checked>, from: &Checked, to: &Checked) -> bool {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.release.name.as_str()];
    while let Some(name) = open.pop() {
        if name == to.release.name.as_str() {
            return true;
        }
        if seen.insert(name) {
            let next = all.get(name).into_iter().flat_map(|c| &c.release.after);
            open.extend(next.map(Hostname::as_str));
        }
    }
    false
}
