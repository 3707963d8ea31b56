//! Everything a person can get wrong with nodes and images: the message with its fix, and nothing changed.

use crate::home::{Home, with_server};

/// Without what differs from run to run.
fn snapshot_free(text: &str) -> String {
    regex::Regex::new(r"on-demand-\S+").unwrap().replace_all(text, "SNAPSHOT").into_owned()
}

#[test]
fn what_cannot_be_done_says_why_and_nothing_is_changed() {
    type Spoil = fn(&Home);
    let nothing: Spoil = |_| ();
    let worker: Spoil = |home| {
        home.push("worker", 1);
        home.done(&["node", "create", "w1"]);
    };
    let cases: [(&str, Spoil, &[&str]); 10] = [
        ("unknown node", nothing, &["node", "rebuild", "w2"]),
        ("unknown profile", nothing, &["rollout", "--profile", "wroker"]),
        ("profile never pushed", nothing, &["node", "create", "w1"]),
        (
            "another profile's image",
            worker,
            &["node", "rebuild", "w1", "--image", "master-0123456789ab"],
        ),
        (
            "an image that is not there",
            worker,
            &["node", "rebuild", "w1", "--image", "worker-0123456789ab"],
        ),
        ("it is there already", worker, &["node", "create", "w1"]),
        ("nothing to go back to", worker, &["node", "rollback", "w1"]),
        ("nothing is under way", worker, &["node", "rebuild", "w1", "--resume"]),
        (
            "a gate that is no program",
            |home| {
                home.edit(
                    "[proxmox]",
                    "[rollout]\ngates = [\"cluster/cluster.toml\"]\n\n[proxmox]",
                );
            },
            &["node", "create", "w1"],
        ),
        (
            "a bare pod",
            |home| {
                home.push("worker", 1);
                home.done(&["node", "create", "w1"]);
                home.push("worker", 2);
                home.api.pod("bare", "w1", None);
            },
            &["node", "rebuild", "w1"],
        ),
    ];
    let mut told = Vec::new();
    let ids = regex::Regex::new("worker-[0-9a-f]{12}").unwrap();
    for (name, spoil, args) in cases {
        let home = Home::new();
        with_server(&home);
        spoil(&home);
        let before = home.double.world(|world| world.seen.len());
        let there = home.vms();
        let said = home.run(args);
        assert!(said.code == 1 || said.code == 2, "{name}: {}", said.err);
        assert_eq!(home.vms(), there, "{name}");
        let seen = home.double.world(|w| w.seen.iter().map(|s| s.on.clone()).collect::<Vec<_>>());
        let wrote = seen[before..].iter().filter(|on| !on.starts_with("GET"));
        assert_eq!(wrote.count(), 0, "{name}: {seen:?}");
        if let Some(node) = home.api.node("w1") {
            assert!(node["spec"]["unschedulable"].is_null(), "{name}: {node}");
        }
        let err = said.err.replace(home.root().parent().unwrap().to_str().unwrap(), "PLACE");
        let err = snapshot_free(&err);
        told.push(format!("## {name}: {}\n{}", said.code, ids.replace_all(&err, "IMAGE")));
    }
    insta::assert_snapshot!(told.join("\n"));
}
