//! A lost master on a tree, with a K3s that only does to the files what the real one does: power cut
//! at every write of a snapshot and of a restore.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod node;

use std::collections::BTreeMap;

use ::node::failpoint::STOPPED;
use ::node::join::Bootstrap;
use ::node::report::State;
use node::{Node, SECRET};
use sha2::{Digest as _, Sha256};

const SERVER: &str = "var/lib/rancher/k3s/server";
const SHELF: &str = "srv/nfs/data/k3s-snapshots/home-1/k3s-master";

/// What etcd appends: the SHA-256 of all before it.
fn snapshot() -> Vec<u8> {
    let mut bytes = vec![7; 1024];
    let sum: [u8; 32] = Sha256::digest(&bytes).into();
    bytes.extend(sum);
    bytes
}

/// A master whose export is mounted, with a K3s in place.
fn master() -> Node {
    let node = Node::master_with_nfs();
    fs_err::write(node.path("fixture"), snapshot()).unwrap();
    let body = format!(
        "s=\"$ROOT/{SERVER}\"; case \"$*\" in\n\
         'etcd-snapshot save'*) mkdir -p \"$s/db/snapshots\"\n\
           n=$(ls \"$s/db/snapshots\" | wc -l)\n\
           cp \"$ROOT/fixture\" \"$s/db/snapshots/firstboot-k3s-master-180000000$n\" ;;\n\
         # Never without a snapshot (traps E7).\n\
         *'--cluster-reset --cluster-reset-restore-path='*)\n\
           test \"$K3S_TOKEN\" = {SECRET}-w || exit 1\n\
           mkdir -p \"$s/db/etcd/member/snap\" \"$s/tls\"\n\
           echo restored > \"$s/db/etcd/member/snap/db\"; echo ca > \"$s/tls/server-ca.crt\"\n\
           echo 'Managed etcd cluster membership has been reset, restart without' >&2 ;;\n\
         esac"
    );
    node.stub("k3s", &body);
    node
}

/// A master that ran, took `count` snapshots, and lost its disk.
fn lost(count: usize) -> Node {
    let node = master();
    node.give_secret();
    assert_eq!(node.run(&["host"]).code, 0);
    node.put(&format!("{SERVER}/db/etcd/member/snap/db"), "first");
    node.put(&format!("{SERVER}/tls/server-ca.crt"), "ca\n");
    for _ in 0..count {
        let ran = node.run(&["snapshot", "save"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    for gone in ["var/lib/rancher", "var/lib/firstboot", "etc/rancher"] {
        fs_err::remove_dir_all(node.path(gone)).unwrap();
    }
    node.boot("2");
    give(&node);
    node
}

/// The secret that a rebuilt server gets: no permission.
fn give(node: &Node) {
    let mut join = node.join();
    join.bootstrap = Bootstrap::No;
    node.give(&join.encode().unwrap());
}

fn stable(node: &Node) -> BTreeMap<String, String> {
    let mut files = node.lasting(false);
    for text in files.values_mut() {
        *text = text.replace("boot-2", "boot").replace("boot-3", "boot");
    }
    files
}

#[test]
fn a_lost_master_restores_its_newest_snapshot_and_a_power_cut_changes_nothing() {
    let node = lost(2);
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
    assert!(ran.stderr.contains("from firstboot-k3s-master-1800000001"), "{}", ran.stderr);
    assert_eq!(node.get(&format!("{SERVER}/db/etcd/member/snap/db")).unwrap(), "restored\n");
    assert!(!node.get("etc/rancher/k3s/config.yaml.d/50-node.yaml").unwrap().contains("init"));
    let want = stable(&node);
    for point in 1.. {
        let node = lost(2);
        let ran = node.run_stopping(&["host"], point);
        if ran.code != STOPPED {
            assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
            eprintln!("restore: {} power cuts", point - 1);
            assert!(point > 40);
            break;
        }
        node.boot("3");
        give(&node);
        let ran = node.run(&["host"]);
        assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
        assert_eq!(stable(&node), want, "point {point}");
    }
}

#[test]
fn a_snapshot_cut_short_is_never_on_the_shelf() {
    for point in 1.. {
        let node = lost(0);
        let mut join = node.join();
        join.bootstrap = Bootstrap::No;
        fs_err::remove_dir_all(node.path("srv/nfs/data/k3s-snapshots")).unwrap();
        node.give_secret();
        assert_eq!(node.run(&["host"]).code, 0);
        node.put(&format!("{SERVER}/tls/server-ca.crt"), "ca\n");
        let ran = node.run_stopping(&["snapshot", "save"], point);
        if ran.code != STOPPED {
            assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
            eprintln!("snapshot: {} power cuts", point - 1);
            assert!(point > 10);
            break;
        }
        // What is there is whole, and the next one is taken as if nothing had been.
        let listed = node.run(&["snapshot", "verify", "--json"]);
        assert!(!listed.stdout.contains("\"reason\""), "point {point}: {}", listed.stdout);
        let ran = node.run(&["snapshot", "save"]);
        assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
        assert_eq!(node.run(&["snapshot", "verify"]).code, 0, "point {point}");
    }
}

#[test]
fn a_lost_master_without_its_nfs_waits_and_looks_again() {
    let node = lost(1);
    node.put("proc/self/mountinfo", "");
    node.calls();
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Waiting), "{}", ran.stderr);
    assert!(node.report().failure.unwrap().cause.contains("192.0.2.9:/vol is not mounted"));
    let again = |call: &String| call.contains("restart") && call.contains("firstboot-again.timer");
    assert!(node.calls().iter().any(again));
    assert!(node.get("run/firstboot/ready").is_none());
}

#[test]
fn a_corrupt_newest_is_passed_over_and_nothing_sound_is_a_stop_with_all_causes() {
    let node = lost(2);
    let newest = node.path(SHELF).join("firstboot-k3s-master-1800000001");
    let mut bytes = snapshot();
    bytes[5] ^= 1;
    fs_err::write(newest, &bytes).unwrap();
    let ran = node.run(&["host"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("not restored: firstboot-k3s-master-1800000001"), "{}", ran.stderr);
    assert!(ran.stderr.contains("from firstboot-k3s-master-1800000000"), "{}", ran.stderr);

    let node = lost(1);
    fs_err::write(node.path(SHELF).join("firstboot-k3s-master-1800000000"), &bytes).unwrap();
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().failure.unwrap().step.as_str()), (1, "restore"));
    assert!(ran.stderr.contains("checksum that etcd appended"), "{}", ran.stderr);
    assert!(node.get("run/firstboot/ready").is_none());
}

