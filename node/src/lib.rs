//! The contract between `builder` and `firstboot`: what one writes and the other reads.
//!
//! A crate of its own so that neither program links what only the other needs: no async, no
//! Kubernetes client, no network. Everything here is plain data with its checks, plus the two
//! things both programs must do the same way: write a file that is never half there
//! ([`files`]) and run another program ([`command`]).

pub mod annotations;
pub mod bundle;
pub mod command;
pub mod config;
pub mod failpoint;
pub mod files;
pub mod image_id;
pub mod join;
pub mod json;
pub mod nfs;
pub mod packages;
pub mod report;
pub mod token;
pub mod values;
