//! The bundle on a real cluster, by the code that servers run at boot: everything of this home that can
//! be had here, twice; the rest by dry run; a small home whose releases break and are cut short.
//!
//! Charts of others cannot be downloaded here, so their types are stood in for by permissive CRDs, and
//! each says its name: of objects of such types the API checks the name and place alone.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

mod faults;
mod secrets;
mod steady;
mod types;

use std::time::Instant;

use e2e::kubernetes::{Cluster, NODE};
use serde_json::Value;

/// Reports of releases that ended in `outcome`: name and detail.
fn ended<'a>(report: &'a Value, outcome: &str) -> Vec<(&'a str, &'a str)> {
    let text = |value: &'a Value| value.as_str().unwrap_or_default(); // an empty detail is left out
    let all = report["releases"].as_array().unwrap().iter();
    let fit = all.filter(|r| r["outcome"] == *outcome);
    fit.map(|r| (text(&r["release"]), text(&r["detail"]))).collect()
}

/// Their names alone.
fn names<'a>(report: &'a Value, outcome: &str) -> Vec<&'a str> {
    ended(report, outcome).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_bundle_on_a_real_cluster() {
    let start = Instant::now();
    let mut cluster = Cluster::without_nodes().unwrap();
    types::what_render_tells_charts_is_what_the_server_serves(&cluster);
    // Without a node no pod runs: what is applied here is what the API makes of it.
    steady::the_home_is_applied_and_a_second_time_changes_nothing(&mut cluster);
    println!("bundle: the home was applied after {:.0?}", start.elapsed());
    steady::charts_whose_images_are_not_here_pass_a_dry_run(&cluster);
    secrets::the_encrypted_values_become_secrets(&cluster);
    println!("bundle: dry runs and Secrets after {:.0?}", start.elapsed());
    // What is left of the home must not run on the node, whose disk is this host's.
    faults::another_home_takes_over(&mut cluster);
    cluster.add_node(NODE).unwrap();
    faults::a_cut_installation_is_taken_up(&mut cluster);
    faults::a_broken_release_keeps_its_data_and_stops_who_needs_it(&mut cluster);
    faults::a_cut_upgrade_is_taken_up(&mut cluster);
    println!("bundle: all after {:.0?}", start.elapsed());
}
