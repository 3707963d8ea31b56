//! The cluster's Nodes: what of each a rebuild and `builder status` look at, and their marks.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as Object, NodeCondition};
use kube::api::ListParams;
use node::annotations::SNAPSHOT_DONE;
use node::image_id::{ANNOTATION, ImageId};
use node::packages::MODIFIED;
use serde::Serialize;
use serde_json::json;

use super::Kube;
use crate::life::Answer;

/// Kubelets' leases live here, named as their Nodes.
const LEASES: &str = "kube-node-lease";
/// K3s' label of servers.
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
/// Condition that K3s keeps of a server's place in etcd (k3s.md §3.2).
const VOTER: &str = "EtcdIsVoter";

/// One Node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "Kubernetes' own, each a word of its own")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Tells a Node from an earlier one of the same name.
    pub uid: String,
    /// Tells a boot from an earlier one.
    pub boot_id: String,
    /// Whether it is a server.
    pub server: bool,
    /// Whether its kubelet says Ready.
    pub ready: bool,
    /// Why it is not, in the kubelet's words.
    pub reason: String,
    /// Whether no pods are placed on it.
    pub cordoned: bool,
    /// The image it says it runs, which firstboot marks it with.
    pub image: Option<ImageId>,
    /// Packages that are not its image's any more; empty: as built.
    pub modified: String,
    /// K3s' version.
    pub version: String,
    /// Its address in the cluster.
    pub address: String,
    /// When it registered, in seconds since 1970.
    pub created: i64,
    /// When its kubelet last renewed its lease, in seconds since 1970; 0: never.
    pub renewed: i64,
    /// Whether it has a vote in etcd; `None`: it says nothing of it.
    pub voter: Option<bool>,
    /// Whether it is being deleted.
    pub leaving: bool,
    /// What still holds a Node that is being deleted.
    pub finalizers: Vec<String>,
    /// The last snapshot that was asked for here, as its server answered.
    #[serde(skip)]
    pub snapshot_done: String,
}

impl Kube {
    /// Every Node with its lease, by name.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn nodes(&self) -> Answer<BTreeMap<String, Node>> {
        let every = ListParams::default();
        let nodes = self.wait(self.all::<Object>().list(&every))?;
        let leases = self.namespaced::<Lease>(LEASES);
        let leases = self.wait(leases.list(&every))?;
        let renewed: BTreeMap<_, _> = leases.items.iter().filter_map(renewal).collect();
        let node = |object: Object| {
            let mut node = of(object);
            node.renewed = renewed.get(&node.name).copied().unwrap_or_default();
            (node.name.clone(), node)
        };
        Ok(nodes.items.into_iter().map(node).collect())
    }

    /// One Node with its lease, if it is there.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn node(&self, name: &str) -> Answer<Option<Node>> {
        let object = self.wait(self.all::<Object>().get_opt(name))?;
        let Some(object) = object else { return Ok(None) };
        let leases = self.namespaced::<Lease>(LEASES);
        let lease = self.wait(leases.get_opt(name))?;
        let renewed = lease.as_ref().and_then(renewal).map_or(0, |(_, at)| at);
        Ok(Some(Node { renewed, ..of(object) }))
    }

    /// Lets no new pods onto a Node, or lets them again; one that is gone is left alone.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn set_cordoned(&self, name: &str, cordoned: bool) -> Answer<()> {
        // In a merge patch `null` takes the key away, as kubectl does.
        let value = cordoned.then_some(true);
        self.patch(name, &json!({"spec": {"unschedulable": value}})).map(drop)
    }

    /// Sets an annotation of a Node; `false`: there is none of this name.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub(super) fn annotate(&self, name: &str, key: &str, value: &str) -> Answer<bool> {
        self.patch(name, &json!({"metadata": {"annotations": {key: value}}}))
    }

    fn patch(&self, name: &str, patch: &serde_json::Value) -> Answer<bool> {
        use kube::api::{Patch, PatchParams};
        let nodes = self.all::<Object>();
        let (params, merge) = (PatchParams::default(), Patch::Merge(patch));
        match self.api.wait(nodes.patch(name, &params, &merge)) {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            other => other.map(|_| true).map_err(|e| super::told(&e)),
        }
    }
}

