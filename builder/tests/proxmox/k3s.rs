//! What K3s and firstboot do, between the Proxmox double and the API: a VM that runs and has its secret
//! becomes a Node, and its Node is lost when it is off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use node::values::Digest;
use pve_double::Double;
use serde_json::{Value, json};

use crate::api::{Api, LEASES, NODES, SECRETS};

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
    /// When it was started; `None`: it is off.
    since: Option<u64>,
    has_secret: bool,
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
        let bad = &self.spoilt.lock().unwrap().bad;
        for (name, (guest, since)) in &running {
            // K3s knows the name by another VM's password.
            let secret = format!("{SECRETS}/{name}.node-password.k3s");
            let known = store.objects.get(&secret).and_then(|s| s["data"]["hash"].as_u64());
            // A restored server forgets its own.
            let known = known.filter(|_| !guest.image.starts_with("master"));
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
        // The API is the server's. Homes without one have it all the same.
        let server = running.values().any(|(guest, _)| guest.image.starts_with("master"));
        let had_one = store.objects.keys().any(|path| path.ends_with("/nodes/m1"));
        if server || had_one {
            store.away = !server;
        }
        answer_snapshots(&mut store.objects);
    }

    fn guests(&self) -> Vec<Guest> {
        self.double.world(|world| {
            let vms =
                world.vms.iter().filter(|(_, vm)| !vm.is_template() && vm.get("lock").is_none());
            let guest = |(vmid, vm): (&u32, &pve_double::Vm)| {
                let tags = vm.get("tags").unwrap_or_default();
                let image = tags.split(';').find_map(|tag| tag.strip_prefix("img-"));
                let linked = !vm.get("net0").unwrap_or_default().contains("link_down=1");
                let drive = vm.get("ide3").is_some_and(|d| d.contains("firstboot_"));
                Guest {
                    vmid: *vmid,
                    name: vm.get("name").unwrap_or_default().to_owned(),
                    image: image.unwrap_or_default().to_owned(),
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
    if guest.image.starts_with("master") {
        node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("true");
    }
    node["metadata"]["annotations"]["node.homelab/image"] = json!(guest.image);
    node["status"] = json!({
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "addresses": [{"type": "InternalIP", "address": "127.0.3.21"}],
        "nodeInfo": {"bootID": format!("{}-{since}", guest.vmid), "machineID": "", "systemUUID": "",
            "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
            "kubeletVersion": "v1.36.4+k3s1", "kubeProxyVersion": "", "operatingSystem": "",
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
