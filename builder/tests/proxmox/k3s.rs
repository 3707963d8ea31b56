//! What K3s and firstboot do, between the Proxmox double and the API: a VM that runs and has its secret
//! becomes a Node, and its Node is lost when it is off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use node::values::Digest;
use pve_double::Double;
use serde_json::{Value, json};

use crate::api::{Api, LEASES, NODES, SECRETS, Store};

/// Where firstboot waits for its secret.
const PAYLOAD: &str = "/run/firstboot/join/payload";

/// What a test may spoil while the nodes live.
#[derive(Default)]
pub struct Spoilt {
    /// Images whose nodes never become Ready.
    pub bad: BTreeSet<String>,
}

pub fn ready(node: &Value) -> bool {
    node["status"]["conditions"][0]["status"] == "True"
}

/// K3s and firstboot on every VM.
pub struct Nodes {
    double: Arc<Double>,
    api: Api,
    spoilt: Arc<Mutex<Spoilt>>,
    /// VMs that have joined: they need no secret again.
    joined: BTreeSet<u32>,
}

/// A VM as this sees it.
struct Guest {
    vmid: u32,
    name: String,
    image: String,
    k3s: String,
    /// When it was started; `None`: it is off.
    since: Option<u64>,
    has_secret: bool,
}

impl Guest {
    fn is_server(&self) -> bool {
        self.image.starts_with("master")
    }
}

fn is_node(path: &str) -> bool {
    path.starts_with("/api/v1/nodes/")
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn is_server(node: &Value) -> bool {
    !node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"].is_null()
}

/// K3s takes a server that is being deleted out of etcd, then its finalizer; the rest goes with the Node.
fn let_members_go(store: &mut Store) {
    let leaving = |node: &Value| !node["metadata"]["deletionTimestamp"].is_null();
    let gone = store.objects.iter().filter(|(path, node)| is_node(path) && leaving(node));
    let gone: Vec<_> = gone.map(|(path, _)| path.clone()).collect();
    for path in gone {
        let name = name_of(&path).to_owned();
        store.finalized.remove(&name);
        store.objects.remove(&path);
        store.objects.remove(&format!("{SECRETS}/{name}.node-password.k3s"));
    }
}

/// The API is there as long as a majority of etcd's members is: their Nodes stand until they are gone.
/// Homes without a server have it all the same.
fn count_votes(store: &mut Store, running: &BTreeMap<String, (&Guest, u64)>) {
    let members = store.objects.iter().filter(|(path, node)| is_node(path) && is_server(node));
    let names: Vec<_> = members.map(|(path, _)| name_of(path)).collect();
    let votes = names.iter().filter(|name| running.contains_key(**name)).count();
    if !names.is_empty() {
        store.away = votes * 2 <= names.len();
    }
}

impl Nodes {
    pub fn new(double: Arc<Double>, api: Api, spoilt: Arc<Mutex<Spoilt>>) -> Self {
        Self { double, api, spoilt, joined: BTreeSet::new() }
    }

    /// Lets everything happen that is due.
    pub fn turn(&mut self) {
        let guests = self.guests();
        let mut store = self.api.store();
        let mut running = BTreeMap::new();
        for guest in &guests {
            let Some(since) = guest.since else { continue };
            if guest.has_secret {
                self.joined.insert(guest.vmid);
            }
            if self.joined.contains(&guest.vmid) {
                running.insert(guest.name.clone(), (guest, since));
            }
        }
        let servers: BTreeSet<_> =
            guests.iter().filter(|guest| guest.is_server()).map(|guest| &guest.name).collect();
        let servers = servers.len();
        let bad = &self.spoilt.lock().unwrap().bad;
        for (name, (guest, since)) in &running {
            // K3s knows the name by another VM's password.
            let secret = format!("{SECRETS}/{name}.node-password.k3s");
            let known = store.objects.get(&secret).and_then(|s| s["data"]["hash"].as_u64());
            // A restored server forgets its own.
            let known = known.filter(|_| !(guest.is_server() && servers == 1));
            if known.is_some_and(|known| known != u64::from(guest.vmid))
                || bad.contains(&guest.image)
            {
                continue;
            }
            let path = format!("{NODES}/{name}");
            let old = store.objects.get(&path).cloned();
            if old.as_ref().is_some_and(|o| !o["metadata"]["deletionTimestamp"].is_null()) {
                continue;
            }
            if guest.is_server() && servers > 1 {
                store.finalized.insert(name.clone());
            }
            let node = registered(old, guest, *since);
            store.put(&path, node);
            store.put(
                &secret,
                json!({"metadata": {"name": format!("{name}.node-password.k3s")},
                "data": {"hash": guest.vmid}}),
            );
            let now = jiff_now();
            store.put(
                &format!("{LEASES}/{name}"),
                json!({"metadata": {"name": name},
                "spec": {"renewTime": now}}),
            );
        }
        let off: Vec<_> = store
            .objects
            .keys()
            .filter(|path| {
                path.strip_prefix("/api/v1/nodes/").is_some_and(|name| !running.contains_key(name))
            })
            .cloned()
            .collect();
        for path in off {
            let node = store.objects.get_mut(&path).unwrap();
            node["status"]["conditions"][0]["status"] = json!("Unknown");
            node["status"]["conditions"][0]["reason"] = json!("NodeStatusUnknown");
        }
        let_members_go(&mut store);
        count_votes(&mut store, &running);
        answer_snapshots(&mut store.objects);
    }

    fn guests(&self) -> Vec<Guest> {
        self.double.world(|world| {
            let vms =
                world.vms.iter().filter(|(_, vm)| !vm.is_template() && vm.get("lock").is_none());
            let guest = |(vmid, vm): (&u32, &pve_double::Vm)| {
                let tags = vm.get("tags").unwrap_or_default();
                let tag = |start| tags.split(';').find_map(|tag| tag.strip_prefix(start));
                let (image, k3s) = (tag("img-"), tag("k3s-"));
                let linked = !vm.get("net0").unwrap_or_default().contains("link_down=1");
                let drive = vm.get("ide3").is_some_and(|d| d.contains("firstboot_"));
                Guest {
                    vmid: *vmid,
                    name: vm.get("name").unwrap_or_default().to_owned(),
                    image: image.unwrap_or_default().to_owned(),
                    k3s: k3s.unwrap_or_default().to_owned(),
                    since: vm.run.as_ref().filter(|_| linked).map(|run| run.since),
                    has_secret: drive
                        || vm.run.as_ref().is_some_and(|run| run.files.contains_key(PAYLOAD)),
                }
            };
            vms.map(guest).collect()
        })
    }
}

fn jiff_now() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let text = jiff::Timestamp::from_second(seconds.as_secs().cast_signed()).unwrap().to_string();
    text.replace('Z', ".000000Z")
}

