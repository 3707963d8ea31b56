//! The join secret from each of its places.

use super::*;
use crate::steps::fix_of;
use crate::testing;
use node::report::Outcome;

const TOKEN: &str = "s3cret-token";

fn join(node: &str) -> Join {
    Join {
        node: node.parse().unwrap(),
        token: TOKEN.into(),
        agent_token: None,
        cluster_id: None,
        snapshot_key: None,
        bootstrap: Bootstrap::No,
    }
}

fn server_join() -> Join {
    Join {
        agent_token: Some("agents".into()),
        cluster_id: Some("home-1".parse().unwrap()),
        snapshot_key: Some("ab".repeat(32)),
        bootstrap: Bootstrap::Once,
        ..join("k3s-master")
    }
}

fn give(boot: &Boot, join: &Join) {
    let data = join.encode().unwrap();
    node::files::ensure_file(&payload(&boot.machine), &data, 0o666).unwrap();
}

#[test]
fn absent_and_incomplete_wait_and_say_the_command() {
    let (_dir, mut boot) = testing::agent();
    let done = apply(&mut boot).unwrap();
    assert_eq!((done.outcome, done.detail.as_str()), (Outcome::Waiting, "no join secret"));
    assert!(done.fix.contains("`builder node enroll k3s-worker-01`"), "{}", done.fix);
    let data = join("k3s-worker-01").encode().unwrap();
    node::files::ensure_file(&payload(&boot.machine), &data[..data.len() - 1], 0o666).unwrap();
    let done = apply(&mut boot).unwrap();
    assert_eq!(done.outcome, Outcome::Waiting);
    assert!(done.detail.starts_with("the join secret is incomplete: "), "{}", done.detail);
}

#[test]
fn a_good_one_is_stored_and_its_payload_goes() {
    let (_dir, mut boot) = testing::agent();
    give(&boot, &join("k3s-worker-01"));
    assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Applied);
    assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), format!("{TOKEN}\n"));
    assert_eq!(fs_err::metadata(boot.path(AGENT_TOKEN)).unwrap().mode() & 0o777, 0o600);
    assert!(!payload(&boot.machine).exists() && (STEP.satisfied)(&boot).unwrap());
    give(&boot, &join("k3s-worker-01"));
    assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
    assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
}

#[test]
fn a_server_keeps_both_tokens_and_the_permission() {
    let (_dir, mut boot) = testing::server();
    let mut secret = server_join();
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert_eq!(testing::get(&boot, SERVER_TOKEN).unwrap(), format!("{TOKEN}\n"));
    assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), "agents\n");
    assert_eq!(testing::get(&boot, CLUSTER_ID).unwrap(), "home-1\n");
    let permission = testing::get(&boot, origin::PERMISSION).unwrap();
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert_eq!(testing::get(&boot, origin::PERMISSION).unwrap(), permission);
    secret.bootstrap = Bootstrap::No;
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert!(!boot.path(origin::PERMISSION).exists());
}

#[test]
fn before_the_first_join_a_newer_token_takes_the_old_ones_place() {
    let (_dir, mut boot) = testing::agent();
    testing::put(&boot, AGENT_TOKEN, "expired\n");
    give(&boot, &join("k3s-worker-01"));
    assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Applied);
    assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), format!("{TOKEN}\n"));
}

#[test]
fn a_server_needs_the_clusters_id_and_a_key() {
    for change in [
        |j: &mut Join| j.cluster_id = None,
        |j: &mut Join| j.snapshot_key = None,
        |j: &mut Join| j.snapshot_key = Some("s3cret".into()),
    ] {
        let (_dir, mut boot) = testing::server();
        let mut secret = server_join();
        change(&mut secret);
        give(&boot, &secret);
        let text = format!("{:#}", apply(&mut boot).unwrap_err());
        let want = ["lacks `cluster_id`", "lacks `snapshot_key`", "`snapshot_key` is not 64"];
        assert!(want.iter().any(|want| text.contains(want)), "{text}");
        assert!(!text.contains("s3cret") && !boot.path(SERVER_TOKEN).exists());
    }
}

