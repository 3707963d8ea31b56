//! The life of a node: created, rebuilt, rolled back, deleted; and rollouts over many.
//!
//! A node is never changed in place: a rebuild is a new VM under a new number beside the old one, which
//! is off and kept until the new one is proven. The engine knows neither Proxmox nor Kubernetes: it
//! sees them through [`seams`], whose module says what holds of every call.

pub mod failed;
pub mod seams;

pub use failed::Failed;
pub use seams::{
    Answer, Cluster, Drain, Entry, Found, Gates, Health, Hypervisor, Member, NodeState, Off, Place,
    Snapshot, Template, Time, Traces, Vm, Way,
};
