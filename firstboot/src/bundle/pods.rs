//! Why a release does not become ready, in the words of its pods: helm only says that it waited.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::kubernetes::Kubernetes;

/// How many pods are named: the first is nearly always the cause of the rest.
const MOST: usize = 3;

/// What keeps the pods of a release from running, by the label that charts give them; empty when
/// nothing can be said.
pub fn trouble(kubernetes: &Kubernetes, namespace: &str, release: &str) -> Vec<String> {
    let api: Api<Pod> = Api::namespaced(kubernetes.client(), namespace);
    let wanted = ListParams::default().labels(&format!("app.kubernetes.io/instance={release}"));
    let Ok(pods) = kubernetes.wait(api.list(&wanted)) else { return Vec::new() };
    let said = pods.items.iter().filter_map(|pod| {
        let why = why(pod)?;
        Some(format!("pod {}: {why}", pod.metadata.name.as_deref().unwrap_or_default()))
    });
    said.take(MOST).collect()
}

fn why(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.clone().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        return condition.message.clone();
    }
    let containers =
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers.filter(|c| !c.ready) {
        let state = container.state.as_ref();
        if let Some(waiting) = state.and_then(|s| s.waiting.as_ref()) {
            let words = [waiting.reason.as_deref(), waiting.message.as_deref()];
            return Some(words.into_iter().flatten().collect::<Vec<_>>().join(": "));
        }
        let ended = container.last_state.as_ref().or(state).and_then(|s| s.terminated.as_ref());
        if let Some(ended) = ended.filter(|e| e.exit_code != 0) {
            return Some(format!("container {} ended with {}", container.name, ended.exit_code));
        }
    }
    conditions
        .clone()
        .find(|c| c.type_ == "Ready" && c.status == "False")
        .and_then(|c| c.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_says_what_keeps_it() {
        let why = |status: serde_json::Value| {
            why(&serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap())
        };
        let container = |state: serde_json::Value| {
            json!({"containerStatuses": [{"name": "c", "ready": false, "restartCount": 0,
                "image": "i", "imageID": "", "state": state}]})
        };
        let pull = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
        assert_eq!(why(container(pull)).as_deref(), Some("ImagePullBackOff: no such image"));
        let ended = json!({"terminated": {"exitCode": 3}});
        assert_eq!(why(container(ended)).as_deref(), Some("container c ended with 3"));
        let full = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]});
        assert_eq!(why(full).as_deref(), Some("no room"));
        assert_eq!(why(json!({"conditions": [{"type": "Ready", "status": "True"}]})), None);
    }
}
