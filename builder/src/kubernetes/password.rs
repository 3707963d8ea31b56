//! The way for a node of the same name: the old Node goes, and with it what K3s knows its old
//! password by, without which the new one would be refused for ever (traps J1).

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::DeleteParams;

use super::{Kube, SYSTEM};
use crate::life::Answer;

impl Kube {
    /// Deletes a Node; one that is gone counts as done. A server's stays until K3s has taken it out
    /// of etcd: see [`super::Node::leaving`].
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn delete_node(&self, name: &str) -> Answer<()> {
        self.wait_gone(self.all::<Node>().delete(name, &DeleteParams::default()))
    }

    /// Whether K3s still knows the password of a node of this name.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn has_password(&self, name: &str) -> Answer<bool> {
        let secrets = self.namespaced::<Secret>(SYSTEM);
        self.wait(secrets.get_metadata_opt(&secret(name))).map(|found| found.is_some())
    }

    /// Deletes it; one that is gone counts as done. K3s does the same by itself within minutes of
    /// the Node's end, newer versions at once.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn delete_password(&self, name: &str) -> Answer<()> {
        let secrets = self.namespaced::<Secret>(SYSTEM);
        self.wait_gone(secrets.delete(&secret(name), &DeleteParams::default()))
    }
}

/// Name of the Secret (k3s.md §3.1).
fn secret(node: &str) -> String {
    format!("{}.node-password.k3s", node.to_lowercase())
}
