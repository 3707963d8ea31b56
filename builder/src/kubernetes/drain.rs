//! Emptying a node by evictions, which respect disruption budgets (traps R4).

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::core::Status;
use serde::Serialize;
use serde_json::json;

use super::Kube;
use crate::life::{Answer, Drain, Failed};

/// Marks the API's picture of a pod that the kubelet runs from a file: it cannot be evicted.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Reason of the API's refusal that names a disruption budget.
const BUDGET: &str = "DisruptionBudget";

/// A pod by what names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from a later pod of the same name.
    #[serde(skip)]
    pub uid: String,
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Kube {
    /// One round: asks for the eviction of every pod that has to go and is not ending already. What is
    /// still there, each as `namespace/name: why`; nothing when the node is empty. After the
    /// deadline (`last`), [`Drain::force`] deletes what a budget holds.
    ///
    /// # Errors
    /// [`Failed::Never`], before any pod is touched, when the policy keeps one; or one has two
    /// budgets, which the API cannot serve; else the API does not answer.
    pub fn drain(&self, node: &str, how: Drain, last: bool) -> Answer<Vec<String>> {
        let pods = self.pods_on(node)?;
        let kept: Vec<_> = pods.iter().filter_map(|pod| forbidden(pod, how)).collect();
        if !kept.is_empty() {
            return Err(Failed::Never(format!("pods are in the way:\n  {}", kept.join("\n  "))));
        }
        let mut left = Vec::new();
        for pod in pods.iter().filter(|pod| judge(pod, how) == Judged::Evict) {
            let id = id_of(pod);
            let why = match pod.metadata.deletion_timestamp {
                Some(_) => Some(ending(pod)),
                None => match self.evict(pod, &id)? {
                    Evicted::Held(_) if last && how.force => {
                        self.delete_pod(&id, None)?.then(|| ending(pod))
                    }
                    Evicted::Held(why) => Some(why),
                    Evicted::Gone => None,
                },
            };
            left.extend(why.map(|why| format!("{id}: {why}")));
        }
        Ok(left)
    }

    /// Every pod that was placed on a node.
    pub(super) fn pods_on(&self, node: &str) -> Answer<Vec<Pod>> {
        let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
        Ok(self.wait(self.all::<Pod>().list(&there))?.items)
    }

    fn evict(&self, pod: &Pod, id: &PodId) -> Answer<Evicted> {
        // Not by kube's own `evict`, which sends no precondition: a StatefulSet's next pod has the
        // same name, and may run elsewhere already.
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": id.name, "namespace": id.namespace},
            "deleteOptions": {"preconditions": {"uid": id.uid}},
        });
        let pods = self.namespaced::<Pod>(&id.namespace);
        let params = PostParams::default();
        let asked = pods.create_subresource::<_, Status>("eviction", &id.name, &params, &eviction);
        match self.api.wait(asked) {
            Ok(_) => Ok(Evicted::Held(ending(pod))),
            Err(kube::Error::Api(status)) => refused(id, &status),
            Err(other) => Err(super::told(&other)),
        }
    }
}

/// What came of asking a pod to go.
#[derive(Debug, PartialEq, Eq)]
enum Evicted {
    /// It is gone.
    Gone,
    /// It is still there, for this reason.
    Held(String),
}

/// What a refusal to evict means.
fn refused(id: &PodId, status: &Status) -> Answer<Evicted> {
    match status.code {
        // Gone, or another pod of that name.
        404 | 409 => Ok(Evicted::Gone),
        429 => Ok(Evicted::Held(budget(status))),
        // The namespace itself is being deleted: its pods go by themselves.
        403 if cause(status, "NamespaceTerminating").is_some() => {
            Ok(Evicted::Held("goes with its namespace".to_owned()))
        }
        500 if status.message.contains("more than one PodDisruptionBudget") => {
            Err(Failed::Never(format!(
                "{id} has two PodDisruptionBudgets, and Kubernetes evicts no such pod; remove one"
            )))
        }
        _ => {
            let text = format!("{id} is not evicted: {} ({})", status.message, status.code);
            Err(if status.code >= 500 { Failed::Later(text) } else { Failed::Never(text) })
        }
    }
}

/// The budget's own words, which name it; of others, the API's.
fn budget(status: &Status) -> String {
    match cause(status, BUDGET) {
        Some(text) => format!("held by a PodDisruptionBudget: {text}"),
        None => format!("held: {}", status.message),
    }
}

fn cause<'a>(status: &'a Status, reason: &str) -> Option<&'a str> {
    let causes = &status.details.as_ref()?.causes;
    causes.iter().find(|c| c.reason == reason).map(|c| c.message.as_str())
}

/// What is to be done with a pod.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Evict,
    Stay,
    Forbidden(&'static str),
}

fn forbidden(pod: &Pod, how: Drain) -> Option<String> {
    match judge(pod, how) {
        Judged::Forbidden(why) => Some(format!("{} {why}", id_of(pod))),
        _ => None,
    }
}

