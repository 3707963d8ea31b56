//! `profiles/NAME.toml` as written: nothing checked but types and key names.

use node::config::Role;
use node::values::Size;
use schemars::JsonSchema;
use serde::Deserialize;

use super::document::{At, TextTable};

/// What the image of a node's role holds, and the VM it is made for.
///
/// With `extends`, tables are joined key by key and everything else replaces what the other
/// profile says; the other profile may not extend a third.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "profiles/NAME.toml", rename = "Profile")]
pub struct RawProfile {
    /// The profile this one adds to.
    pub extends: Option<At<String>>,
    /// Name of a file in `images/`, without `.toml`.
    pub image: Option<At<String>>,
    /// Whether the node runs the control plane. A profile without a role is only there to be
    /// extended.
    pub role: Option<At<Role>>,
    /// Settings of K3s on such a node.
    pub k3s: Option<At<RawK3s>>,
    /// Size of the VM; `cluster.toml` may say otherwise for one node.
    pub vm: Option<At<RawVm>>,
    /// Automatic updates between two rebuilds.
    pub upgrades: Option<At<RawUpgrades>>,
    /// Packages beyond the image's own, each with the reason it is there, in a sentence.
    pub packages: Option<At<TextTable>>,
    /// Folders below `images/` whose files are copied over those of the image.
    pub tree: Option<At<Vec<At<String>>>>,
}

/// Settings of K3s that differ by profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "K3s")]
pub struct RawK3s {
    /// Labels the kubelet registers its Node with.
    pub labels: Option<At<TextTable>>,
    /// Taints it registers with: `key=value:Effect`.
    pub taints: Option<At<Vec<At<String>>>>,
    /// Arguments of the kubelet, without the leading dashes.
    pub kubelet: Option<At<TextTable>>,
}

/// Size of a VM.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Vm")]
pub struct RawVm {
    /// Virtual CPUs.
    pub cores: Option<At<u32>>,
    /// Memory.
    pub memory: Option<At<Size>>,
    /// Size of the disk that the image grows to at its first boot.
    pub disk: Option<At<Size>>,
    /// Processor the guest sees, as Proxmox names it; `x86-64-v2-AES` when left out.
    pub cpu: Option<At<String>>,
}

/// What unattended-upgrades may do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Upgrades")]
pub struct RawUpgrades {
    /// Where updates may come from.
    pub origins: Option<At<Vec<At<Origin>>>>,
    /// Whether a node may restart itself after an update.
    pub reboot: Option<At<bool>>,
}

/// An origin of updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The security archive.
    Security,
    /// The updates suite of the main archive.
    Updates,
}