/// Name of a lease's Node and when it was renewed.
fn renewal(lease: &Lease) -> Option<(String, i64)> {
    let at = lease.spec.as_ref()?.renew_time.as_ref()?.0.as_second();
    Some((lease.metadata.name.clone()?, at))
}

/// What of an object counts; its lease is another object.
fn of(object: Object) -> Node {
    let meta = object.metadata;
    let marks = meta.annotations.unwrap_or_default();
    let mark = |key: &str| marks.get(key).cloned().unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let info = status.node_info.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = condition(&conditions, "Ready");
    let addresses = status.addresses.unwrap_or_default();
    let address = addresses.into_iter().find(|a| a.type_ == "InternalIP").map(|a| a.address);
    Node {
        server: meta.labels.is_some_and(|labels| labels.contains_key(CONTROL_PLANE)),
        name: meta.name.unwrap_or_default(),
        uid: meta.uid.unwrap_or_default(),
        boot_id: info.boot_id,
        ready: ready.is_some_and(|c| c.status == "True"),
        reason: ready.map_or_else(|| "its kubelet has not reported yet".to_owned(), reason),
        cordoned: object.spec.and_then(|s| s.unschedulable).unwrap_or(false),
        image: mark(ANNOTATION).parse().ok(),
        modified: mark(MODIFIED),
        version: info.kubelet_version,
        address: address.unwrap_or_default(),
        created: meta.creation_timestamp.map_or(0, |t| t.0.as_second()),
        renewed: 0,
        voter: condition(&conditions, VOTER).map(|c| c.status == "True"),
        leaving: meta.deletion_timestamp.is_some(),
        finalizers: meta.finalizers.unwrap_or_default(),
        snapshot_done: mark(SNAPSHOT_DONE),
    }
}

fn condition<'a>(all: &'a [NodeCondition], kind: &str) -> Option<&'a NodeCondition> {
    all.iter().find(|c| c.type_ == kind)
}

/// Why a Node is not Ready; nothing for one that is.
fn reason(ready: &NodeCondition) -> String {
    if ready.status == "True" {
        return String::new();
    }
    let text = [ready.reason.as_deref(), ready.message.as_deref()];
    text.into_iter().flatten().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_with_what_firstboot_and_k3s_say_of_it() {
        let info = json!({"bootID": "b1", "machineID": "", "systemUUID": "", "kernelVersion": "",
            "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "v1.36.4+k3s1",
            "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""});
        let object = json!({
            "metadata": {"name": "m", "uid": "u1", "creationTimestamp": "2026-11-26T12:00:00Z",
                "labels": {CONTROL_PLANE: "true"},
                "annotations": {ANNOTATION: "master-0123456789ab", MODIFIED: "a 1 -> 2"},
                "deletionTimestamp": "2026-11-26T12:00:00Z", "finalizers": ["x/y"]},
            "spec": {"unschedulable": true},
            "status": {"nodeInfo": info, "addresses": [{"type": "Hostname", "address": "m"},
                {"type": "InternalIP", "address": "10.0.0.1"}],
                "conditions": [
                    {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no cni"},
                    {"type": VOTER, "status": "True"}]}});
        let node = of(serde_json::from_value(object).unwrap());
        let want = Node {
            name: "m".into(),
            uid: "u1".into(),
            boot_id: "b1".into(),
            server: true,
            ready: false,
            reason: "KubeletNotReady: no cni".into(),
            cordoned: true,
            image: "master-0123456789ab".parse().ok(),
            modified: "a 1 -> 2".into(),
            version: "v1.36.4+k3s1".into(),
            address: "10.0.0.1".into(),
            created: 1_795_694_400,
            voter: Some(true),
            leaving: true,
            finalizers: vec!["x/y".into()],
            ..Node::default()
        };
        assert_eq!(node, want);
        let bare = of(serde_json::from_value(json!({"metadata": {"name": "w"}})).unwrap());
        assert_eq!((bare.ready, bare.reason.as_str()), (false, "its kubelet has not reported yet"));
        assert_eq!((bare.voter, bare.image), (None, None));
    }
}
