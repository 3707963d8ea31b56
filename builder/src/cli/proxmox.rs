//! The arguments of the commands that talk to Proxmox.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `preflight`.
#[derive(Debug, Args)]
pub struct PreflightArgs {
    /// Check only this Proxmox host; repeat [default: every host of cluster.toml]
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
}

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Push the newest image of this profile
    #[arg(long, value_name = "NAME")]
    pub profile: String,
    /// Proxmox host to push to, or all; repeat [default: the hosts of the
    /// profile's nodes in cluster.toml]
    #[arg(long, value_name = "HOST")]
    pub to: Vec<String>,
    /// Leave all old templates
    #[arg(long)]
    pub no_prune: bool,
    /// Where images are
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// For tests: push also an image with the stand-in for K3s
    #[arg(long, hide = true)]
    pub allow_standin: bool,
}
