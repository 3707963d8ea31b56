//! The image-id on this node's Kubernetes object: what runs here, for `kubectl` and `builder`.
//! Patched after Ready, as labels given to the kubelet count only at registration; in a domain of
//! our own, as the kubelet may not set those of kubernetes.io on itself.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use node::image_id::{ANNOTATION, ImageId, LABEL};
use serde_json::json;

use super::{Done, Step};
use crate::boot::Boot;

/// The step.
pub const STEP: Step = Step {
    name: "image-id",
    lasting: false,
    fix: "see whether the API answers; the step is tried again by itself",
    satisfied: |_| Ok(false),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let name = &boot.machine.hostname;
    let id = &boot.config.image_id;
    let kubernetes = boot.kubernetes.as_ref().context("the step `api` has not run")?;
    if kubernetes.node(name)?.is_some_and(|node| carries(&node, id)) {
        return Ok(Done::unchanged(id.to_string()));
    }
    let patch = json!({"metadata": {
        "labels": {LABEL: id.short()},
        "annotations": {ANNOTATION: id.to_string()},
    }});
    kubernetes.patch_node(name, &patch).context("failed to mark the node with its image-id")?;
    Ok(Done::changed(id.to_string()))
}

fn carries(node: &Node, id: &ImageId) -> bool {
    let label = node.metadata.labels.as_ref().and_then(|l| l.get(LABEL));
    let annotation = node.metadata.annotations.as_ref().and_then(|a| a.get(ANNOTATION));
    label.is_some_and(|l| l == id.short()) && annotation.is_some_and(|a| *a == id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_carries_an_id_only_with_both_marks() {
        let id: ImageId = "worker-0123456789ab".parse().unwrap();
        for (label, annotation, want) in [
            ("0123456789ab", "worker-0123456789ab", true),
            ("0123456789ab", "worker-ffffffffffff", false),
            ("", "worker-0123456789ab", false),
        ] {
            let node = json!({"metadata": {"labels": {LABEL: label}, "annotations": {ANNOTATION: annotation}}});
            assert_eq!(carries(&serde_json::from_value(node).unwrap(), &id), want);
        }
    }
}
