//! The home's NetworkPolicies: each namespace denies what no policy opens, so what an object there
//! needs must be opened.

use builder::bundle::Bundle;
use builder::config::Project;
use builder::image::plan::facts;
use builder::lock::Lock;
use serde_json::{Value, json};

use crate::sample::shipped;

/// The port of cert-manager's answers to HTTP-01.
const SOLVER: u64 = 8089;

fn home() -> Bundle {
    let project = Project::load(&shipped()).unwrap();
    let facts = facts(&project, project.profile("master").unwrap()).unwrap();
    let lock = Lock::read(&shipped().join("builder.lock")).unwrap();
    Bundle::load(&shipped(), &facts, &lock).map_err(|p| p.to_string()).unwrap().unwrap()
}

/// Whether `policy` lets anyone reach the pods that answer to HTTP-01.
fn opens_solver(policy: &Value) -> bool {
    let spec = &policy["spec"];
    let rules = spec["ingress"].as_array().into_iter().flatten();
    let mut ports = rules
        .filter(|rule| rule["from"].is_null())
        .flat_map(|rule| rule["ports"].as_array().cloned().unwrap_or_default());
    policy["kind"] == "NetworkPolicy"
        && spec["podSelector"]["matchLabels"]
            == json!({"acme.cert-manager.io/http01-solver": "true"})
        && ports.any(|port| port["port"] == SOLVER)
}

/// The pod that answers runs in the namespace of the certificate that is asked for.
#[test]
fn answers_to_http_01_are_reached_wherever_a_certificate_is_asked_for() {
    let home = home();
    let mut asked = 0;
    for release in home.releases() {
        for object in release.manifests.values().flatten() {
            let issuer = object["spec"]["issuerRef"]["name"].as_str().unwrap_or_default();
            if object["kind"] != "Certificate" || !issuer.starts_with("letsencrypt") {
                continue;
            }
            let objects = &home.namespaces[&release.namespace];
            let (name, namespace) = (&object["metadata"]["name"], &release.namespace);
            let opens = objects.iter().any(opens_solver);
            assert!(opens, "nobody reaches the answer for the certificate {name} in {namespace}");
            asked += 1;
        }
    }
    assert!(asked >= 6, "only {asked} certificates were looked at");
}

/// PostgreSQL lets a namespace in by its label (FR35): then every pod there must be let out to it.
#[test]
fn where_the_label_says_so_every_pod_reaches_postgres() {
    let (home, mut labelled) = (home(), 0);
    let to_postgres = |policy: &Value| {
        let spec = &policy["spec"];
        let rules = spec["egress"].as_array().into_iter().flatten();
        let mut fitting = rules.filter(|rule| {
            let there = &rule["to"][0]["namespaceSelector"]["matchLabels"];
            there["kubernetes.io/metadata.name"] == "data" && rule["ports"][0]["port"] == 5432
        });
        spec["podSelector"] == json!({}) && fitting.next().is_some()
    };
    for (name, objects) in &home.namespaces {
        let labels = |o: &Value| o["metadata"]["labels"]["home-lab/uses-postgres"] == "true";
        if objects.iter().any(|o| o["kind"] == "Namespace" && labels(o)) {
            assert!(objects.iter().any(to_postgres), "pods of {name} may not go to PostgreSQL");
            labelled += 1;
        }
    }
    assert!(labelled > 0);
}
