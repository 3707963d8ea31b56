//! `cluster/bundle.toml` and `release.toml` as written: nothing checked but types and key names.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::At;

/// The bundle as a whole.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "cluster/bundle.toml", rename = "Bundle")]
pub struct RawBundle {
    /// Raised with every change that is rolled out: a server that carries a lower one changes
    /// nothing.
    #[schemars(required, range(min = 1))]
    pub revision: Option<At<u64>>,
    /// Groups of releases, in the order they are applied.
    #[schemars(required)]
    pub waves: Option<At<Vec<At<String>>>>,
}

/// One release: the folder is its name, the folder above its namespace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "cluster/NAMESPACE/RELEASE/release.toml", rename = "Release")]
pub struct RawRelease {
    /// A folder of `cluster/charts`, else the name of a chart in `builder.lock`; left out for plain
    /// objects alone.
    pub chart: Option<At<String>>,
    /// Its group, one of `waves` in `cluster/bundle.toml`.
    #[schemars(required)]
    pub wave: Option<At<String>>,
    /// Releases of the same or an earlier wave that must be healthy first. If one fails, this one is
    /// not tried.
    pub after: Option<At<Vec<At<String>>>>,
    /// Whether it holds data: then nothing of it is ever removed. Default: false.
    pub stateful: Option<At<bool>>,
    /// Whether it is part of the bundle; `[bundle]` of `cluster.toml` has the last word. Default:
    /// true.
    pub enabled: Option<At<bool>>,
    /// How long Helm waits for it, such as `10m`, which is the default.
    pub timeout: Option<At<String>>,
    /// What its chart makes that objects of others name: `KIND NAME`, or `KIND NAME PORT,PORT` with the
    /// ports of a Service or the keys of a Secret. Known by itself of plain objects.
    pub makes: Option<At<Vec<At<String>>>>,
    /// What the pods of its chart ask for together. Known by itself of plain objects.
    pub requests: Option<At<RawRequests>>,
    /// What the pods of its chart ask for on each node.
    pub per_node: Option<At<RawRequests>>,
    /// What must hold beyond Helm's own wait.
    pub healthy: Option<At<Vec<At<RawGate>>>>,
}

/// Requests of pods, as Kubernetes writes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Requests")]
pub struct RawRequests {
    /// Processors, such as `250m` or `2`.
    #[schemars(required)]
    pub cpu: Option<At<String>>,
    /// Memory, such as `512Mi`.
    #[schemars(required)]
    pub memory: Option<At<String>>,
}

/// A thing that must be healthy before what depends on its release begins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Gate")]
pub struct RawGate {
    /// API group and version of a kind that firstboot has no rule for, such as
    /// `cert-manager.io/v1`; then `condition` is needed.
    pub api: Option<At<String>>,
    /// Kind: `Deployment`, `StatefulSet`, `DaemonSet`, `Job`, `PersistentVolumeClaim`, `Service`, or
    /// any other with `api`.
    #[schemars(required)]
    pub kind: Option<At<String>>,
    /// Name, in the release's namespace if the kind has one.
    #[schemars(required)]
    pub name: Option<At<String>>,
    /// Condition that must be `True`.
    pub condition: Option<At<String>>,
    /// How long that may take, such as `5m`.
    #[schemars(required)]
    pub within: Option<At<String>>,
}
