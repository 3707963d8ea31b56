//! When a thing is healthy: rules of the kinds that most charts have, and any condition of all others.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use node::bundle::Gate;
use serde_json::{Value, json};

use super::Target;
use super::objects::Objects;
use crate::retry::{Look, until};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// What one look at a gate's object says.
#[derive(Debug, PartialEq, Eq)]
enum Health {
    Healthy,
    /// Not yet, and why.
    NotYet(String),
    /// It will not become healthy by itself.
    Hopeless(String),
}

/// Waits until `gate` holds in `namespace`.
///
/// # Errors
/// The deadline, with what was last seen; or what cannot become healthy any more.
pub fn pass(
    target: &Target<'_>,
    objects: &Objects<'_>,
    gate: &Gate,
    namespace: &str,
) -> Result<()> {
    let limit = (target.limit)(Duration::from_secs(gate.within_seconds));
    let named = json!({"apiVersion": gate.api, "kind": gate.kind, "metadata": {"name": gate.name}});
    until(limit, PAUSE, || {
        let found = objects.name_of(&named, namespace).and_then(|what| objects.get(&what));
        let health = match found {
            Ok(Some(object)) => judge(gate, &object),
            Ok(None) => Health::NotYet("it is not there".to_owned()),
            Err(error) => Health::NotYet(format!("{error:#}")),
        };
        match health {
            Health::Healthy => Ok(Look::Done(())),
            Health::NotYet(why) => Ok(Look::NotYet(why)),
            Health::Hopeless(why) => bail!(why),
        }
    })
    .with_context(|| format!("{} {} is not healthy", gate.kind, gate.name))
}

fn judge(gate: &Gate, object: &Value) -> Health {
    if let Some(condition) = &gate.condition {
        return has_condition(object, condition);
    }
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let seen = number(&status["observedGeneration"]) >= number(&object["metadata"]["generation"]);
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let count = |ready: &Value, updated: &Value, wanted: i64| match seen {
        false => Health::NotYet("its controller has not seen the change".to_owned()),
        true if number(updated) < wanted => {
            Health::NotYet(format!("{} of {wanted} pods are new", number(updated)))
        }
        true if number(ready) < wanted => {
            Health::NotYet(format!("{} of {wanted} pods are ready", number(ready)))
        }
        true => Health::Healthy,
    };
    match gate.kind.as_str() {
        "Deployment" => count(&status["availableReplicas"], &status["updatedReplicas"], wanted),
        "StatefulSet" => count(&status["readyReplicas"], &status["updatedReplicas"], wanted),
        "DaemonSet" => {
            let wanted = number(&status["desiredNumberScheduled"]);
            count(&status["numberAvailable"], &status["updatedNumberScheduled"], wanted)
        }
        "Job" => job(object),
        "PersistentVolumeClaim" if status["phase"] == "Bound" => Health::Healthy,
        "PersistentVolumeClaim" => Health::NotYet(format!("its phase is {}", status["phase"])),
        "Service" => service(object),
        kind => Health::Hopeless(format!("there is no rule for {kind} without a condition")),
    }
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object["status"]["conditions"].as_array().into_iter().flatten()
}

fn has_condition(object: &Value, wanted: &str) -> Health {
    match conditions(object).find(|c| c["type"] == *wanted) {
        Some(condition) if condition["status"] == "True" => Health::Healthy,
        Some(condition) => {
            let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            Health::NotYet(format!("{wanted} is {}: {}", word("status"), word("message")))
        }
        None => Health::NotYet(format!("it has no condition {wanted} yet")),
    }
}

fn job(object: &Value) -> Health {
    let failed = conditions(object).find(|c| c["type"] == "Failed" && c["status"] == "True");
    if let Some(failed) = failed {
        let why = failed["message"].as_str().unwrap_or("no reason given");
        return Health::Hopeless(format!("it failed: {why}"));
    }
    has_condition(object, "Complete")
}

