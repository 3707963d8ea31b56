//! Who makes what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::Placed;
use crate::secrets::needs::Needs;

/// Kinds whose objects lie in no namespace, of those that others name.
const CLUSTER_WIDE: [&str; 6] =
    ["ClusterIssuer", "ClusterRole", "IngressClass", "Namespace", "PriorityClass", "StorageClass"];
/// What Kubernetes and K3s make by themselves, in every namespace where it says `*`.
const BY_ITSELF: [(&str, &str, &str); 6] = [
    ("ServiceAccount", "*", "default"),
    ("ConfigMap", "*", "kube-root-ca.crt"),
    ("PriorityClass", "", "system-cluster-critical"),
    ("PriorityClass", "", "system-node-critical"),
    ("Service", "default", "kubernetes"),
    ("Service", "kube-system", "kube-dns"),
];
/// Roles that Kubernetes makes by itself.
const ROLES: [&str; 4] = ["admin", "cluster-admin", "edit", "view"];

/// Ports of a Service, keys of a Secret or `ConfigMap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    /// Nobody said which.
    Any,
    /// These.
    Of(BTreeSet<String>),
}

impl Parts {
    /// All of them, as far as somebody said.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        let all = if let Self::Of(all) = self { Some(all) } else { None };
        all.into_iter().flatten().map(String::as_str)
    }

    /// Whether `part` is one, or may be.
    pub fn has(&self, part: &str) -> bool {
        *self == Self::Any || self.names().any(|name| name == part)
    }
}

/// What a release states to make: `KIND NAME`, and its ports or keys with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Kind.
    pub kind: String,
    /// Name, in the namespace of its release if the kind has one.
    pub name: String,
    parts: Parts,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        let parts: Vec<_> = self.parts.names().collect();
        if parts.is_empty() { Ok(()) } else { write!(f, " {}", parts.join(",")) }
    }
}

impl FromStr for Made {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split(' ').collect();
        let (kind, name, parts) = match words[..] {
            [kind, name] => (kind, name, Parts::Any),
            [kind, name, parts] => {
                (kind, name, Parts::Of(parts.split(',').map(str::to_owned).collect()))
            }
            _ => return Err("must be `KIND NAME` or `KIND NAME PORT,PORT`".to_owned()),
        };
        Ok(Self { kind: kind.to_owned(), name: name.to_owned(), parts })
    }
}

/// Everything that is made by somebody.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<(String, String, String), Parts>);

impl Known {
    /// What `objects` are and lead to.
    pub fn of(objects: &[Placed<'_>]) -> Self {
        let mut known = Self::default();
        for (kind, namespace, name) in BY_ITSELF {
            known.insert(kind, namespace, name, Parts::Any);
        }
        for role in ROLES {
            known.insert("ClusterRole", "", role, Parts::Any);
        }
        for placed in objects {
            known.object(placed);
        }
        known
    }

    /// What a release of `namespace` states.
    pub fn add(&mut self, made: &Made, namespace: &str) {
        self.insert(&made.kind, namespace, &made.name, made.parts.clone());
    }

    /// What the operator gives the cluster.
    pub fn add_secrets(&mut self, needs: &Needs, on: impl Fn(&str) -> bool) {
        for need in needs.secret.iter().filter(|need| need.wanted(&on)) {
            let keys = need.keys.keys().cloned().collect();
            self.insert("Secret", need.namespace.as_str(), need.name.as_str(), Parts::Of(keys));
        }
    }

    /// Whether all that is stated is there.
    pub fn has(&self, made: &Made, namespace: &str) -> bool {
        let namespace = if CLUSTER_WIDE.contains(&made.kind.as_str()) { "" } else { namespace };
        let there = self.parts(&made.kind, namespace, &made.name);
        there.is_some_and(|there| made.parts.names().all(|part| there.has(part)))
    }

    fn insert(&mut self, kind: &str, namespace: &str, name: &str, parts: Parts) {
        let namespace = if CLUSTER_WIDE.contains(&kind) { "" } else { namespace };
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        self.0.insert(key, parts);
    }

    fn object(&mut self, placed: &Placed<'_>) {
        let object = placed.object;
        let text = |value: &'_ Value| value.as_str().map(str::to_owned);
        let (Some(kind), Some(name)) = (text(&object["kind"]), text(&object["metadata"]["name"]))
        else {
            return;
        };
        let parts = match kind.as_str() {
            "Service" => Parts::Of(ports(&object["spec"]["ports"])),
            "Secret" | "ConfigMap" => Parts::Of(keys(object)),
            _ => Parts::Any,
        };
        self.insert(&kind, placed.namespace(), &name, parts);
        if let ("Certificate", Some(secret)) = (kind.as_str(), text(&object["spec"]["secretName"]))
        {
            let keys = ["ca.crt", "tls.crt", "tls.key"].map(str::to_owned).into();
            self.insert("Secret", placed.namespace(), &secret, Parts::Of(keys));
        }
    }

    /// Ports or keys of what is made; `None` for what is not.
    pub fn parts(&self, kind: &str, namespace: &str, name: &str) -> Option<&Parts> {
        let at =
            |namespace: &str| self.0.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()));
        at(namespace).or_else(|| at("*"))
    }

    /// Names of a kind in a namespace.
    pub fn names<'a>(
        &'a self,
        kind: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a str> + Clone {
        let fit = move |(k, n, _): &&(String, String, String)| k == kind && n == namespace;
        self.0.keys().filter(fit).map(|(_, _, name)| name.as_str())
    }
}

/// Numbers and names of a Service's ports.
fn ports(list: &Value) -> BTreeSet<String> {
    let ports = list.as_array().into_iter().flatten();
    let both = |port: &Value| {
        let number = port["port"].as_u64().map(|number| number.to_string());
        number.into_iter().chain(port["name"].as_str().map(str::to_owned))
    };
    ports.flat_map(both).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    let tables = ["data", "stringData", "binaryData"].iter();
    let tables = tables.filter_map(|table| object[*table].as_object());
    tables.flat_map(|table| table.keys().cloned()).collect()
}
