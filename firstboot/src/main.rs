//! Configures a K3s node at every boot, with no human: `firstboot host` before K3s starts,
//! `firstboot cluster` once it runs. Both walk a constant table of steps ([`steps`]).

mod boot;
mod cli;
mod console;
mod journal;
mod kubernetes;
mod ledger;
mod origin;
mod reporting;
mod retry;
mod runner;
mod stage;
mod status;
mod steps;
mod systemd;

#[cfg(test)]
mod testing;

use std::process::ExitCode;

use clap::Parser;

/// Exit code for a wrong command line or a configuration that cannot be read.
pub const EXIT_WRONG: u8 = 2;
/// Exit code of `status` when the node is not Ready.
pub const EXIT_UNHEALTHY: u8 = 3;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match args.run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            journal::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
