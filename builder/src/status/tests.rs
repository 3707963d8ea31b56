//! Sample states, also for the table and the page.

use super::*;
use crate::proxmox::calls::Config;
use crate::proxmox::inventory::Template;
use serde_json::json;
use std::path::Path;

/// The sample project: a master and a worker.
///
/// # Panics
/// It is broken.
pub fn project() -> Project {
    Project::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid")).unwrap()
}

/// Image number `n` of a profile.
///
/// # Panics
/// It is no profile's name.
pub fn id(profile: &str, n: u32) -> ImageId {
    format!("{profile}-{n:012x}").parse().unwrap()
}

fn marks(image: &ImageId, more: &[&str]) -> String {
    let mut all = tags::of_template(&"lab".parse().unwrap(), image, "v1.36.4+k3s1");
    all.extend(more.iter().map(|tag| (*tag).to_owned()));
    tags::text(&all)
}

fn template(image: ImageId, made: u32, more: &[&str]) -> Template {
    let values = [
        ("tags", marks(&image, more)),
        ("template", "1".into()),
        ("meta", format!("ctime={made}")),
    ];
    let config = Config(values.map(|(k, v)| (k.to_owned(), v)).into());
    Template { host: "pve1".into(), vmid: 9000 + made, config, image: Some(image) }
}

fn vm(vmid: u32, name: &str, status: &str, image: &ImageId, more: &[&str]) -> VmEntry {
    serde_json::from_value(json!({"vmid": vmid, "node": "pve1", "name": name, "status": status,
        "type": "qemu", "tags": marks(image, more)}))
    .unwrap()
}

fn node(name: &str, image: &ImageId) -> (String, Node) {
    let node = Node {
        name: name.into(),
        ready: true,
        image: Some(image.clone()),
        version: "v1.36.4+k3s1".into(),
        created: 1_795_000_000,
        ..Node::default()
    };
    (name.to_owned(), node)
}

/// One server on its newest image, one worker on the one before and with an old VM beside it.
pub fn seen() -> Seen {
    let templates = vec![
        template(id("worker", 3), 9, &[tags::QUARANTINED]),
        template(id("worker", 2), 8, &[]),
        template(id("worker", 1), 7, &[]),
        template(id("master", 1), 6, &[]),
    ];
    let vms = vec![
        vm(200, "m1", "running", &id("master", 1), &["node-m1"]),
        vm(201, "", "stopped", &id("worker", 1), &["node-w1"]),
        vm(8000, "w1", "running", &id("worker", 1), &["node-w1"]),
        vm(150, "w1", "running", &id("worker", 1), &["node-other"]),
    ];
    let (name, worker) = node("w1", &id("worker", 1));
    let worker = Node { modified: "openssl 3.5.1 -> 3.5.2".into(), ..worker };
    Seen {
        inventory: Some(Inventory { templates, vms, ..Inventory::default() }),
        nodes: Some([node("m1", &id("master", 1)), (name, worker)].into()),
        notes: vec![],
        at: 1_795_100_000,
    }
}

#[test]
fn the_newest_good_template_is_what_nodes_are_held_against() {
    let (project, seen) = (project(), seen());
    let status = of(&project, &seen);
    let told: Vec<_> = status
        .nodes
        .iter()
        .map(|r| (r.vmid, r.template.as_str(), r.current, r.health.as_str(), r.others.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (Some(200), "N", Some(true), "Ready", vec![]),
            (Some(8000), "N-1", Some(false), "Ready", vec![201]),
        ]
    );
    let passed_over =
        "worker-000000000003 is newer and quarantined; `builder quarantine ls` says why";
    assert_eq!(status.notes, ["w1 has also VM 201", passed_over]);
    assert!(!status.is_sound());
    let good = Inventory {
        templates: seen.inventory.as_ref().unwrap().templates[2..].to_vec(),
        ..seen.inventory.clone().unwrap()
    };
    assert!(of(&project, &Seen { inventory: Some(good), ..seen }).is_sound());
}

type Change = fn(&mut Seen);

#[test]
fn each_way_of_not_being_well_has_its_words() {
    let project = project();
    let health = |change: fn(&mut Seen)| {
        let mut seen = seen();
        change(&mut seen);
        let row = of(&project, &seen).nodes.remove(1);
        (row.state, row.health)
    };
    let cases: [(Change, State, &str); 8] = [
        (|s| s.inventory.as_mut().unwrap().vms.clear(), State::Unhealthy, "no VM"),
        (
            |s| s.inventory.as_mut().unwrap().vms[2].status = "stopped".into(),
            State::Unhealthy,
            "off",
        ),
        (|s| drop(s.nodes.as_mut().unwrap().remove("w1")), State::Unhealthy, "not in the cluster"),
        (
            |s| {
                let node = s.nodes.as_mut().unwrap().get_mut("w1").unwrap();
                (node.ready, node.reason) = (false, "KubeletNotReady: no cni".into());
            },
            State::Unhealthy,
            "not Ready: KubeletNotReady: no cni",
        ),
        (
            |s| s.nodes.as_mut().unwrap().get_mut("w1").unwrap().leaving = true,
            State::Unhealthy,
            "its Node is being deleted",
        ),
        (
            |s| s.nodes.as_mut().unwrap().get_mut("w1").unwrap().cordoned = true,
            State::Healthy,
            "Ready, cordoned",
        ),
        (|s| s.nodes = None, State::Unknown, "running; the cluster was not asked"),
        (|s| (s.nodes, s.inventory) = (None, None), State::Unknown, "not known"),
    ];
    for (change, state, words) in cases {
        assert_eq!(health(change), (state, words.to_owned()));
    }
}

#[test]
fn a_node_that_the_file_does_not_have_is_told() {
    let mut seen = seen();
    seen.nodes.as_mut().unwrap().extend([node("stray", &id("worker", 1))]);
    let notes = of(&project(), &seen).notes;
    assert_eq!(notes[..2], ["w1 has also VM 201", "stray is a Node, and not in cluster.toml"]);
}
