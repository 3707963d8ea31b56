//! The life of a node: created, rebuilt, rolled back, deleted; and rollouts over many.
//!
//! A node is never changed in place: a rebuild is a new VM under a new number beside the old one, which
//! is off and kept until the new one is proven. The engine knows neither Proxmox nor Kubernetes: it
//! sees them through [`seams`], whose module says what holds of every call.
//!
//! [`begin`] makes the [`Journal`] of an operation, [`Op`] walks it along its table of steps
//! ([`tables`]); [`plan`] makes a [`Rollout`], [`Run`] has its operations under way. What lies in the
//! state folder ([`Folder`]) is all that the next builder needs, wherever this one was killed.

mod begin;
mod checks;
pub mod failed;
pub mod history;
mod journal;
mod on_node;
mod on_old;
mod on_vm;
mod op;
mod rollout;
mod run;
pub mod seams;
mod shelf;
mod step;
mod tables;
mod window;

pub use begin::{Request, begin};
pub use failed::Failed;
pub use journal::{Direction, Journal, Kind, Marks, Operation, Options, Outcome, Trace};
pub use op::{Op, PAUSE, Tick, World};
pub use rollout::{End, Rollout, Row, State, Wish, plan};
pub use run::Run;
pub use seams::{
    Answer, Cluster, Drain, Entry, Found, Gates, Health, Hypervisor, Member, NodeState, Off, Place,
    Snapshot, Template, Time, Traces, Vm, Way,
};
pub use shelf::{Drawer, Folder, Memory, Shelf};
pub use window::Window;
