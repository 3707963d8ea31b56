//! Arguments of `builder bundle`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{SourceArgs, path_pair};

/// Commands on what runs in the cluster.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Print the final YAML of everything, in the order it is applied
    Render(RenderArgs),
    /// Say what applying would change, by server-side dry run; exit status 3 if
    /// anything
    Diff(LiveArgs),
    /// Apply it by hand, as a server does at boot
    Apply(LiveArgs),
}

/// Where the bundle comes from.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Whose facts templates see [default: the first server profile]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// The lock that has helm and the charts
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub lock: PathBuf,
    /// Take a chart or helm from a file; its digest must be the lock's; repeat
    #[arg(long = "artifact", value_name = "NAME=PATH", value_parser = path_pair)]
    pub artifacts: Vec<(String, PathBuf)>,
    /// Where inputs come from
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `bundle render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Write one file per part into this folder instead
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where the bundle comes from
    #[command(flatten)]
    pub bundle: BundleArgs,
}

/// Arguments of the commands on a live cluster.
#[derive(Debug, Args)]
pub struct LiveArgs {
    /// Credentials of an administrator: /etc/rancher/k3s/k3s.yaml of a server,
    /// with its address
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Where the bundle comes from
    #[command(flatten)]
    pub bundle: BundleArgs,
}
