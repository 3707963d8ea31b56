//! The cluster's API as the engine of rebuilds and rollouts sees it.

use jiff::Timestamp;
use node::config::Role;
use node::values::Hostname;

use super::{Kube, Node};
use crate::life::{Answer, Cluster, Drain, Failed, Member, NodeState, Snapshot, Traces};

impl Cluster for Kube {
    fn nodes(&self) -> Answer<Vec<NodeState>> {
        self.nodes()?.into_values().map(state).collect()
    }

    fn node(&self, name: &Hostname) -> Answer<Option<NodeState>> {
        self.node(name.as_str())?.map(state).transpose()
    }

    fn cordon(&self, name: &Hostname, on: bool) -> Answer<()> {
        self.set_cordoned(name.as_str(), on)
    }

    fn drain(&self, name: &Hostname, how: Drain, last: bool) -> Answer<Vec<String>> {
        self.drain(name.as_str(), how, last)
    }

    fn forget(&self, member: &Member) -> Answer<()> {
        let name = member.name.as_str();
        self.delete_node(name)?;
        // While the Node is there, K3s would make the Secret again for the next request of the old
        // node's.
        if self.node(name)?.is_none() { self.delete_password(name) } else { Ok(()) }
    }

    fn traces(&self, member: &Member) -> Answer<Traces> {
        let name = member.name.as_str();
        let node = self.node(name)?.is_some();
        // A server's Node has a finalizer that K3s takes away when the member is out of etcd
        // (k3s.md §3.2): as long as the one is there, so may the other be.
        let member = node && member.role == Role::Server;
        Ok(Traces { node, password: self.has_password(name)?, member })
    }

    fn local_data(&self, name: &Hostname) -> Answer<Vec<String>> {
        let volumes = self.local_volumes(name.as_str())?;
        Ok(volumes.iter().map(ToString::to_string).collect())
    }

    fn request_snapshot(&self, server: &Hostname, nonce: &str) -> Answer<()> {
        self.request_snapshot(server.as_str(), nonce)
    }

    fn snapshot(&self, server: &Hostname, nonce: &str) -> Answer<Option<Snapshot>> {
        self.snapshot_answer(server.as_str(), nonce)
    }
}

fn state(node: Node) -> Answer<NodeState> {
    let name = node.name.parse();
    let name = name.map_err(|e| Failed::Never(format!("Node `{}`: {e}", node.name)))?;
    let lease = (node.renewed > 0).then(|| Timestamp::from_second(node.renewed).ok()).flatten();
    Ok(NodeState {
        name,
        uid: node.uid,
        boot_id: node.boot_id,
        image: node.image,
        k3s: node.version,
        server: node.server,
        ready: node.ready,
        cordoned: node.cordoned,
        lease,
        voter: node.voter,
    })
}
