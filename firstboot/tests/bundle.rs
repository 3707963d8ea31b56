//! The bundle's step with a stub `helm` and an API server that keeps objects: every branch of the
//! runner, and a power cut between every two writes.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod api;
mod home;
mod node;

use ::node::bundle::Gate;
use ::node::failpoint::STOPPED;
use ::node::report::{ReleaseOutcome, State};
use home::{Home, LEASE, RECORD, Spec};
use serde_json::{Value, json};

const THREE: [Spec<'static>; 3] = [("db", "1", &[]), ("web", "1", &["db"]), ("other", "1", &[])];

#[test]
fn a_bundle_is_applied_once_and_an_unchanged_one_costs_one_question() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    assert_eq!(home.run(), 0);
    assert!(home.outcomes().iter().all(|(_, o)| *o == ReleaseOutcome::Applied));
    assert_eq!(home.helm("apps.web"), "1 deployed\n");
    assert!(home.api.get("/api/v1/namespaces/apps/configmaps/web-1").is_some());
    let call = home.node.calls().into_iter().find(|c| c.starts_with("helm upgrade")).unwrap();
    assert!(call.contains("--wait") && call.contains("--skip-crds"), "{call}");
    // What a hand took is helm's again (traps H2).
    assert!(call.contains("--server-side=true --force-conflicts"), "{call}");
    let before = home.state();
    home.api.log();
    assert_eq!(home.run(), 0);
    assert_eq!((home.state(), home.helm_calls()), (before, 0));
    let asked: Vec<_> = home.api.log().into_iter().filter(|l| l.contains("bundle")).collect();
    assert_eq!(asked, [format!("GET {RECORD}")]);
    assert_eq!(home.node.report().bundle.unwrap().skipped.as_deref(), Some("unchanged"));
    assert_eq!(home.node.run(&["status"]).code, 0);
}

#[test]
fn a_failed_release_stops_only_its_dependents_is_named_and_is_tried_again() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    home.node.put("fail-db", "");
    assert_eq!(home.run(), 1);
    let (outcome, cause) = home.outcome("apps/db");
    assert_eq!(outcome, ReleaseOutcome::Failed);
    assert!(cause.contains("Error: no such image"), "{cause}");
    let blocked = (ReleaseOutcome::Blocked, "not tried: needs db, which is failed".to_owned());
    assert_eq!(home.outcome("apps/web"), blocked);
    assert_eq!(home.outcome("apps/other").0, ReleaseOutcome::Applied);
    let report = home.node.report();
    let failure = report.failure.unwrap();
    assert_eq!((report.state, failure.step.as_str()), (State::Ready, "bundle"));
    assert!(failure.cause.contains("apps/db, apps/web; apps/db: helm failed"), "{}", failure.cause);
    assert_eq!(home.record()["apps/db"]["state"], "failed");
    let node = home.api.get("/api/v1/nodes/k3s-master").unwrap();
    assert_eq!(node["metadata"]["labels"]["node.homelab/image-id"], "0123456789ab");
    assert_eq!(home.node.run(&["status"]).code, 0, "the node is sound");

    fs_err::remove_file(home.node.path("fail-db")).unwrap();
    home.helm_calls();
    assert_eq!(home.run(), 0);
    assert_eq!(home.helm_calls(), 2, "what stands is not touched");
    assert_eq!(home.outcome("apps/other").0, ReleaseOutcome::Satisfied);
    assert_eq!(home.helm("apps.db"), "1 failed\n2 deployed\n");
}

#[test]
fn a_lower_revision_changes_nothing_and_says_so() {
    let home = Home::new();
    home.bundle(5, &THREE, |_| {});
    assert_eq!(home.run(), 0);
    let before = home.state();
    home.bundle(4, &[("web", "old", &[])], |_| {});
    assert_eq!(home.run(), 0);
    assert_eq!(home.state(), before);
    let why = home.node.report().bundle.unwrap().skipped.unwrap();
    assert_eq!(why, "the cluster has revision 5, this image has 4: a lower one changes nothing");
}

#[test]
fn what_leaves_the_bundle_goes_unless_it_holds_data() {
    let home = Home::new();
    home.bundle(1, &[("db", "1", &[]), ("web", "1", &[]), ("vol", "1", &[])], |_| {});
    assert_eq!(home.run(), 0);
    let claim = "/api/v1/namespaces/apps/persistentvolumeclaims/v";
    let labels = json!({"app.kubernetes.io/instance": "vol"});
    home.api.put(claim, json!({"metadata": {"name": "v", "labels": labels}}));
    home.bundle(2, &[("new", "1", &[])], |_| {});
    // Nothing is removed while something is not there.
    home.node.put("fail-new", "");
    assert_eq!(home.run(), 1);
    assert_eq!(home.helm("apps.web"), "1 deployed\n");
    fs_err::remove_file(home.node.path("fail-new")).unwrap();
    assert_eq!(home.run(), 0);
    assert_eq!(home.outcome("apps/web").0, ReleaseOutcome::Removed);
    assert_eq!(
        (home.helm("apps.web"), home.helm("apps.db")),
        (String::new(), "1 deployed\n".into())
    );
    assert!(home.api.get("/api/v1/namespaces/apps/configmaps/web-1").is_none());
    assert!(home.api.get("/api/v1/namespaces/apps/configmaps/db-1").is_some());
    assert_eq!(home.outcome("apps/db").0, ReleaseOutcome::Kept);
    let (outcome, why) = home.outcome("apps/vol");
    assert!(outcome == ReleaseOutcome::Kept && why.contains("the volume v belongs to it"), "{why}");
    let ids: Vec<_> = home.record().as_object().unwrap().keys().cloned().collect();
    assert_eq!(ids, ["apps/db", "apps/new", "apps/vol"], "and stays known");
}