#[test]
fn a_reset_that_ends_well_without_its_line_is_no_restore() {
    let node = lost(1);
    node.stub("k3s", &format!("echo 'fatal: something, token {SECRET}-w'; exit 0"));
    let ran = node.run(&["host"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("K3s did not reset itself (exit status: 0)"), "{}", ran.stderr);
    assert!(!node.path(&format!("{SERVER}/db/etcd")).exists());
}

#[test]
fn a_thousand_snapshots_are_looked_through_within_a_second() {
    let node = lost(1);
    let shelf = node.path(SHELF);
    let name = "firstboot-k3s-master-1800000000";
    let sidecar = fs_err::read(shelf.join(format!("{name}.json"))).unwrap();
    for n in 0..1000 {
        fs_err::write(shelf.join(format!("copy-{n}.json")), &sidecar).unwrap();
    }
    let start = std::time::Instant::now();
    let listed = node.run(&["snapshot", "list"]);
    // No secret is stored yet, so the place is not known; the host stage stores it.
    assert_eq!(listed.code, 1);
    assert_eq!(node.run(&["host"]).code, 0);
    let took = start.elapsed();
    eprintln!("restore with 1001 sidecars: {} ms, built without optimisation", took.as_millis());
    assert!(took.as_secs() < 20, "{took:?}");
}

/// A master that started a new cluster and has taken no snapshot yet.
fn running() -> Node {
    let node = master();
    node.give_secret();
    assert_eq!(node.run(&["host"]).code, 0);
    node.put(&format!("{SERVER}/tls/server-ca.crt"), "ca\n");
    node
}

/// Names in this node's folder on NFS.
fn shelf(node: &Node) -> Vec<String> {
    let entries = fs_err::read_dir(node.path(SHELF)).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_one_just_taken_is_carried_and_is_the_newest_though_the_clock_was_ahead_before() {
    let node = running();
    let local = node.path(&format!("{SERVER}/db/snapshots"));
    fs_err::create_dir_all(&local).unwrap();
    let mut other = vec![9; 1024];
    let sum: [u8; 32] = Sha256::digest(&other).into();
    other.extend(sum);
    fs_err::write(local.join("firstboot-k3s-master-1900000000"), &other).unwrap();
    assert_eq!(node.run(&["snapshot", "save"]).code, 0);
    let name = "firstboot-k3s-master-1800000001";
    assert_eq!(shelf(&node), [name.to_owned(), format!("{name}.json")]);
    assert_eq!(fs_err::read(node.path(SHELF).join(name)).unwrap(), snapshot());
    // K3s' clock stands still; the second is later all the same.
    fs_err::remove_dir_all(&local).unwrap();
    fs_err::create_dir_all(&local).unwrap();
    let ran = node.run(&["snapshot", "save", "--json"]);
    let sidecar: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(sidecar["taken"], 1_800_000_002);
}

#[test]
fn copies_of_a_sidecar_cost_no_snapshot() {
    let node = running();
    assert_eq!(node.run(&["snapshot", "save"]).code, 0);
    let real = shelf(&node);
    let text = fs_err::read(node.path(SHELF).join(&real[1])).unwrap();
    for n in 0..12 {
        fs_err::write(node.path(SHELF).join(format!("copy-{n}.json")), &text).unwrap();
    }
    assert_eq!(node.run(&["snapshot", "save"]).code, 0);
    let left = shelf(&node);
    assert!(real.iter().all(|name| left.contains(name)), "{left:?}");
}

#[test]
fn a_share_that_takes_nothing_does_not_fill_the_local_disk() {
    let node = running();
    fs_err::remove_dir_all(node.path("srv/nfs/data/k3s-snapshots")).unwrap();
    // As a share without rights or space would refuse: a file is in the way.
    node.put("srv/nfs/data/k3s-snapshots", "");
    node.calls();
    assert_eq!(node.run(&["snapshot", "save"]).code, 1);
    let want = "k3s etcd-snapshot prune --name firstboot --snapshot-retention 3";
    assert_eq!(node.calls().last().unwrap(), want);
}

#[test]
fn a_share_that_stumbles_is_waited_for_and_no_older_snapshot_is_restored() {
    let node = lost(2);
    let newest = node.path(SHELF).join("firstboot-k3s-master-1800000001.json");
    let text = fs_err::read(&newest).unwrap();
    fs_err::remove_file(&newest).unwrap();
    std::os::unix::fs::symlink(&newest, &newest).unwrap();
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Waiting), "{}", ran.stderr);
    let again = "systemctl restart --no-block firstboot-again.timer".to_owned();
    assert!(node.calls().contains(&again));
    assert!(!node.path(&format!("{SERVER}/db/etcd")).exists());
    assert!(node.get("dev/console").unwrap().contains("bring the NFS server back"));
    fs_err::remove_file(&newest).unwrap();
    fs_err::write(&newest, text).unwrap();
    let ran = node.run(&["host"]);
    assert!(ran.stderr.contains("from firstboot-k3s-master-1800000001"), "{}", ran.stderr);
}