/// One that others reach from outside has an address when it was given one.
fn service(object: &Value) -> Health {
    let given = object["status"]["loadBalancer"]["ingress"].as_array();
    let cluster_ip = object["spec"]["clusterIP"].as_str().unwrap_or_default();
    match object["spec"]["type"].as_str() {
        Some("LoadBalancer") if given.is_none_or(Vec::is_empty) => {
            Health::NotYet("it has no address from a load balancer".to_owned())
        }
        Some("LoadBalancer") => Health::Healthy,
        _ if cluster_ip.is_empty() => Health::NotYet("it has no address".to_owned()),
        _ => Health::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(kind: &str, condition: Option<&str>) -> Gate {
        Gate {
            api: "apps/v1".into(),
            kind: kind.into(),
            name: "x".into(),
            condition: condition.map(str::to_owned),
            within_seconds: 1,
        }
    }

    fn not_yet(text: &str) -> Health {
        Health::NotYet(text.to_owned())
    }

    #[test]
    fn each_kind_has_its_rule() {
        let ready = |generation: i64, updated: i64, ready: i64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {
                "observedGeneration": generation, "updatedReplicas": updated,
                "readyReplicas": ready, "availableReplicas": ready}})
        };
        for kind in ["Deployment", "StatefulSet"] {
            let judge = |object: &Value| judge(&gate(kind, None), object);
            assert_eq!(judge(&ready(2, 2, 2)), Health::Healthy);
            assert_eq!(judge(&ready(2, 1, 2)), not_yet("1 of 2 pods are new"));
            assert_eq!(judge(&ready(2, 2, 1)), not_yet("1 of 2 pods are ready"));
            assert_eq!(judge(&ready(1, 2, 2)), not_yet("its controller has not seen the change"));
        }
        let set = |available: i64| {
            json!({"status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3,
                "numberAvailable": available}})
        };
        assert_eq!(judge(&gate("DaemonSet", None), &set(3)), Health::Healthy);
        assert_eq!(judge(&gate("DaemonSet", None), &set(2)), not_yet("2 of 3 pods are ready"));
        let claim = |phase: &str| json!({"status": {"phase": phase}});
        assert_eq!(judge(&gate("PersistentVolumeClaim", None), &claim("Bound")), Health::Healthy);
        let pending = judge(&gate("PersistentVolumeClaim", None), &claim("Pending"));
        assert_eq!(pending, not_yet("its phase is \"Pending\""));
        assert!(matches!(judge(&gate("Pod", None), &json!({})), Health::Hopeless(_)));
    }

    #[test]
    fn jobs_services_and_conditions() {
        let with = |kind: &str, status: &str| json!({"status": {"conditions": [{"type": kind, "status": status, "message": "why"}]}});
        let job = gate("Job", None);
        assert_eq!(judge(&job, &with("Complete", "True")), Health::Healthy);
        let failed = judge(&job, &with("Failed", "True"));
        assert_eq!(failed, Health::Hopeless("it failed: why".into()));
        let issuer = gate("ClusterIssuer", Some("Ready"));
        assert_eq!(judge(&issuer, &with("Ready", "True")), Health::Healthy);
        assert_eq!(judge(&issuer, &with("Ready", "False")), not_yet("Ready is False: why"));
        assert_eq!(judge(&issuer, &json!({})), not_yet("it has no condition Ready yet"));
        let service = |kind: &str, status: Value| {
            let object = json!({"spec": {"type": kind, "clusterIP": "10.0.0.1"}, "status": status});
            judge(&gate("Service", None), &object)
        };
        let none = service("LoadBalancer", json!({"loadBalancer": {}}));
        assert_eq!(none, not_yet("it has no address from a load balancer"));
        let given = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        assert_eq!(service("LoadBalancer", given), Health::Healthy);
        assert_eq!(service("ClusterIP", json!({})), Health::Healthy);
    }
}
