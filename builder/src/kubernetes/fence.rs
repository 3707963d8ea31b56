//! Freeing what a dead node holds. Only after its power is off for certain: its pods start elsewhere,
//! and two writers to one volume destroy it.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use super::drain::{PodId, id_of, moves};
use super::{Kube, told};
use crate::life::{Answer, Failed};

/// Kubernetes' own word for it: volumes are detached without asking the kubelet.
const TAINT: &str = "node.kubernetes.io/out-of-service";

impl Kube {
    /// Marks a Node as out of service, so that nothing is placed on it and its volumes are let go;
    /// or takes the mark away. One that is gone is left alone.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn set_out_of_service(&self, node: &str, out: bool) -> Answer<()> {
        // Strategic: the other taints of the list stay.
        let taint = if out {
            json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"})
        } else {
            json!({"key": TAINT, "$patch": "delete"})
        };
        let patch = json!({"spec": {"taints": [taint]}});
        let (nodes, params) = (self.all::<Node>(), PatchParams::default());
        match self.api.wait(nodes.patch(node, &params, &Patch::Strategic(&patch))) {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).map_err(|e| told(&e)),
        }
    }

    /// Removes the objects of pods that a dead node holds, at once: nobody there could end them. Those
    /// of every node's own stay, as do the finished ones. Says which were freed.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn free_pods(&self, node: &str) -> Answer<Vec<PodId>> {
        let mut freed = Vec::new();
        for pod in self.pods_on(node)?.iter().filter(|pod| moves(pod)) {
            let id = id_of(pod);
            if self.delete_pod(&id, Some(0))? {
                freed.push(id);
            }
        }
        Ok(freed)
    }

    /// Deletes a pod and no later one of its name; `false`: it was gone.
    pub(super) fn delete_pod(&self, id: &PodId, grace: Option<u32>) -> Answer<bool> {
        let only = Preconditions { uid: Some(id.uid.clone()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(only),
            ..DeleteParams::default()
        };
        match self.api.wait(self.namespaced::<Pod>(&id.namespace).delete(&id.name, &params)) {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(other) => match told(&other) {
                Failed::Never(text) => Err(Failed::Never(format!("{id}: {text}"))),
                passing => Err(passing),
            },
        }
    }
}