#[test]
fn objects_that_a_release_has_no_more_go_but_never_of_one_with_data() {
    let home = Home::new();
    home.bundle(1, &[("db", "1", &[]), ("web", "1", &[])], |_| {});
    assert_eq!(home.run(), 0);
    home.bundle(2, &[("db", "2", &[]), ("web", "2", &[])], |_| {});
    assert_eq!(home.run(), 0);
    let there =
        |name: &str| home.api.get(&format!("/api/v1/namespaces/apps/configmaps/{name}")).is_some();
    assert_eq!(
        [there("web-1"), there("web-2"), there("db-1"), there("db-2")],
        [false, true, true, true]
    );
}

#[test]
fn what_an_interrupted_helm_left_is_recovered_without_uninstalling() {
    let rolled_back = "1 superseded\n2 failed\n3 superseded\n4 deployed\n";
    for (name, left, want) in [
        ("db", "1 pending-install\n", "1 deployed\n"),
        // It holds data: a rollback could take volumes along.
        ("db", "1 deployed\n2 pending-upgrade\n", "1 superseded\n2 deployed\n"),
        ("db", "1 failed\n2 pending-upgrade\n", "1 failed\n2 deployed\n"),
        ("web", "1 deployed\n2 pending-upgrade\n", rolled_back),
        (
            "db",
            "1 superseded\n2 deployed\n3 failed\n",
            "1 superseded\n2 superseded\n3 failed\n4 deployed\n",
        ),
    ] {
        let home = Home::new();
        home.bundle(1, &[(name, "1", &[])], |_| {});
        home.node.put(&format!("helm/apps.{name}"), left);
        assert_eq!(home.run(), 0, "{left}");
        assert_eq!(home.helm(&format!("apps.{name}")), want, "{left}");
        let calls = home.node.calls();
        assert!(!calls.iter().any(|call| call.starts_with("helm uninstall")), "{calls:?}");
    }
    let home = Home::new();
    home.bundle(1, &[("db", "1", &[])], |_| {});
    home.node.put("helm/apps.db", "1 uninstalling\n");
    assert_eq!(home.run(), 1);
    assert!(home.outcome("apps/db").1.contains("look at it by hand"));
}

#[test]
fn a_gate_that_does_not_hold_fails_its_release_with_what_was_seen() {
    let home = Home::new();
    let gate = |within_seconds| Gate {
        api: "apps/v1".into(),
        kind: "Deployment".into(),
        name: "web".into(),
        condition: None,
        within_seconds,
    };
    home.bundle(1, &[("web", "1", &[])], |all| all[0].healthy = vec![gate(1)]);
    assert_eq!(home.run(), 1);
    let (_, why) = home.outcome("apps/web");
    assert!(why.starts_with("Deployment web is not healthy: it is not there"), "{why}");
    let status = json!({"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": 1});
    let object = json!({"metadata": {"name": "web", "generation": 1}, "spec": {"replicas": 1},
        "status": status, "apiVersion": "apps/v1", "kind": "Deployment"});
    home.api.put("/apis/apps/v1/namespaces/apps/deployments/web", object);
    assert_eq!(home.run(), 0);
}

#[test]
fn a_refused_namespace_stops_its_own_releases_and_a_refused_crd_the_bundle() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    home.api.refuse("/api/v1/namespaces/apps", 422, "no such label");
    assert_eq!(home.run(), 1);
    let (outcome, why) = home.outcome("apps/db");
    assert_eq!(outcome, ReleaseOutcome::Failed);
    assert!(why.contains("failed to apply Namespace apps: no such label"), "{why}");
    home.api.allow("/api/v1/namespaces/apps");
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org";
    home.api.refuse(crd, 422, "bad schema");
    assert_eq!(home.run(), 1);
    let failure = home.node.report().failure.unwrap();
    assert!(failure.cause.contains("CustomResourceDefinition widgets.example.org: bad schema"));
    // The Lease was given back all the same.
    assert_eq!(home.api.get(LEASE).unwrap()["spec"]["holderIdentity"], Value::Null);
}

