//! The contract between `builder` and `firstboot`: what one writes and the other reads.
//!
//! A crate of its own so that neither program links what only the other needs: no async, no
//! Kubernetes client, no network. Everything here is plain data with its checks, plus the two
//! things both programs must do the same way: write a file that is never half there
//! ([`files`]) and run another program ([`command`]).

pub mod command;
pub mod config;
pub mod files;
pub mod image_id;
pub mod join;
pub mod report;
pub mod values;
