//! The command line: two stages for systemd, three commands for people.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::boot::Machine;
use crate::steps::{CLUSTER, HOST};
use crate::{stage, status};

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
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this host and start K3s (run by firstboot-host.service)
    Host,
    /// Wait for this node to be Ready and mark it with its image-id (run by firstboot-cluster.service)
    Cluster,
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
    /// Give this node its join secret by hand and go on
    Join {
        /// File made by `builder node enroll`, or `-` for standard input
        file: PathBuf,
    },
}

impl Args {
    /// Runs the command and returns the exit code.
    ///
    /// # Errors
    /// Only what has no place in a report: those commands that people run.
    pub fn run(self) -> Result<u8> {
        let longest = self.longest_wait.map(Duration::from_millis);
        match self.command {
            Command::Host => Ok(stage::run("host", HOST, &Machine::open(self.root, longest))),
            Command::Cluster => {
                Ok(stage::run("cluster", CLUSTER, &Machine::open(self.root, longest)))
            }
            Command::Status { json } => status::show(&self.root, json),
            Command::Check { file } => status::check(&self.root, file.as_deref()),
            Command::Join { file } => status::join(&self.root, &file),
        }
    }
}