/// The Node of a guest; one that was there keeps its uid, its marks and its cordon.
fn registered(old: Option<Value>, guest: &Guest, since: u64) -> Value {
    let mut node = old.unwrap_or_else(|| {
        json!({"apiVersion": "v1", "kind": "Node", "spec": {}, "metadata": {"name": guest.name,
            "creationTimestamp": jiff_now(), "labels": {}, "annotations": {}}})
    });
    if guest.is_server() {
        node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("true");
    }
    node["metadata"]["annotations"]["node.homelab/image"] = json!(guest.image);
    let voter =
        json!({"type": "EtcdIsVoter", "status": if guest.is_server() { "True" } else { "False" }});
    node["status"] = json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}, voter],
        "addresses": [{"type": "InternalIP", "address": "127.0.3.21"}],
        "nodeInfo": {"bootID": format!("{}-{since}", guest.vmid), "machineID": "", "systemUUID": "",
            "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
            "kubeletVersion": guest.k3s, "kubeProxyVersion": "", "operatingSystem": "",
            "architecture": ""},
    });
    node
}

/// What `firstboot watch` does on a server.
fn answer_snapshots(objects: &mut BTreeMap<String, Value>) {
    for (path, node) in objects.iter_mut().filter(|(path, _)| path.starts_with("/api/v1/nodes/")) {
        let marks = node["metadata"]["annotations"].clone();
        let Some(nonce) = marks["node.homelab/snapshot-request"].as_str() else { continue };
        let done = format!("{nonce} on-demand-{} {}", path.len(), Digest::of(nonce));
        if ready(node) {
            node["metadata"]["annotations"]["node.homelab/snapshot-done"] = json!(done);
        }
    }
}
