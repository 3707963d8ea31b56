//! Ports by their names: those of a pod's own containers, and those that a Service's pods have.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Placed;
use super::mentions::list;

/// Where the pod of an object is described, and how; `None` for one that makes no pods.
pub fn spec_of(object: &Value) -> Option<(&'static str, &Value)> {
    Some(match object["kind"].as_str()? {
        "Pod" => ("spec", &object["spec"]),
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => {
            ("spec.template.spec", &object["spec"]["template"]["spec"])
        }
        "CronJob" => (
            "spec.jobTemplate.spec.template.spec",
            &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        ),
        _ => return None,
    })
}

/// The pod of an object, if it makes any.
pub fn pod_of(object: &Value) -> Option<&Value> {
    spec_of(object).map(|(_, spec)| spec)
}

/// Labels of an object's pods.
fn labels_of(object: &Value) -> &Value {
    match object["kind"].as_str() {
        Some("Pod") => &object["metadata"]["labels"],
        Some("CronJob") => &object["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"],
        _ => &object["spec"]["template"]["metadata"]["labels"],
    }
}

/// Names of the ports of a pod's containers.
fn names(spec: &Value) -> BTreeSet<&str> {
    let containers = ["initContainers", "containers"].into_iter().flat_map(|g| list(&spec[g]));
    let ports = containers.flat_map(|(_, container)| list(&container["ports"]));
    ports.filter_map(|(_, port)| port["name"].as_str()).collect()
}

/// What is wrong with the ports that `placed` names.
pub fn ports(placed: &Placed<'_>, all: &[Placed<'_>]) -> Vec<String> {
    if placed.object["kind"] == "Service" {
        return of_service(placed, all);
    }
    let Some((path, spec)) = spec_of(placed.object) else { return Vec::new() };
    let (names, mut wrong) = (names(spec), Vec::new());
    for (n, container) in list(&spec["containers"]) {
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let ways = ["httpGet", "tcpSocket"].map(|way| container[probe][way]["port"].as_str());
            for port in ways.into_iter().flatten().filter(|port| !names.contains(port)) {
                let place = format!("{path}.containers[{n}].{probe}");
                wrong.push(format!("{place} names port {port}, which no container of the pod has"));
            }
        }
    }
    wrong
}

/// A Service whose pods are not known here may have any.
fn of_service(placed: &Placed<'_>, all: &[Placed<'_>]) -> Vec<String> {
    let Some(selector) = placed.object["spec"]["selector"].as_object() else { return Vec::new() };
    let selected = |other: &&Placed<'_>| {
        let labels = labels_of(other.object);
        other.namespace() == placed.namespace()
            && spec_of(other.object).is_some()
            && selector.iter().all(|(key, value)| labels[key] == *value)
    };
    let pods: Vec<_> = all.iter().filter(selected).filter_map(|o| spec_of(o.object)).collect();
    let mut wrong = Vec::new();
    for (n, port) in list(&placed.object["spec"]["ports"]) {
        let Some(target) = port["targetPort"].as_str() else { continue };
        if !pods.is_empty() && !pods.iter().any(|(_, spec)| names(spec).contains(target)) {
            wrong.push(format!(
                "spec.ports[{n}].targetPort names port {target}, which no pod that it selects has"
            ));
        }
    }
    wrong
}
