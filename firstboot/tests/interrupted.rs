//! Ended at each write as a power cut would, then booted again: the same end as without.

mod node;

use std::collections::BTreeMap;

use ::node::report::State;
use node::Node;

use ::node::failpoint::STOPPED;

/// Another boot id, and another permission, in every run by design.
fn stable(node: &Node) -> BTreeMap<String, String> {
    let mut files = node.lasting(false);
    for text in files.values_mut() {
        *text = text.replace("boot-1", "boot").replace("boot-2", "boot");
        if let Some(at) = text.find("\"nonce\":\"") {
            text.replace_range(at + 9..at + 43, "");
        }
    }
    files
}

/// The end state without any stop.
fn undisturbed(node: &Node) -> BTreeMap<String, String> {
    node.give_secret();
    assert_eq!(node.run(&["host"]).code, 0);
    node.boot("2");
    assert_eq!(node.run(&["host"]).code, 0);
    stable(node)
}

/// A power cut at each write of the first boot, then a second boot: the same end as without.
/// Returns the number of points.
fn cut_everywhere(make: fn() -> Node) -> u64 {
    let want = undisturbed(&make());
    for point in 1.. {
        let node = make();
        node.give_secret();
        let ran = node.run_stopping(&["host"], point);
        if ran.code != STOPPED {
            assert_eq!(ran.code, 0, "point {point}: {}", ran.stderr);
            return point - 1;
        }
        node.boot("2");
        // The tmpfs lost a payload that was not stored; whoever sent it sends it again.
        node.give_secret();
        let ran = node.run(&["host"]);
        assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
        assert_eq!(stable(&node), want, "point {point}");
        // Claimed once, by the permission that is still here, and nothing left beside it.
        if let Ok(entries) = fs_err::read_dir(node.path("srv/nfs/data/k3s-snapshots/home-1")) {
            let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
            assert_eq!(names, ["cluster.json"], "point {point}");
        }
    }
    0
}

#[test]
fn a_power_cut_at_any_write_ends_the_same() {
    let nodes: [(_, fn() -> Node); 3] = [
        ("worker", Node::worker),
        ("master", Node::master),
        ("master with NFS", Node::master_with_nfs),
    ];
    for (name, make) in nodes {
        let points = cut_everywhere(make);
        eprintln!("{name}: {points} power cuts");
        assert!(points > 20, "{name}: {points} points");
    }
}

#[test]
fn a_torn_ledger_costs_a_second_look_and_nothing_else() {
    let node = Node::worker();
    let want = undisturbed(&node);
    let ledger = node.get("var/lib/firstboot/ledger.json").unwrap();
    for cut in [0, 1, ledger.len() / 2, ledger.len() - 1] {
        node.put("var/lib/firstboot/ledger.json", &ledger[..cut]);
        node.boot("2");
        let ran = node.run(&["host"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains("the ledger is lost, so every step runs again"));
        // ensure_file in the test made it 0644; firstboot's own is 0600 again.
        assert_eq!(stable(&node), want, "cut at {cut}");
    }
}

#[test]
fn a_start_that_fails_is_tried_again_by_the_next_run() {
    let node = Node::worker();
    node.give_secret();
    node.put("start-fails", "");
    assert_eq!(node.run(&["host"]).code, 1);
    assert_eq!(node.report().failure.unwrap().step, "start");
    fs_err::remove_file(node.path("start-fails")).unwrap();
    assert_eq!(node.run(&["host"]).code, 0);
    assert_eq!(node.report().state, State::Starting);
}
