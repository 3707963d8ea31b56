//! The first boot after a restore (traps E1 and J5): what the snapshot brought back is not what is
//! there now. Foreign Nodes go, the others are told, and the image's mark is this image's.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod api;
mod home;
mod node;

use home::Home;
use serde_json::{Value, json};

const RESTORED: &str = "var/lib/firstboot/restored.json";
const DONE: &str = r#"{"file": "s-1", "generation": "0123-boot-1", "announced": false}"#;

fn path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

fn annotation(home: &Home, name: &str, key: &str) -> Value {
    let node = home.api.get(&path(name)).unwrap();
    node["metadata"]["annotations"][format!("node.homelab/{key}")].clone()
}

/// A server that was just restored: the snapshot knew a node that is in no file any more.
fn restored() -> Home {
    let home = Home::new();
    home.bundle(1, &[], |_| {});
    for name in ["k3s-worker-01", "k3s-worker-09"] {
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {}});
        home.api.put(&path(name), object);
    }
    home.node.put(RESTORED, DONE);
    home
}

#[test]
fn nodes_of_no_file_go_and_the_others_are_told_once() {
    let home = restored();
    assert_eq!(home.run(), 0);
    assert!(home.api.get(&path("k3s-worker-09")).is_none(), "a stranger stays");
    assert_eq!(annotation(&home, "k3s-worker-01", "restored"), "0123-boot-1");
    assert_eq!(annotation(&home, "k3s-master", "restored"), Value::Null, "it restored itself");
    // A Node that comes later is somebody's work, and no leftover of the snapshot.
    home.api.put(&path("k3s-worker-09"), json!({"metadata": {"name": "k3s-worker-09"}}));
    home.api.log();
    assert_eq!(home.run(), 0);
    assert!(home.api.get(&path("k3s-worker-09")).is_some());
    let writes = home.api.log().into_iter().filter(|l| !l.starts_with("GET")).collect::<Vec<_>>();
    assert_eq!(writes, Vec::<String>::new());
}

/// The Node came back as it was under the image before: a label given at registration would stay so.
#[test]
fn a_node_that_came_back_gets_the_mark_of_the_image_it_runs() {
    let home = restored();
    let mut node = home.api.get(&path("k3s-master")).unwrap();
    node["metadata"]["labels"] = json!({"node.homelab/image-id": "ffffffffffff", "kept": "yes"});
    node["metadata"]["annotations"] = json!({"node.homelab/image": "master-ffffffffffff"});
    home.api.put(&path("k3s-master"), node);
    assert_eq!(home.run(), 0);
    let labels = home.api.get(&path("k3s-master")).unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"node.homelab/image-id": "0123456789ab", "kept": "yes"}));
    assert_eq!(annotation(&home, "k3s-master", "image"), "master-0123456789ab");
}
