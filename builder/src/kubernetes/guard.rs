//! Data that lives on a node's own disk and would go with it (traps J7): volumes that are pinned to
//! the node by its name, as K3s' local-path and every other local volume are.

use std::fmt;

use k8s_openapi::api::core::v1::{NodeSelectorTerm, PersistentVolume};
use kube::api::ListParams;
use serde::Serialize;

use super::Kube;
use crate::life::Answer;

/// The label that volumes are pinned by.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// A volume whose data lies on one node only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalVolume {
    /// Its name.
    pub volume: String,
    /// `NAMESPACE/NAME` of the claim that has it.
    pub claim: String,
    /// Its size as it was asked for.
    pub size: String,
    /// Where it lies on the node.
    pub path: String,
}

impl fmt::Display for LocalVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) in {}", self.claim, self.size, self.path)
    }
}

impl Kube {
    /// Volumes in use whose data lies on this node only.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn local_volumes(&self, node: &str) -> Answer<Vec<LocalVolume>> {
        let every = self.all::<PersistentVolume>();
        let every = self.wait(every.list(&ListParams::default()))?;
        Ok(every.items.iter().filter_map(|volume| of(volume, node)).collect())
    }
}

fn of(volume: &PersistentVolume, node: &str) -> Option<LocalVolume> {
    let spec = volume.spec.as_ref()?;
    let status = volume.status.as_ref();
    let in_use = status.and_then(|s| s.phase.as_deref()) == Some("Bound");
    let terms = spec.node_affinity.as_ref()?.required.as_ref()?;
    if !in_use || !terms.node_selector_terms.iter().any(|term| pins(term, node)) {
        return None;
    }
    let claim = spec.claim_ref.as_ref();
    let part = |text: Option<&String>| text.cloned().unwrap_or_default();
    let own = spec.local.as_ref().map(|l| &l.path).or(spec.host_path.as_ref().map(|h| &h.path));
    Some(LocalVolume {
        volume: part(volume.metadata.name.as_ref()),
        claim: format!(
            "{}/{}",
            part(claim.and_then(|c| c.namespace.as_ref())),
            part(claim.and_then(|c| c.name.as_ref()))
        ),
        size: spec
            .capacity
            .as_ref()
            .and_then(|c| c.get("storage"))
            .map_or_else(|| "size unknown".to_owned(), |q| q.0.clone()),
        path: own.map_or_else(|| "a place only its driver knows".to_owned(), Clone::clone),
    })
}

/// Whether a term fits this node by its name and no other way.
fn pins(term: &NodeSelectorTerm, node: &str) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten().filter(|m| m.key == "metadata.name");
    labels
        .filter(|m| m.key == HOSTNAME)
        .chain(fields)
        .any(|m| m.operator == "In" && m.values.iter().flatten().any(|value| value == node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(phase: &str, affinity: &Value) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "pvc-1"},
            "spec": {"capacity": {"storage": "8Gi"}, "hostPath": {"path": "/var/lib/x"},
                "claimRef": {"namespace": "data", "name": "db"}, "nodeAffinity": affinity},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn on(key: &str, matching: &str, node: &str) -> Value {
        let rule = json!({"key": key, "operator": "In", "values": [node]});
        json!({"required": {"nodeSelectorTerms": [{matching: [rule]}]}})
    }

    #[test]
    fn only_volumes_in_use_that_are_pinned_to_the_node_count() {
        let local = on(HOSTNAME, "matchExpressions", "w1");
        let found = of(&volume("Bound", &local), "w1").unwrap();
        assert_eq!(found.to_string(), "data/db (8Gi) in /var/lib/x");
        let by_name = on("metadata.name", "matchFields", "w1");
        assert!(of(&volume("Bound", &by_name), "w1").is_some());
        for (phase, affinity, node) in [
            ("Bound", local.clone(), "w2"),
            ("Released", local, "w1"),
            ("Bound", json!(null), "w1"),
            ("Bound", on("topology.kubernetes.io/zone", "matchExpressions", "w1"), "w1"),
        ] {
            assert_eq!(of(&volume(phase, &affinity), node), None, "{phase} {affinity}");
        }
    }
}
