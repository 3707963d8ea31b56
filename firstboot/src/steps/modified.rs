//! Whether this node still is its image: packages that were changed since are told on its
//! Kubernetes object, so that `kubectl get nodes -l node.homelab/modified` lists who waits for a
//! rebuild. Runs again after every unattended upgrade.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use node::packages::MODIFIED;
use serde_json::{Value, json};

use super::{Done, Step};
use crate::boot::Boot;
use crate::packages::changes;

/// The step.
pub const STEP: Step = Step {
    name: "modified",
    lasting: false,
    fix: "see whether the API answers, and `dpkg --audit` on the node; the step is tried again by \
          itself",
    satisfied: |_| Ok(false),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let Some(changes) = changes(&boot.machine)? else {
        return Ok(Done::unchanged("the image has no list of its packages"));
    };
    let says = match changes.len() {
        0 => "as built".to_owned(),
        n => format!("{n} packages differ from the image"),
    };
    let name = &boot.machine.hostname;
    let kubernetes = boot.kubernetes.as_ref().context("the step `api` has not run")?;
    if kubernetes.node(name)?.is_some_and(|node| carries(&node, &changes)) {
        return Ok(Done::unchanged(says));
    }
    kubernetes.patch_node(name, &patch(&changes)).context("failed to mark the node's packages")?;
    Ok(Done::changed(says))
}

/// What label and annotation are to be; nothing for a node that is as built.
fn marks(changes: &[String]) -> (Option<&'static str>, Option<String>) {
    if changes.is_empty() { (None, None) } else { (Some("true"), Some(changes.join(", "))) }
}

fn carries(node: &Node, changes: &[String]) -> bool {
    let label = node.metadata.labels.as_ref().and_then(|l| l.get(MODIFIED));
    let annotation = node.metadata.annotations.as_ref().and_then(|a| a.get(MODIFIED));
    let want = marks(changes);
    label.map(String::as_str) == want.0 && annotation == want.1.as_ref()
}

/// In a merge patch `null` takes a key away.
fn patch(changes: &[String]) -> Value {
    let (label, annotation) = marks(changes);
    json!({"metadata": {"labels": {MODIFIED: label}, "annotations": {MODIFIED: annotation}}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use node::packages::{PATH, STATUS};

    #[test]
    fn both_marks_come_and_both_go() {
        let node = |value: Value| serde_json::from_value::<Node>(value).unwrap();
        let changed = ["a 1 -> 2".to_owned(), "+ b 1".to_owned()];
        let want = json!({"metadata": {"labels": {MODIFIED: "true"},
            "annotations": {MODIFIED: "a 1 -> 2, + b 1"}}});
        assert_eq!(patch(&changed), want);
        assert!(carries(&node(want.clone()), &changed) && !carries(&node(want), &[]));
        assert_eq!(patch(&[])["metadata"]["labels"][MODIFIED], Value::Null);
        let plain = node(json!({"metadata": {}}));
        assert!(carries(&plain, &[]) && !carries(&plain, &changed));
    }

    #[test]
    fn changes_are_those_of_dpkg_against_the_image() {
        let (_dir, boot) = testing::agent();
        assert_eq!(changes(&boot.machine).unwrap(), None);
        testing::put(&boot, PATH, "a 1\n");
        assert!(changes(&boot.machine).is_err(), "no dpkg is not the same as no change");
        testing::put(&boot, STATUS, "Package: a\nStatus: install ok installed\nVersion: 2\n");
        assert_eq!(changes(&boot.machine).unwrap(), Some(vec!["a 1 -> 2".to_owned()]));
        testing::put(&boot, PATH, "a\n");
        let text = format!("{:#}", changes(&boot.machine).unwrap_err());
        assert!(text.starts_with("/usr/lib/firstboot/packages is damaged: line 1"), "{text}");
    }
}
