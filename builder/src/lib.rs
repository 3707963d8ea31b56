//! Builds, boots and checks immutable K3s node images for Proxmox VE.
//!
//! The order of the modules is the order of the work: read the configuration, pin every input,
//! fetch it, build the image stage by stage, boot it.

pub mod boot;
pub mod bundle;
pub mod cli;
pub mod commands;
pub mod config;
pub mod disk;
pub mod fetch;
pub mod image;
pub mod kubernetes;
pub mod life;
pub mod lock;
pub mod logging;
pub mod notify;
pub mod proxmox;
pub mod secrets;
pub mod status;
pub mod store;
pub mod ui;

/// Exit code for wrong usage or configuration.
pub const USAGE: u8 = 2;
/// Exit code where what was looked at is not as it should be.
pub const UNHEALTHY: u8 = 3;
