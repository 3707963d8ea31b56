//! The arguments of `boot`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use node::values::{Hostname, Size};

use super::{duration, path_pair};

/// Arguments of `boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// The image to boot, a .qcow2 with its manifest beside it
    #[arg(required_unless_present = "profile", conflicts_with = "profile")]
    pub image: Option<PathBuf>,
    /// Boot the newest image of this profile
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Where --profile looks for images
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub out: PathBuf,
    /// Firmware of the virtual machine
    #[arg(long, value_enum, default_value_t = Firmware::Seabios)]
    pub firmware: Firmware,
    /// Leave the guest running and say how to log in
    #[arg(long)]
    pub keep: bool,
    /// Give up after this time, such as 90s or 15m
    /// [default: 90s with KVM, 15m without]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// How the boot must end
    #[arg(long, value_enum, default_value_t = Expect::Ready)]
    pub expect: Expect,
    /// The server an agent joins, on the host's loopback [default: one started
    /// for the test, from the image's own K3s]
    #[arg(long, value_name = "ADDR:PORT", requires = "token_file")]
    pub join: Option<SocketAddr>,
    /// File with the token to join that server with
    #[arg(long, value_name = "FILE", requires = "join")]
    pub token_file: Option<PathBuf>,
    /// Hand over this join secret, as `builder node enroll` writes it [default: a
    /// new one, of a cluster that lives as long as the boot]
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    pub secret: Option<PathBuf>,
    /// An NFS server on this host, such as 127.0.0.1:2049, which the guest finds at
    /// the address of every NFS export in cluster.toml
    #[arg(long, value_name = "ADDR:PORT")]
    pub nfs: Option<SocketAddr>,
    /// Keep the guest's disk in this file, and go on with it when it is there
    /// [default: a new disk, thrown away]
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// End with an orderly shutdown, as Proxmox asks for one, instead of cutting
    /// the power
    #[arg(long, conflicts_with = "keep")]
    pub shutdown: bool,
    /// For tests: the hardware clock at power-on, such as 2027-11-24T00:00:00
    #[arg(long, value_name = "TIME", hide = true)]
    pub clock: Option<String>,
    /// Which node of cluster.toml to boot as [default: the profile's first]
    #[arg(long, value_name = "NAME")]
    pub node: Option<Hostname>,
    /// For tests: lay a file of the host over one of the guest's; repeat. The
    /// verdict of such a boot is never recorded
    #[arg(long, value_name = "PATH=FILE", value_parser = path_pair, hide = true)]
    pub replace: Vec<(String, PathBuf)>,
    /// For tests: the drive with the node's identity
    #[arg(long, value_enum, default_value_t = Seed::Good, hide = true)]
    pub seed: Seed,
    /// Memory of the guest [default: the node's, at most 4 GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// Virtual CPUs of the guest [default: the node's, at most the host's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,
}

/// Firmware a guest starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// BIOS, Proxmox's default
    Seabios,
    /// UEFI
    Ovmf,
}

/// The drive with the node's identity in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Seed {
    /// As Proxmox writes it
    Good,
    /// None
    Missing,
    /// Not readable as YAML
    Broken,
}

/// How a boot test must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Expect {
    /// The Kubernetes Node is Ready
    Ready,
    /// The node waits for its join secret
    Waiting,
}
