//! This home applied: all of it that can be had here, twice, and the rest by dry run.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::home::Home;
use e2e::kubernetes::Cluster;
use e2e::lab::names as files;
use e2e::run::Ended;
use fs_err as fs;
use serde_json::{Value, json};

use crate::types;

/// Charts of ours that need no pod to become healthy where there is no node. The images of the others
/// are not here.
const INSTALLED: [&str; 2] = ["home-monitoring", "nfs-health"];
/// Controllers still write into new objects for this long at most.
const SETTLED: Duration = Duration::from_mins(1);
/// The record of what was applied: without it all is applied anew.
const RECORD: [&str; 4] = ["--namespace", "kube-system", "configmap", "firstboot-bundle"];

/// Object and `resourceVersion`, which every change raises.
type Versions = BTreeMap<String, String>;

/// This home without what cannot be had: releases of other charts keep their plain objects. Returns
/// how many of those there are.
fn reduced(keep: impl Fn(&str) -> bool) -> (Home, usize) {
    let home = Home::of_repository().unwrap();
    let (mut plain, mut gone) = (0, Vec::new());
    for mut release in home.releases().unwrap() {
        match release.chart() {
            Some(chart) if !keep(chart) => {
                if release.keep_objects().unwrap() {
                    plain += 1;
                } else {
                    gone.extend(release.makes());
                }
            }
            _ => release.free().unwrap(),
        }
    }
    types::add(&home, &gone);
    (home, plain)
}

/// What `kubectl get` finds of all rendered files; each object must be there.
fn versions(cluster: &Cluster, rendered: &Path) -> anyhow::Result<Versions> {
    let folder = rendered.display().to_string();
    let text = cluster.kubectl(&["get", "--recursive", "--filename", &folder, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let one = |object: &Value| {
        let meta = &object["metadata"];
        let place = meta["namespace"].as_str().unwrap_or_default();
        let what = format!("{} {} {place}/{}", object["apiVersion"], object["kind"], meta["name"]);
        Some((what, meta["resourceVersion"].as_str()?.to_owned()))
    };
    list["items"]
        .as_array()
        .context("no list")?
        .iter()
        .map(|o| one(o).context("no object"))
        .collect()
}

/// The same twice, a second apart: controllers have done what they do by themselves.
fn settled(cluster: &mut Cluster, rendered: &Path) -> Versions {
    let mut last = Versions::new();
    cluster
        .until("quiet", SETTLED, |cluster| {
            std::thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut last, versions(cluster, rendered)?);
            ensure!(before == last, "objects still change");
            Ok(last.clone())
        })
        .unwrap()
}

pub fn the_home_is_applied_and_a_second_time_changes_nothing(cluster: &mut Cluster) {
    let (home, plain) = reduced(|chart| INSTALLED.contains(&chart));
    let (_, report) = whole(home.apply(cluster).unwrap());
    let applied = crate::names(&report, "applied").len();
    assert_eq!(applied, home.releases().unwrap().len(), "{report:#}");
    let rendered = home.render("rendered").unwrap();
    let before = settled(cluster, &rendered);

    let skipped = whole(home.apply(cluster).unwrap());
    assert_eq!(skipped.1["skipped"], "unchanged");
    cluster.kubectl(&[&["delete"], &RECORD[..]].concat()).unwrap();
    let (_, again) = whole(home.apply(cluster).unwrap());
    assert_eq!(crate::names(&again, "applied").len(), applied, "{again:#}");
    assert_eq!(versions(cluster, &rendered).unwrap(), before, "the second time changed something");

    tell(&home, &before, plain);
    what_a_hand_changes_is_seen_by_diff(cluster, &home);
}

fn whole((ended, report): (Ended, Value)) -> (Ended, Value) {
    assert_eq!(ended.code(), Some(0), "{report:#}\n{}", ended.stderr());
    (ended, report)
}

/// Counts, and what was stood in for, by name.
fn tell(home: &Home, objects: &Versions, plain: usize) {
    let of = |word: &str| objects.keys().filter(|what| what.contains(word)).count();
    let permissive = types::PERMISSIVE;
    let loose: usize =
        permissive.iter().map(|t| of(&format!("/{}\" \"{}\"", t.version, t.kind))).sum();
    println!(
        "bundle: {} objects applied twice, the second time without a change: {} CRDs, {} namespaces, \
         {} NetworkPolicies, and all others of {plain} releases without their chart; with helm: {}",
        objects.len(),
        of("\"CustomResourceDefinition\""),
        of("\"Namespace\""),
        of("\"NetworkPolicy\""),
        INSTALLED.join(", "),
    );
    let names: Vec<_> = permissive.iter().map(|t| format!("{}.{}", t.plural, t.group)).collect();
    println!(
        "bundle: {loose} of them are of {} types that permissive CRDs stand in for: {}",
        names.len(),
        names.join(", ")
    );
    println!("bundle: charts that are not here: {}", home.upstream.join(", "));
}

fn what_a_hand_changes_is_seen_by_diff(cluster: &Cluster, home: &Home) {
    let (clean, found) = home.diff(cluster).unwrap();
    assert_eq!(found, json!({"changes": [], "leaving": [], "kept": []}), "{}", clean.stderr());
    assert_eq!(clean.code(), Some(0));
    let patch = r#"{"spec":{"basicAuth":{"realm":"elsewhere"}}}"#;
    let middleware = ["--namespace", "kube-system", "middlewares.traefik.io", "login"];
    cluster
        .kubectl(&[&["patch"], &middleware[..], &["--type", "merge", "--patch", patch]].concat())
        .unwrap();
    let rules = ["--namespace", "monitoring", "prometheusrules.monitoring.coreos.com", "home-nfs"];
    let patch = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"me"}}}"#;
    cluster
        .kubectl(&[&["patch"], &rules[..], &["--type", "merge", "--patch", patch]].concat())
        .unwrap();
    let (changed, found) = home.diff(cluster).unwrap();
    assert_eq!(changed.code(), Some(3));
    let fields: Vec<_> = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{}: {}", c["object"].as_str().unwrap(), c["fields"]))
        .collect();
    let domain = "home.jetzinger.com";
    assert_eq!(
        fields,
        [
            format!(
                r#"Middleware kube-system/login: ["spec.basicAuth.realm: \"elsewhere\" -> \"{domain}\""]"#
            ),
            r#"PrometheusRule monitoring/home-nfs: ["metadata.labels.app.kubernetes.io/managed-by: \"me\" -> \"Helm\""]"#
                .to_owned(),
        ]
    );
    println!("bundle: diff finds nothing after apply, and what two hands changed");
}

