//! The command line as types; the comments here are its help. Nothing is done here.

mod boot;
mod bundle;
mod life;
mod proxmox;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use boot::{BootArgs, Expect, Firmware, Seed};
pub use bundle::{BundleArgs, BundleCommand, LiveArgs, RenderArgs};
pub use life::{
    AgainArgs, ClusterArgs, CreateArgs, DeleteArgs, DrainArgs, EnrollArgs, FenceArgs, HistoryArgs,
    NodeCommand, QuarantineCommand, RebuildArgs, RollbackArgs, RolloutArgs, StatusArgs,
};
pub use proxmox::{PreflightArgs, PushArgs};

/// Builds, boots and checks immutable K3s node images for Proxmox VE.
///
/// A project is a folder with images/, profiles/ and cluster/cluster.toml. The
/// usual order is: check, lock, image, boot.
///
/// Data goes to stdout, everything else to stderr. Exit status: 0 done,
/// 1 failed, 2 wrong usage or configuration, 3 unhealthy or stale.
#[derive(Debug, Parser)]
#[command(name = "builder", version, max_term_width = 80, propagate_version = true)]
pub struct Cli {
    /// Flags of all commands
    #[command(flatten)]
    pub global: Global,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of all commands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub struct Global {
    /// Project folder [default: the nearest one at or above this folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Show warnings and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Show also what is run and fetched; twice for every detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check all configuration and tell every problem at once
    Check,
    /// Print the JSON schema of a kind of file, for editors
    Schema(SchemaArgs),
    /// Write builder.lock: version, digest and size of every input
    Lock(LockArgs),
    /// Download every input of the lock into the cache
    Fetch(FetchArgs),
    /// Build the image of a profile
    Image(ImageArgs),
    /// Boot a built image in QEMU and check the node from inside
    Boot(BootArgs),
    /// Build an image again from its manifest and compare bit for bit
    Verify(VerifyArgs),
    /// Check Proxmox for all that would stop a push or a rebuild halfway
    Preflight(PreflightArgs),
    /// Make a boot-tested image a template in Proxmox
    ///
    /// The file goes to each host's import storage, becomes a VM with the
    /// profile's size, and that a template, marked with the image-id. What is
    /// there already is left alone; a push that was cut off is gone on with. Of
    /// older templates the one before stays, and every one that a VM was made of.
    Push(PushArgs),
    /// Create, rebuild, roll back or remove one node; enroll or fence it
    ///
    /// A node is never changed in place. Its next VM is made beside the one it
    /// has, under another number, with the same name, address and card; the old VM
    /// is off and kept until the new one is proven, and comes back by itself when
    /// that fails.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Rebuild every node that does not have its profile's newest template
    ///
    /// One after the other, agents before servers, and none before the one before
    /// it is proven: Ready with the new image, and the gates of cluster.toml say
    /// so. When one fails, its old VM comes back, the image is quarantined
    /// (`builder quarantine`), and the rollout ends. Exit status 1 unless every
    /// node has its new image.
    Rollout(RolloutArgs),
    /// Show how every node stands; exit status 3 when one is stale or unhealthy
    Status(StatusArgs),
    /// Show what was done to nodes: who, what, how long, how it ended
    History(HistoryArgs),
    /// Look at the images that proved bad, name one, or clear one
    ///
    /// An image whose node did not become healthy is quarantined: no node is made
    /// of it, no rollout brings it, no push repeats it. The record lies in the
    /// state folder of the machine that saw it, and as a tag on the image's
    /// templates.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// Carry one of a boot's TCP connections; QEMU calls this
    #[command(hide = true)]
    Relay {
        /// Where to
        server: SocketAddr,
    },
    /// Show, compare or apply what runs in the cluster
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Look at the cache of downloads and stages, or make room
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Mint what a new cluster is born with
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Look after cluster/secrets.age: what only the operator may hold
    #[command(subcommand)]
    Secrets(SecretsCommand),
}

/// Commands on the cluster as a whole.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Mint id, tokens and snapshot key of a new cluster into cluster/secrets.age
    Init {
        /// Forget the cluster that is there: its snapshots can no longer be opened
        #[arg(long)]
        another: bool,
    },
}

/// Commands on the encrypted file.
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// Make the key and every value that can be made at random
    Init,
    /// Open the decrypted text in $EDITOR, and encrypt what is saved
    Edit,
    /// Tell what is missing or unknown; exit status 1 unless all is there
    Check,
    /// Give the bundle's Secrets to the cluster, by its API; exit status 1 when
    /// one lacks a value
    Apply(SecretsApplyArgs),
}

