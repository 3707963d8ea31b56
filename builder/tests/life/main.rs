//! The life of nodes against a model of Proxmox and Kubernetes in virtual time: operations, faults and kills
//! at every call, rollouts by property.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken preparation ends the test")]
#![allow(clippy::print_stdout, reason = "how many cases ran belongs into the test's output")]

mod back;
mod disk;
mod invariants;
mod kubernetes;
mod model;
mod proxmox;
mod rollouts;
mod sample;
mod setup;
mod single;
mod state;
mod surroundings;
mod sweep;
