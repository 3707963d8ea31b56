//! The command line: two stages for systemd, three commands for people.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use node::failpoint;

use crate::boot::Machine;
use crate::snapshot::commands;
use crate::steps::{CLUSTER, HOST};
use crate::{ntfy, stage, status, watch};

/// Configures a K3s node at every boot.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Root of the file system to work on; tests give a temporary tree.
    #[arg(long, global = true, hide = true, default_value = "/")]
    root: PathBuf,
    /// Upper limit of every wait in milliseconds, so that tests see deadlines pass.
    #[arg(long, global = true, hide = true)]
    longest_wait: Option<u64>,
    /// End at this write, counted from 1, as if power were cut there; for tests.
    #[arg(long, global = true, hide = true)]
    stop_at: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this host and start K3s (run by firstboot-host.service)
    Host,
    /// Wait for this node to be Ready and mark it with its image-id (run by firstboot-cluster.service)
    Cluster,
    /// Tell a failure of this boot by ntfy (run by firstboot-notify.service)
    #[command(hide = true)]
    Notify,
    /// Show how far this boot came; exit code 3 unless the node is Ready
    Status {
        /// Print the report and the ledger as JSON
        #[arg(long)]
        json: bool,
    },
    /// Validate the baked node configuration, or a FILE of that kind or a join secret
    Check {
        /// File to validate instead of the node's own configuration
        file: Option<PathBuf>,
    },
    /// Look at the etcd snapshots of this server on NFS, or take one
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Do what this node's annotations ask for (run by firstboot-watch.timer)
    Watch,
    /// Give this node its join secret by hand and go on
    Join {
        /// File made by `builder node enroll`, or `-` for standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Take a snapshot now and carry it to NFS
    Save {
        /// Print its facts as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show which snapshots could be restored, newest first, and why others could not
    List {
        /// Print everything as JSON
        #[arg(long)]
        json: bool,
    },
    /// Like `list`, and read every snapshot; exit code 1 unless all are sound
    Verify {
        /// Print everything as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    /// Runs the command and returns the exit code.
    ///
    /// # Errors
    /// Only what has no place in a report: those commands that people run.
    pub fn run(self) -> Result<u8> {
        if let Some(number) = self.stop_at {
            failpoint::stop_at(number);
        }
        let longest = self.longest_wait.map(Duration::from_millis);
        let machine = || Machine::open(self.root.clone(), longest);
        match self.command {
            Command::Snapshot(Snapshot::Save { json }) => commands::run_save(machine(), json),
            Command::Snapshot(Snapshot::List { json }) => {
                commands::run_list(machine(), json, false)
            }
            Command::Snapshot(Snapshot::Verify { json }) => {
                commands::run_list(machine(), json, true)
            }
            Command::Watch => watch::run(machine()),
            Command::Host => Ok(stage::run("host", HOST, &Machine::open(self.root, longest))),
            Command::Cluster => {
                Ok(stage::run("cluster", CLUSTER, &Machine::open(self.root, longest)))
            }
            Command::Notify => ntfy::notify(&Machine::open(self.root, longest)).map(|()| 0),
            Command::Status { json } => status::show(&self.root, json),
            Command::Check { file } => status::check(&self.root, file.as_deref()),
            Command::Join { file } => status::join(&self.root, &file),
        }
    }
}