pub fn charts_whose_images_are_not_here_pass_a_dry_run(cluster: &Cluster) {
    let own = |chart: &str| Path::new("charts").join(chart);
    let (home, _) =
        reduced(|chart| e2e::lab::repository().join("cluster").join(own(chart)).is_dir());
    let rendered = home.render("rendered").unwrap();
    let mut waiting = BTreeMap::new();
    for release in home.releases().unwrap() {
        let Some(chart) = release.chart().filter(|chart| !INSTALLED.contains(chart)) else {
            continue;
        };
        let text = fs::read_to_string(rendered.join(&release.id).join("chart.yaml")).unwrap();
        // Helm makes those of a hook at their moment only.
        let all = text.split("\n---\n").filter(|one| !one.contains("helm.sh/hook"));
        let objects = all.filter(|one| one.lines().any(|line| line.starts_with("kind: "))).count();
        assert!(objects > 0, "{} renders nothing", release.id);
        waiting.insert(chart.to_owned(), objects);
    }
    let all = files(&e2e::lab::repository().join("cluster/charts")).unwrap();
    assert_eq!(waiting.len() + INSTALLED.len(), all.len(), "each chart of ours has a release");
    let (_, found) = home.diff(cluster).unwrap();
    let changes = found["changes"].as_array().unwrap();
    // Two of them were changed by hand before.
    let new = changes.iter().filter(|c| c["new"] == true).count();
    let refused: Vec<_> = changes.iter().filter(|c| !c["refused"].is_null()).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert_eq!(new, waiting.values().sum::<usize>(), "{changes:#?}");
    let each: Vec<_> = waiting.iter().map(|(chart, n)| format!("{chart} {n}")).collect();
    println!(
        "bundle: {new} objects of charts whose images are not here, by dry run: {}",
        each.join(", ")
    );
}