#[test]
fn a_server_given_the_wrong_token_can_be_given_the_right_one() {
    let node = lost(1);
    let mut join = node.join();
    (join.bootstrap, join.token) = (Bootstrap::No, format!("{SECRET}-other"));
    node.give(&join.encode().unwrap());
    let ran = node.run(&["host"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("taken under another server token"), "{}", ran.stderr);
    give(&node);
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
    // From now on what is stored has been worked with.
    node.give(&join.encode().unwrap());
    let ran = node.run(&["host"]);
    assert!(ran.stderr.contains("contradicts /etc/rancher/k3s/secrets"), "{}", ran.stderr);
}

/// Copies a folder of one node's tree into another's.
fn carry_over(from: &Node, to: &Node, path: &str) {
    let parent = to.path(path).parent().unwrap().to_owned();
    fs_err::create_dir_all(&parent).unwrap();
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg("-a").arg(from.path(path)).arg(parent).status().unwrap().success());
}

/// A full shelf, whose retention has something to remove with every further snapshot.
fn full() -> Node {
    let node = running();
    for _ in 0..8 {
        assert_eq!(node.run(&["snapshot", "save"]).code, 0);
    }
    node
}

#[test]
fn a_power_cut_while_retention_removes_never_costs_a_snapshot_that_should_stay() {
    let before = full();
    let whole = |node: &Node| {
        let ran = node.run(&["snapshot", "verify", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, json["refused"].as_array().unwrap().len()), (0, 0), "{json:#}");
        json["snapshots"].as_array().unwrap().len()
    };
    for point in 1.. {
        let node = running();
        for path in ["srv/nfs/data/k3s-snapshots", &format!("{SERVER}/db/snapshots")] {
            let _ = fs_err::remove_dir_all(node.path(path));
            carry_over(&before, &node, path);
        }
        let ran = node.run_stopping(&["snapshot", "save"], point);
        assert!((8..=9).contains(&whole(&node)), "point {point}");
        if ran.code != STOPPED {
            eprintln!("snapshot with retention: {} power cuts", point - 1);
            assert!(ran.code == 0 && point > 15, "{}", ran.stderr);
            break;
        }
        assert_eq!(node.run(&["snapshot", "save"]).code, 0);
        let names = shelf(&node);
        assert_eq!((names.len(), whole(&node)), (16, 8), "point {point}: {names:?}");
    }
}
