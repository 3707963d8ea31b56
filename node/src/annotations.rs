//! What is said by annotations on a Node: between `builder` and a server, and from a restored server
//! to the others. A kubelet may read its own Node, so agents need no further right.

/// `builder` asks the server on this Node for a snapshot: any text it has not used before.
pub const SNAPSHOT_REQUEST: &str = "node.homelab/snapshot-request";
/// The answer: `REQUEST FILE SHA256`, once the snapshot is on NFS and was read back.
pub const SNAPSHOT_DONE: &str = "node.homelab/snapshot-done";
/// Set on every Node after the cluster was restored: its agent restarts K3s once, as revisions have
/// gone back and its caches may hold what no longer is (k3s.md §4.3).
pub const RESTORED: &str = "node.homelab/restored";
