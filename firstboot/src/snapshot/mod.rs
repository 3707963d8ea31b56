//! Snapshots of etcd (D12): K3s takes them on the local disk, firstboot carries them to NFS, proves
//! what it carried, keeps as many as it should, and says which of them may be restored.

pub mod choose;
pub mod commands;
pub mod copy;
pub mod place;
pub mod retention;
pub mod save;
pub mod sidecar;

/// Where K3s keeps its own, relative to the root.
pub const LOCAL: &str = "var/lib/rancher/k3s/server/db/snapshots";
