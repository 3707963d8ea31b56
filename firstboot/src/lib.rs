//! Configures a K3s node at every boot, with no human: `firstboot host` before K3s starts,
//! `firstboot cluster` once it runs. Both walk a constant table of steps (`steps`).
//!
//! A library beside the program, so that `builder bundle` applies the bundle by the very code that a
//! node uses (ADR-018): what is public here is what that needs.

mod boot;
pub mod bundle;
mod cli;
mod console;
mod drive;
mod journal;
pub mod kubernetes;
mod ledger;
mod metrics;
mod nfs;
mod ntfy;
mod origin;
mod packages;
mod peers;
mod reporting;
mod retry;
mod runner;
mod snapshot;
mod stage;
mod status;
mod steps;
mod systemd;
mod tls;
mod watch;

#[cfg(test)]
mod testing;

use std::process::ExitCode;

use clap::Parser;

/// Exit code for a wrong command line or a configuration that cannot be read.
const EXIT_WRONG: u8 = 2;
/// Exit code of `status` when the node is not Ready.
const EXIT_UNHEALTHY: u8 = 3;

/// The program: parses the command line, runs, and tells one error.
pub fn run() -> ExitCode {
    match cli::Args::parse().run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            journal::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
