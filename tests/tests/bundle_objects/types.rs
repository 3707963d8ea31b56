//! Types: those the API serves by itself, and stand-ins for those of charts that cannot be had.

use std::collections::BTreeSet;

use e2e::home::Home;
use e2e::kubernetes::Cluster;
use e2e::lab::repository;
use fs_err as fs;
use serde_json::{Value, json};

/// A type of a chart that cannot be downloaded here.
pub struct Permissive {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub namespaced: bool,
}

const fn of(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Permissive {
    Permissive { group, version, kind, plural, namespaced: true }
}

/// What this home's objects are of, as the charts of cert-manager, `MetalLB`, kube-prometheus-stack and
/// Traefik name it.
pub const PERMISSIVE: [Permissive; 11] = [
    of("cert-manager.io", "v1", "Certificate", "certificates"),
    Permissive {
        namespaced: false,
        ..of("cert-manager.io", "v1", "ClusterIssuer", "clusterissuers")
    },
    of("metallb.io", "v1beta1", "IPAddressPool", "ipaddresspools"),
    of("metallb.io", "v1beta1", "L2Advertisement", "l2advertisements"),
    of("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    of("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    of("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    of("traefik.io", "v1alpha1", "IngressRoute", "ingressroutes"),
    of("traefik.io", "v1alpha1", "IngressRouteTCP", "ingressroutetcps"),
    of("traefik.io", "v1alpha1", "Middleware", "middlewares"),
    of("traefik.io", "v1alpha1", "MiddlewareTCP", "middlewaretcps"),
];

impl Permissive {
    /// Its CRD: any content will do.
    fn definition(&self) -> Value {
        let scope = if self.namespaced { "Namespaced" } else { "Cluster" };
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({
            "name": self.version, "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema},
        });
        let names = json!({
            "kind": self.kind, "listKind": format!("{}List", self.kind),
            "plural": self.plural, "singular": self.kind.to_lowercase(),
        });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", self.plural, self.group)},
            "spec": {
                "group": self.group, "scope": scope, "names": names, "versions": [version],
            },
        })
    }
}

/// Adds a release of the stand-ins to a home, which states too what releases that left it would make.
pub fn add(home: &Home, makes: &[String]) {
    let all: Vec<_> = PERMISSIVE.iter().map(|kind| kind.definition().to_string()).collect();
    // Gone with the bundle they would take everybody's objects along.
    let release = format!("wave = \"storage\"\nstateful = true\nmakes = {}\n", json!(makes));
    home.put("infra/permissive-types/release.toml", &release).unwrap();
    home.put("infra/permissive-types/manifests/types.yaml", &all.join("\n---\n")).unwrap();
}

/// The kinds of an API version, as `API/KIND`; what is reached by way of another kind is none.
fn kinds(cluster: &Cluster, api: &str) -> Vec<String> {
    let place = if api == "v1" { "api" } else { "apis" };
    let text = cluster.kubectl(&["get", "--raw", &format!("/{place}/{api}")]).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let all = list["resources"].as_array().unwrap().iter();
    let own = all.filter(|kind| !kind["name"].as_str().unwrap().contains('/'));
    own.map(|kind| format!("{api}/{}", kind["kind"].as_str().unwrap())).collect()
}

/// `builder bundle render` has no cluster to ask; its table must not drift from one.
pub fn what_render_tells_charts_is_what_the_server_serves(cluster: &Cluster) {
    let text = fs::read_to_string(repository().join("builder/src/bundle/kinds.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let told: BTreeSet<_> = lines
        .flat_map(|line| {
            let (api, kinds) = line.split_once(' ').unwrap();
            kinds.split(' ').map(move |kind| format!("{api}/{kind}"))
        })
        .collect();
    let versions = cluster.kubectl(&["api-versions"]).unwrap();
    let served: BTreeSet<_> = versions.lines().flat_map(|api| kinds(cluster, api)).collect();
    assert_eq!(told, served, "builder/src/bundle/kinds.txt and the server");
    println!("bundle: {} kinds of the server are known to render", served.len());
}
