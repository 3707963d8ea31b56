//! The arguments of the commands on nodes and rollouts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use node::image_id::ImageId;
use node::values::Hostname;

use crate::life::Window;

/// Commands on one node.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Make the VM of a node that has none
    Create(CreateArgs),
    /// Take a node out of the cluster and remove its VM
    Delete(DeleteArgs),
    /// Make a node anew from the newest good template of its profile
    Rebuild(RebuildArgs),
    /// Make a node anew from the template before the one it has
    Rollback(RollbackArgs),
    /// Give a waiting node its join secret, such as a clone made by hand
    Enroll(EnrollArgs),
    /// Free the pods and volumes of a dead node, once its power is off for certain
    Fence(FenceArgs),
}

/// What all commands need that speak to the cluster.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Credentials of an administrator [default: $KUBECONFIG]: a server's
    /// /etc/rancher/k3s/k3s.yaml with its address in it
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How a node is emptied, and what may be lost.
#[derive(Debug, Clone, Copy, Args)]
pub struct DrainArgs {
    /// Stop at pods with emptyDir volumes, instead of losing what is in them
    #[arg(long)]
    pub keep_emptydir: bool,
    /// Evict also pods that no controller makes again, and delete what a
    /// disruption budget still holds after 15 minutes
    #[arg(long)]
    pub force: bool,
    /// Go on although volumes lie on the node's own disk: their data is lost
    #[arg(long)]
    pub lose_local_data: bool,
    /// How many nodes may be out of service at a time, this one included
    #[arg(long, value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_unavailable: u32,
}

/// What to do with one that was cut off, or that asks something.
#[derive(Debug, Clone, Copy, Args)]
pub struct AgainArgs {
    /// Go on with it where it was cut off
    #[arg(long)]
    pub resume: bool,
    /// End it: what is half done goes back to the old VM
    #[arg(long, conflicts_with = "resume")]
    pub abort: bool,
    /// Go back although writes of a new sole server are lost by it
    #[arg(long, requires = "abort")]
    pub accept_loss: bool,
}

/// Arguments of `node create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The node, as cluster.toml names it
    pub name: Hostname,
    /// The first server of a new cluster: it may start one, once. Needs no
    /// --kubeconfig, as there is none yet [default: a sole server takes back the
    /// newest snapshot, others join]
    #[arg(long, conflicts_with_all = ["resume", "abort"])]
    pub bootstrap: bool,
    /// Take the template of this image [default: the newest good one]
    #[arg(long, value_name = "IMAGE-ID")]
    pub image: Option<ImageId>,
    /// One that was cut off
    #[command(flatten)]
    pub again: AgainArgs,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `node delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The node, as cluster.toml names it
    pub name: Hostname,
    /// Delete the only server, and with it the cluster
    #[arg(long, requires = "force")]
    pub lose_cluster: bool,
    /// How it is emptied
    #[command(flatten)]
    pub drain: DrainArgs,
    /// One that was cut off
    #[command(flatten)]
    pub again: AgainArgs,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `node rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArgs {
    /// The node, as cluster.toml names it
    pub name: Hostname,
    /// Take the template of this image [default: the newest good one]
    #[arg(long, value_name = "IMAGE-ID")]
    pub image: Option<ImageId>,
    /// How it is emptied
    #[command(flatten)]
    pub drain: DrainArgs,
    /// One that was cut off
    #[command(flatten)]
    pub again: AgainArgs,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `node rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The node, as cluster.toml names it
    pub name: Hostname,
    /// How it is emptied
    #[command(flatten)]
    pub drain: DrainArgs,
    /// One that was cut off
    #[command(flatten)]
    pub again: AgainArgs,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `node enroll`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct EnrollArgs {
    /// The node, as cluster.toml and its VM are named
    pub name: Hostname,
    /// Wait for the VM and its agent for as long as it takes, and until the node
    /// is Ready
    #[arg(long)]
    pub watch: bool,
    /// Put the secret on a drive instead of using the guest's agent; the VM is
    /// turned off and on for it
    #[arg(long)]
    pub drive: bool,
    /// Write the secret into this file instead, readable by you alone, for
    /// `firstboot join` on the node
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "drive"])]
    pub file: Option<PathBuf>,
    /// The first server of a new cluster: it may start one, once
    #[arg(long)]
    pub bootstrap: bool,
    /// One of several servers, all of which are lost: it brings the cluster back
    /// from its newest snapshot, once
    #[arg(long, conflicts_with = "bootstrap")]
    pub restore: bool,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `node fence`.
#[derive(Debug, Args)]
pub struct FenceArgs {
    /// The node, as cluster.toml names it
    pub name: Hostname,
    /// Its host is dead and its power is off: you have looked. Proxmox is not
    /// asked
    #[arg(long)]
    pub is_off: bool,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `rollout`.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// Only nodes of this profile [default: all]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<Hostname>,
    /// Rebuild this node first, alone
    #[arg(long, value_name = "NODE")]
    pub canary: Option<Hostname>,
    /// Begin no node outside these hours of this machine, such as 22:00-05:00
    #[arg(long, value_name = "FROM-TO")]
    pub window: Option<Window>,
    /// Print the plan and stop there
    #[arg(long, conflicts_with_all = ["resume", "abort"])]
    pub dry_run: bool,
    /// How nodes are emptied
    #[command(flatten)]
    pub drain: DrainArgs,
    /// One that was cut off
    #[command(flatten)]
    pub again: AgainArgs,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Look again every 5 seconds, until interrupted
    #[arg(long, conflicts_with = "html")]
    pub watch: bool,
    /// Write a page with the nodes and the timeline of rebuilds
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// The cluster
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Commands on images that proved bad.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List them, with what showed and where
    Ls,
    /// Say that an image is bad, before a rollout brings it anywhere
    Add {
        /// The image, as `builder status` shows it
        #[arg(value_name = "IMAGE-ID")]
        image: ImageId,
        /// What is wrong with it
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Say that an image is not to blame: nodes may be made of it again
    Lift {
        /// The image, as `builder quarantine ls` shows it
        #[arg(value_name = "IMAGE-ID")]
        image: ImageId,
    },
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<Hostname>,
    /// Only the last so many
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
}
