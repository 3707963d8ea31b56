//! Stopped where a power cut would stop it, then booted again: the same end as without the stop.

mod node;

use ::node::report::State;
use node::Node;

/// Steps that write what outlives a boot.
const LASTING: [&str; 2] = ["secret", "k3s-config"];

/// Exit code of a stop point.
const STOPPED: i32 = 99;

/// The end state without any stop.
fn undisturbed(node: &Node) -> std::collections::BTreeMap<String, String> {
    node.give_secret();
    assert_eq!(node.run(&["host"]).code, 0);
    node.boot("2");
    assert_eq!(node.run(&["host"]).code, 0);
    without_boot_ids(node)
}

/// The ledger names the boot of each entry, which differs by design.
fn without_boot_ids(node: &Node) -> std::collections::BTreeMap<String, String> {
    let mut files = node.lasting(false);
    for text in files.values_mut() {
        *text = text.replace("boot-1", "boot").replace("boot-2", "boot");
    }
    files
}

#[test]
fn a_stop_before_or_after_any_lasting_step_ends_the_same() {
    for make in [Node::worker, Node::master] {
        let want = undisturbed(&make());
        let mut points = 0;
        for step in LASTING {
            for place in ["before", "after"] {
                let node = make();
                node.give_secret();
                let ran = node.run_stopping(&["host"], &format!("{place}:{step}"));
                assert_eq!(ran.code, STOPPED, "{place} {step}: {}", ran.stderr);
                node.boot("2");
                // The tmpfs lost a payload that was not stored; whoever sent it sends it again.
                node.give_secret();
                let ran = node.run(&["host"]);
                assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
                assert_eq!(without_boot_ids(&node), want, "{place} {step}");
                points += 1;
            }
        }
        println!("{points} stop points");
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
        assert_eq!(without_boot_ids(&node), want, "cut at {cut}");
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
