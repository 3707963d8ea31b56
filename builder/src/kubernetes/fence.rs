//! Freeing what a dead node holds. Only after its power is off for certain: its pods start elsewhere,
//! and two writers to one volume destroy it.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::drain::{PodId, id_of, moves};
use super::{Kube, told};
use crate::life::{Answer, Failed};

/// Kubernetes' own word for it: volumes are detached without asking the kubelet.
const TAINT: &str = "node.kubernetes.io/out-of-service";
/// Changes of others that are made way for.
const ATTEMPTS: u32 = 10;

impl Kube {
    /// Marks a Node as out of service, so that nothing is placed on it and its volumes are let go. One
    /// that is gone is left alone. The mark goes with the Node.
    ///
    /// # Errors
    /// The API does not answer or refuses, or others change the Node all the time.
    pub fn set_out_of_service(&self, node: &str) -> Answer<()> {
        let mut attempts = ATTEMPTS;
        loop {
            let Some(found) = self.wait(self.all::<Node>().get_opt(node))? else { return Ok(()) };
            let Some(patch) = with_taint(&found) else { return Ok(()) };
            let (nodes, params) = (self.all::<Node>(), PatchParams::default());
            attempts -= 1;
            match self.api.wait(nodes.patch(node, &params, &Patch::Merge(&patch))) {
                // Somebody else's change came between; the controllers have taints of their own.
                Err(kube::Error::Api(status)) if status.code == 409 && attempts > 0 => {}
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                other => return other.map(drop).map_err(|e| told(&e)),
            }
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

/// The patch that adds the taint; `None`: it is there. The list is one value for the API, so it is
/// replaced only as long as nobody else has changed the Node.
fn with_taint(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    if taints.iter().any(|taint| taint.key == TAINT) {
        return None;
    }
    let own = json!({"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"});
    let all: Vec<_> = taints.iter().map(|taint| json!(taint)).chain([own]).collect();
    Some(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": all},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_comes_beside_the_others_and_once() {
        let other = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        let node = |taints: Value| -> Node {
            serde_json::from_value(
                json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}}),
            )
            .unwrap()
        };
        let patch = with_taint(&node(json!([other]))).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["spec"]["taints"][0], other);
        assert_eq!(patch["spec"]["taints"][1]["key"], TAINT);
        assert_eq!(with_taint(&node(patch["spec"]["taints"].clone())), None);
        assert!(with_taint(&node(Value::Null)).is_some());
    }
}
