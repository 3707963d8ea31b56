//! A new K3s is an image: pushed, tried on one node, rolled out, seen in the history; and back. What is
//! built and booted before it is in `tests/tests`.

use crate::home::{Home, assert_clean, image_of, with_server};

/// m1 and w1 with image 1; both ids.
fn with_both() -> (Home, [String; 2]) {
    let home = Home::new();
    with_server(&home);
    let worker = home.push("worker", 1);
    home.done(&["node", "create", "w1"]);
    let master = image_of(&home, "m1");
    (home, [master, worker])
}

fn versions(home: &Home) -> [String; 2] {
    ["m1", "w1"].map(|name| {
        let node = home.api.node(name).unwrap();
        node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap().to_owned()
    })
}

fn told(home: &Home, last: &str) -> Vec<String> {
    let said = home.done(&["history", "--last", last, "--json"]);
    let lines: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
    let word = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
    lines.iter().map(|l| ["node", "what", "outcome"].map(|key| word(l, key)).join(" ")).collect()
}

#[test]
fn a_new_k3s_is_rolled_out_and_taken_back() {
    let (home, [master, worker]) = with_both();
    for profile in ["master", "worker"] {
        home.push_with(profile, 2, "v1.36.9+k3s1");
    }
    let before = home.run(&["status"]);
    assert_eq!(before.code, 3, "stale: {}", before.out);
    home.done(&["rollout", "--canary", "w1"]);
    assert_eq!(versions(&home), ["v1.36.9+k3s1", "v1.36.9+k3s1"]);
    assert_eq!(home.done(&["status"]).code, 0);
    home.done(&["node", "rollback", "w1"]);
    home.done(&["node", "rollback", "m1"]);
    assert_eq!(versions(&home), ["v1.36.4+k3s1", "v1.36.4+k3s1"]);
    assert_eq!(["m1", "w1"].map(|name| image_of(&home, name)), [master, worker]);
    let lines = ["w1 rebuild done", "m1 rebuild done", "w1 rollback done", "m1 rollback done"];
    assert_eq!(told(&home, "4"), lines);
    assert_clean(&home);
}

/// Kubernetes has no way back over a minor version, and no agent newer than its servers.
#[test]
fn a_new_minor_version_takes_the_servers_first_and_does_not_go_back() {
    let (home, _) = with_both();
    home.push_with("worker", 2, "v1.37.0+k3s1");
    let refused = home.run(&["node", "rebuild", "w1"]);
    assert!(refused.err.contains("roll out the servers first"), "{}", refused.err);
    home.push_with("master", 2, "v1.37.0+k3s1");
    let wrong = home.run(&["rollout", "--canary", "w1"]);
    assert!(wrong.err.contains("the canary must be a server"), "{}", wrong.err);
    home.done(&["rollout"]);
    assert_eq!(told(&home, "2"), ["m1 rebuild done", "w1 rebuild done"]);
    let back = home.run(&["node", "rollback", "m1"]);
    assert_eq!(back.code, 1);
    let words = "K3s 1.36 is older than what wrote the cluster's data";
    assert!(back.err.contains(words), "{}", back.err);
    assert_eq!(versions(&home), ["v1.37.0+k3s1", "v1.37.0+k3s1"]);
}