fn judge(pod: &Pod, how: Drain) -> Judged {
    let marks = pod.metadata.annotations.as_ref();
    let owner = controller(pod);
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    // What has been told to go goes, whoever told it.
    let ending = pod.metadata.deletion_timestamp.is_some();
    match owner {
        _ if marks.is_some_and(|m| m.contains_key(MIRROR)) => Judged::Stay,
        _ if matches!(phase, Some("Succeeded" | "Failed")) => Judged::Stay,
        Some("DaemonSet") => Judged::Stay,
        None if !how.force && !ending => Judged::Forbidden(
            "has no controller that would make it again; move it, or give --force to lose it",
        ),
        _ if !how.empty_dirs && !ending && has_empty_dir(pod) => Judged::Forbidden(
            "has an emptyDir volume, whose content would be lost; leave out --keep-emptydir to lose it",
        ),
        _ => Judged::Evict,
    }
}

/// Kind of what makes a pod again.
fn controller(pod: &Pod) -> Option<&str> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|o| o.controller == Some(true)).map(|o| o.kind.as_str())
}

fn has_empty_dir(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes.into_iter().flatten().any(|v| v.empty_dir.is_some())
}

fn ending(pod: &Pod) -> String {
    let grace = pod.metadata.deletion_grace_period_seconds;
    let grace = grace.or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds));
    match pod.metadata.finalizers.as_deref() {
        Some([first, ..]) => format!("ending, and waits for its finalizer {first}"),
        _ => format!("ending, for at most {} s", grace.unwrap_or(30)),
    }
}

pub(super) fn id_of(pod: &Pod) -> PodId {
    let meta = &pod.metadata;
    PodId {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// Whether a pod would go in a drain, and so has to be freed when its node is dead.
pub fn moves(pod: &Pod) -> bool {
    judge(pod, Drain { empty_dirs: true, force: true }) == Judged::Evict
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const STRICT: Drain = Drain { empty_dirs: false, force: false };
    const LOOSE: Drain = Drain { empty_dirs: true, force: true };

    fn pod(meta: &Value, rest: &Value) -> Pod {
        let mut object = json!({"metadata": {"namespace": "apps", "name": "p", "uid": "u"}});
        for (key, value) in meta.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn of(kind: &str) -> Value {
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": "o", "uid": "o",
            "controller": true}]})
    }

    #[test]
    fn each_kind_of_pod_is_judged_by_the_policy() {
        let volume =
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let none = &json!({});
        let cases = [
            ("a Deployment's", pod(&of("ReplicaSet"), none), Judged::Evict, Judged::Evict),
            ("a DaemonSet's", pod(&of("DaemonSet"), none), Judged::Stay, Judged::Stay),
            (
                "the kubelet's own",
                pod(&json!({"annotations": {MIRROR: "x"}}), none),
                Judged::Stay,
                Judged::Stay,
            ),
            (
                "finished",
                pod(none, &json!({"status": {"phase": "Succeeded"}})),
                Judged::Stay,
                Judged::Stay,
            ),
            (
                "bare and ending",
                pod(&json!({"deletionTimestamp": "2026-11-26T12:00:00Z"}), none),
                Judged::Evict,
                Judged::Evict,
            ),
        ];
        for (name, pod, strict, loose) in cases {
            assert_eq!(judge(&pod, STRICT), strict, "{name}");
            assert_eq!(judge(&pod, LOOSE), loose, "{name}");
        }
        for (pod, words) in [
            (pod(none, none), "give --force"),
            (pod(&of("StatefulSet"), &volume), "leave out --keep-emptydir"),
        ] {
            let Judged::Forbidden(why) = judge(&pod, STRICT) else { panic!("{words}") };
            assert!(why.contains(words), "{why}");
            assert_eq!(judge(&pod, LOOSE), Judged::Evict);
        }
    }

    #[test]
    fn a_refusal_to_evict_says_what_holds_the_pod() {
        let id = PodId { namespace: "apps".into(), name: "p".into(), uid: "u".into() };
        let status = |code: u16, message: &str, cause: Value| -> Status {
            serde_json::from_value(json!({"status": "Failure", "code": code, "message": message,
                "details": {"causes": [cause]}}))
            .unwrap()
        };
        let text = "The disruption budget hello needs 2 healthy pods and has 2 currently";
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                   does not support.";
        let named = json!({"reason": BUDGET, "message": text});
        let held = |why: &str| Ok(Evicted::Held(why.to_owned()));
        let cases = [
            (status(404, "gone", json!({})), Ok(Evicted::Gone)),
            (status(429, "no", named), held(&format!("held by a PodDisruptionBudget: {text}"))),
            (status(429, "too many requests", json!({})), held("held: too many requests")),
            (
                status(500, two, json!({})),
                Err(Failed::Never(
                    "apps/p has two PodDisruptionBudgets, and Kubernetes evicts no such pod; remove \
                     one"
                    .into(),
                )),
            ),
            (
                status(500, "etcd", json!({})),
                Err(Failed::Later("apps/p is not evicted: etcd (500)".into())),
            ),
            (
                status(403, "no", json!({})),
                Err(Failed::Never("apps/p is not evicted: no (403)".into())),
            ),
        ];
        for (status, want) in cases {
            assert_eq!(refused(&id, &status), want);
        }
    }
}