#[test]
fn every_wrong_payload_is_refused_for_its_reason_and_changes_nothing() {
    let agent = |change: fn(&mut Join)| {
        let mut secret = join("k3s-worker-01");
        change(&mut secret);
        secret
    };
    let cases = [
        (join("k3s-master"), "is for node `k3s-master`, this is `k3s-worker-01`"),
        (agent(|j| j.token.clear()), "is broken: `token` is a token that is empty or holds white"),
        (agent(|j| j.token.push('\n')), "is broken: `token` is a token that is empty or holds"),
        (agent(|j| j.bootstrap = Bootstrap::Once), "has a `bootstrap` that only a server may have"),
        (agent(|j| j.agent_token = Some("x".into())), "has a `agent_token` that only a server may"),
        (agent(|j| j.token.push('2')), "contradicts /etc/rancher/k3s/secrets/agent-token"),
    ];
    for (secret, want) in cases {
        let (_dir, mut boot) = testing::agent();
        testing::put(&boot, AGENT_TOKEN, &format!("{TOKEN}\n"));
        testing::put(&boot, JOINED, "");
        give(&boot, &secret);
        let error = apply(&mut boot).unwrap_err();
        let text = format!("{error:#} {}", fix_of(&error, &STEP));
        assert!(text.starts_with(&format!("the join secret {want}")), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), format!("{TOKEN}\n"));
        assert!(payload(&boot.machine).exists());
    }
}

#[test]
fn one_token_has_two_forms_and_a_fresh_one_of_the_same_cluster_is_no_contradiction() {
    let full = |ca: &str, rest: &str| format!("K10{}::{rest}", ca.repeat(32));
    let server = |old: &str, new: &str| agrees(SERVER_TOKEN, old, new);
    assert!(server("s3cret", &full("ab", "server:s3cret")));
    assert!(server(&full("ab", "server:s3cret"), "s3cret"));
    assert!(!server(&full("ab", "server:s3cret"), &full("cd", "server:s3cret")));
    assert!(!server("s3cret", "other"));
    let agent = |old: &str, new: &str| agrees(AGENT_TOKEN, old, new);
    assert!(agent(&full("ab", "abcdef.0123456789abcdef"), &full("ab", "fedcba.0123456789abcdef")));
    assert!(!agent(&full("ab", "abcdef.0123456789abcdef"), &full("cd", "abcdef.0123456789abcdef")));
    assert!(!agent(&full("ab", "node:old"), &full("ab", "node:new")));
    assert!(!agrees(CLUSTER_ID, "home-1", "home-2"));
}

#[test]
fn the_form_that_names_the_ca_is_kept() {
    let (_dir, mut boot) = testing::server();
    let mut secret = server_join();
    secret.token = format!("K10{}::server:s3cret", "ab".repeat(32));
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    let stored = testing::get(&boot, SERVER_TOKEN).unwrap();
    testing::put(&boot, K3S_TOKEN, "");
    boot.k3s_changed = false;
    secret.token = "s3cret".into();
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert_eq!(testing::get(&boot, SERVER_TOKEN).unwrap(), stored);
    assert!(!boot.k3s_changed);
}

#[test]
fn another_kind_of_permission_takes_the_earlier_ones_place() {
    let (_dir, mut boot) = testing::server();
    let mut secret = server_join();
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert!(!origin::permission(&boot).unwrap().unwrap().restore);
    secret.bootstrap = Bootstrap::Restore;
    give(&boot, &secret);
    apply(&mut boot).unwrap();
    assert!(origin::permission(&boot).unwrap().unwrap().restore);
}

/// `builder node create NAME --bootstrap` says to run it once more when it was cut short.
#[test]
fn a_server_that_has_its_database_takes_no_permission_for_a_new_cluster() {
    for how in [Bootstrap::Once, Bootstrap::Unrecorded] {
        let (_dir, mut boot) = testing::server();
        let secret = Join { bootstrap: how, ..server_join() };
        give(&boot, &secret);
        apply(&mut boot).unwrap();
        testing::put(&boot, origin::DATABASE, "");
        let own = testing::get(&boot, origin::PERMISSION);
        give(&boot, &secret);
        apply(&mut boot).unwrap();
        assert_eq!(testing::get(&boot, origin::PERMISSION), own, "it is on its way with its own");
        // The Node was Ready: the permission is used up.
        fs_err::remove_file(boot.path(origin::PERMISSION)).unwrap();
        give(&boot, &secret);
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
        assert!(!payload(&boot.machine).exists());
        let facts = origin::Facts::of(&boot).unwrap();
        assert_eq!(origin::decide(&facts), origin::Origin::Disk, "{how:?}");
    }
}

#[test]
fn what_a_cut_restore_left_is_no_database_that_settles_it() {
    let (_dir, mut boot) = testing::server();
    testing::put(&boot, origin::DATABASE, "");
    testing::put(&boot, origin::UNFINISHED, "");
    give(&boot, &server_join());
    apply(&mut boot).unwrap();
    assert!(boot.path(origin::PERMISSION).exists());
}
