//! This node is Ready in Kubernetes, as of this boot: a Node object restored from a snapshot, or
//! left from before a reboot, says Ready too.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use node::config::Role;
use node::files::ensure_absent;

use super::api::{PAUSE, k3s_can_run};
use super::{Done, Step};
use crate::boot::Boot;
use crate::origin;
use crate::retry::{Look, until};

/// How long after the API's first answer: pods of the network must start, under emulation too.
const LIMIT: Duration = Duration::from_mins(5);

/// A kubelet renews its lease every 10 s and is given up after 40 s.
const FRESH: SignedDuration = SignedDuration::from_secs(40);

/// The step.
pub const STEP: Step = Step {
    name: "node-ready",
    lasting: false,
    fix: "see `kubectl describe node` on the master and `journalctl -u k3s -u k3s-agent` on the node",
    satisfied: |_| Ok(false),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let name = &boot.machine.hostname;
    let kubernetes = boot.kubernetes.as_ref().context("the step `api` has not run")?;
    let votes = boot.config.role == Role::Server && several_servers(boot);
    until(boot.machine.limit(LIMIT), PAUSE, || {
        k3s_can_run(boot)?;
        let seen = kubernetes.node(name).and_then(|node| Ok((node, kubernetes.lease(name)?)));
        Ok(match seen {
            Ok((node, lease)) => look(&boot.machine.boot_id, votes, node.as_ref(), lease.as_ref()),
            Err(error) => Look::NotYet(format!("the API stopped answering: {error:#}")),
        })
    })?;
    if boot.config.role == Role::Agent {
        return Ok(Done::unchanged(""));
    }
    // The new cluster stands: the permission to make one is used up.
    ensure_absent(&boot.path(origin::PERMISSION))?;
    Ok(Done::unchanged(format!("cluster {}", kubernetes.cluster_uid()?)))
}

/// Only beside others does a server's place in etcd have to be won.
fn several_servers(boot: &Boot) -> bool {
    boot.config.cluster.nodes.iter().filter(|n| n.role == Role::Server).count() > 1
}

fn look(boot_id: &str, votes: bool, node: Option<&Node>, lease: Option<&Lease>) -> Look<()> {
    match not_ready(boot_id, votes, node, lease) {
        None => Look::Done(()),
        Some(why) => Look::NotYet(format!("the node is not Ready: {why}")),
    }
}

/// What is still missing.
fn not_ready(
    boot_id: &str,
    votes: bool,
    node: Option<&Node>,
    lease: Option<&Lease>,
) -> Option<String> {
    let Some(node) = node else { return Some("it has not registered yet".into()) };
    let status = node.status.clone().unwrap_or_default();
    let seen = status.node_info.map(|i| i.boot_id).unwrap_or_default();
    if seen != boot_id {
        return Some(format!("its state is from boot {seen}, this is {boot_id}"));
    }
    let conditions = status.conditions.unwrap_or_default();
    // Set by K3s every 15 s (k3s.md §3.2); one left from before cannot be told from a new one.
    let voter = conditions.iter().find(|c| c.type_ == "EtcdIsVoter");
    if votes && voter.is_none_or(|c| c.status != "True") {
        let reason = voter.and_then(|c| c.reason.clone());
        let reason = reason.unwrap_or_else(|| "it says nothing of it yet".into());
        return Some(format!("it is no voting member of etcd: {reason}"));
    }
    let Some(ready) = conditions.into_iter().find(|c| c.type_ == "Ready") else {
        return Some("the kubelet has not reported yet".into());
    };
    if ready.status != "True" {
        let text = [ready.reason, ready.message].into_iter().flatten().collect::<Vec<_>>();
        return Some(text.join(": "));
    }
    let renewed = lease.and_then(|l| l.spec.as_ref()).and_then(|s| s.renew_time.as_ref());
    match renewed {
        None => Some("its lease is not there yet".into()),
        Some(at) if Timestamp::now().duration_since(at.0) > FRESH => {
            Some(format!("its lease was last renewed at {}", at.0))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lease(seconds_ago: i64) -> Lease {
        let at = Timestamp::now() - SignedDuration::from_secs(seconds_ago);
        let at = Timestamp::from_second(at.as_second()).unwrap();
        serde_json::from_value(json!({"metadata": {}, "spec": {"renewTime": format!("{at:.6}")}}))
            .unwrap()
    }

    fn node(boot: &str, ready: &str) -> Node {
        let info = json!({"bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "",
            "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
            "kubeProxyVersion": "", "operatingSystem": "", "architecture": ""});
        serde_json::from_value(json!({"metadata": {}, "status": {"nodeInfo": info, "conditions": [
            {"type": "MemoryPressure", "status": "False"},
            {"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "no cni"},
        ]}}))
        .unwrap()
    }

    #[test]
    fn ready_means_this_boot_a_true_condition_and_a_fresh_lease() {
        let cases = [
            (None, None, Some("it has not registered yet")),
            (
                Some(node("old", "True")),
                Some(lease(0)),
                Some("its state is from boot old, this is new"),
            ),
            (Some(node("new", "False")), Some(lease(0)), Some("KubeletNotReady: no cni")),
            (Some(node("new", "Unknown")), Some(lease(0)), Some("KubeletNotReady: no cni")),
            (Some(node("new", "True")), None, Some("its lease is not there yet")),
            (Some(node("new", "True")), Some(lease(300)), Some("its lease was last renewed at")),
            (Some(node("new", "True")), Some(lease(5)), None),
        ];
        for (node, lease, want) in cases {
            let got = not_ready("new", false, node.as_ref(), lease.as_ref());
            match want {
                None => assert_eq!(got, None),
                Some(want) => assert!(got.as_ref().unwrap().starts_with(want), "{got:?}"),
            }
        }
    }

    #[test]
    fn one_of_several_servers_must_have_its_vote() {
        let with = |status: &str| {
            let mut node = node("new", "True");
            let condition =
                json!({"type": "EtcdIsVoter", "status": status, "reason": "MemberIsLearner"});
            let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
            conditions.push(serde_json::from_value(condition).unwrap());
            not_ready("new", true, Some(&node), Some(&lease(5)))
        };
        assert_eq!(with("False").unwrap(), "it is no voting member of etcd: MemberIsLearner");
        assert_eq!(with("True"), None);
        let silent = not_ready("new", true, Some(&node("new", "True")), Some(&lease(5)));
        assert_eq!(silent.unwrap(), "it is no voting member of etcd: it says nothing of it yet");
    }
}