/// Arguments of `secrets apply`.
#[derive(Debug, Args)]
pub struct SecretsApplyArgs {
    /// Credentials of an administrator: /etc/rancher/k3s/k3s.yaml of a server,
    /// with its address
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The lock that has the bundle's charts
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub lock: PathBuf,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which kind of file
    pub kind: SchemaKind,
}

/// Kinds of files that have a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
    /// images/NAME.toml
    Image,
    /// profiles/NAME.toml
    Profile,
    /// cluster/cluster.toml
    Cluster,
    /// cluster/bundle.toml
    Bundle,
    /// cluster/NAMESPACE/RELEASE/release.toml
    Release,
    /// builder.lock
    Lock,
}

/// Where inputs come from, for closed networks.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Take a mirror's place, such as debian=https://mirror.lan/debian; repeat
    #[arg(long = "mirror", value_name = "NAME=URL", value_parser = pair)]
    pub mirrors: Vec<(String, String)>,
    /// Use the cache and given files only
    #[arg(long)]
    pub offline: bool,
}

/// Arguments of `lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// Renew only these inputs; without names, all of them
    #[arg(long, value_name = "NAME", num_args = 0..)]
    pub update: Option<Vec<String>>,
    /// Lock a stand-in for an input that cannot be downloaded here; repeat.
    /// Images made from it are marked and can be booted, but not pushed
    #[arg(long = "standin", value_name = "NAME=PATH", value_parser = path_pair)]
    pub standins: Vec<(String, PathBuf)>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub output: PathBuf,
    /// Where inputs come from
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Only these released files, by their names in the lock
    #[arg(value_name = "NAME", conflicts_with = "packages")]
    pub names: Vec<String>,
    /// Only the released files, such as K3s
    #[arg(long, conflicts_with = "packages")]
    pub artifacts: bool,
    /// Only the distribution's packages
    #[arg(long)]
    pub packages: bool,
    /// Give up on a file that makes no progress for this time
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub deadline: Duration,
    /// The lock to fetch for
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub lock: PathBuf,
    /// Where inputs come from
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `image`.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The profile to build
    #[arg(long, value_name = "NAME", required_unless_present = "all")]
    pub profile: Option<String>,
    /// Build every profile
    #[arg(long, conflicts_with = "profile")]
    pub all: bool,
    /// Print the resolved profile and the plan, and stop there
    #[arg(long)]
    pub dry_run: bool,
    /// The lock to build from
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub lock: PathBuf,
    /// Take an input from a file; its digest must be the lock's; repeat
    #[arg(long = "artifact", value_name = "NAME=PATH", value_parser = path_pair)]
    pub artifacts: Vec<(String, PathBuf)>,
    /// Folder of the finished images
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Where inputs come from
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The image to prove, a .qcow2 with its manifest beside it
    pub image: PathBuf,
    /// The lock it was built from
    #[arg(long, value_name = "FILE", default_value = "builder.lock")]
    pub lock: PathBuf,
    /// Take an input from a file; its digest must be the lock's; repeat
    #[arg(long = "artifact", value_name = "NAME=PATH", value_parser = path_pair)]
    pub artifacts: Vec<(String, PathBuf)>,
    /// Where inputs come from
    #[command(flatten)]
    pub source: SourceArgs,
}

/// Commands on the cache.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what the cache holds
    Ls,
    /// Remove what the last images do not use
    Gc(GcArgs),
}

/// Arguments of `cache gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// How many of the last images, of whatever profile, keep what they use
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep: usize,
    /// Say what would go, and leave it
    #[arg(long)]
    pub dry_run: bool,
}

/// `NAME=VALUE`, both with something in them.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("must look like NAME=VALUE".to_owned()),
    }
}

fn path_pair(text: &str) -> Result<(String, PathBuf), String> {
    pair(text).map(|(name, path)| (name, path.into()))
}

/// `90s`, `15m`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = [("s", 1), ("m", 60), ("h", 3600)].iter().find_map(|(unit, factor)| {
        text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*factor)
    });
    match seconds {
        Some(1..) => Ok(Duration::from_secs(seconds.unwrap_or_default())),
        _ => Err("must be a whole number with s, m or h, such as 90s or 15m".to_owned()),
    }
}

#[cfg(test)]
mod tests;