#[test]
fn another_servers_work_is_waited_for_and_a_dead_one_is_followed() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    let lease = |age: i64| {
        let at =
            k8s_openapi::jiff::Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(age);
        json!({"metadata": {"name": "firstboot-bundle", "namespace": "kube-system"}, "spec": {
            "holderIdentity": "k3s-master-02", "leaseDurationSeconds": 60,
            "renewTime": format!("{at:.6}")}})
    };
    home.api.put(LEASE, lease(10));
    assert_eq!(home.run(), 1);
    let failure = home.node.report().failure.unwrap();
    assert!(
        failure.cause.contains("k3s-master-02 holds the lease firstboot-bundle"),
        "{}",
        failure.cause
    );
    assert_eq!(home.helm_calls(), 0);
    home.api.put(LEASE, lease(61));
    assert_eq!(home.run(), 0);
}

#[test]
fn a_missing_chart_is_left_out_with_what_needs_it() {
    let home = Home::new();
    home.bundle(1, &THREE, |all| all[0].chart.as_mut().unwrap().file = None);
    assert_eq!(home.run(), 0);
    let left = ReleaseOutcome::LeftOut;
    let want = [("db", left), ("web", left), ("other", ReleaseOutcome::Applied)];
    assert_eq!(home.outcomes(), want.map(|(n, o)| (format!("apps/{n}"), o)));
    assert_eq!(home.outcome("apps/web").1, "needs db, which is left out");
}

#[test]
fn a_damaged_file_of_the_bundle_is_named() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    home.node.put("usr/lib/firstboot/bundle/charts/web.tgz", "half");
    assert_eq!(home.run(), 1);
    assert!(home.outcome("apps/web").1.contains("charts/web.tgz is damaged"));
    home.node.put("usr/lib/firstboot/bundle/bundle.json", "{");
    home.beat();
    assert_eq!(home.node.run(&["cluster"]).code, 1);
    assert!(home.node.report().failure.unwrap().cause.contains("is not an index of a bundle"));
}

#[test]
fn an_agent_never_asks_for_a_bundle_even_if_it_had_one() {
    let home = Home::new();
    home.bundle(1, &THREE, |_| {});
    let agent =
        home.node.get("usr/lib/firstboot/node.json").unwrap().replace("\"server\"", "\"agent\"");
    home.node.put("usr/lib/firstboot/node.json", &agent);
    home.node.put("var/lib/rancher/k3s/agent/kubelet.kubeconfig", &home.api.kubeconfig());
    home.api.log();
    assert_eq!(home.run(), 0);
    assert!(home.api.log().iter().all(|line| !line.contains("bundle")));
    assert_eq!((home.node.report().bundle, home.helm_calls()), (None, 0));
}

/// The end state of a change from one bundle to the next, without a cut.
fn changed(home: &Home) {
    home.bundle(1, &[("db", "1", &[]), ("web", "1", &["db"]), ("gone", "1", &[])], |_| {});
    assert_eq!(home.run(), 0);
    home.bundle(2, &[("db", "2", &[]), ("web", "1", &["db"]), ("new", "1", &["web"])], |_| {});
}

/// Every how many points a cut is made: all with `E2E=full`, else those of this commit's turn.
fn turn() -> (u64, usize) {
    const APART: u64 = 6;
    if std::env::var("E2E").is_ok_and(|v| v == "full") {
        return (1, 1);
    }
    let head = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().unwrap();
    let first = head.stdout.first().map_or(0, |byte| u64::from(*byte));
    (first % APART + 1, APART as usize)
}

#[test]
fn a_power_cut_at_any_write_ends_in_the_same_state() {
    let home = Home::new();
    changed(&home);
    let before = home.save();
    assert_eq!(home.run(), 0);
    let want = home.state();
    let (first, apart) = turn();
    let mut cuts = 0;
    for point in (first..).step_by(apart) {
        home.restore(&before);
        home.beat();
        let ran = home.node.run_stopping(&["cluster"], point);
        if ran.code != STOPPED {
            assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
            break;
        }
        assert_eq!(home.run(), 0, "point {point}");
        assert_eq!(home.state(), want, "point {point}");
        cuts += 1;
    }
    eprintln!("bundle: {cuts} power cuts, each {apart}th from {first}");
    assert!(cuts * apart > 40, "{cuts} cuts");
}

#[test]
fn a_power_cut_inside_helm_is_recovered_by_the_next_boot() {
    // One holds data, so its cut revision is forgotten, the other is new.
    for (release, want) in [("db", "1 superseded\n2 deployed\n"), ("new", "1 deployed\n")] {
        let home = Home::new();
        changed(&home);
        home.node.put(&format!("cut-{release}"), "");
        home.beat();
        assert_eq!(home.node.run_killed(&["cluster"]), 9);
        assert_eq!(home.record()[format!("apps/{release}")]["state"], "applying");
        assert_eq!(home.run(), 0);
        assert_eq!(home.helm(&format!("apps.{release}")), want);
        assert_eq!(home.record()[format!("apps/{release}")]["state"], "deployed");
    }
}
