//! The double as a program.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use pve_double::{Double, Setup};

/// A Proxmox VE to test against, on loopback with TLS.
///
/// Prints one line of JSON with what a client needs (url, control, token, fingerprint, `ca_pem`) and runs
/// until its standard input ends.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// TOML file with nodes, storages, tokens, times; the default is one node and a token with just the
    /// privileges that builder needs.
    #[arg(long)]
    setup: Option<PathBuf>,
    /// Port to listen on; 0 takes a free one.
    #[arg(long)]
    port: Option<u16>,
    /// Port for control requests: faults, time, leftovers; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    control: u16,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut setup = match &arguments.setup {
        Some(path) => toml::from_str(&fs_err::read_to_string(path)?)
            .with_context(|| path.display().to_string())?,
        None => Setup::default(),
    };
    setup.port = arguments.port.unwrap_or(setup.port);
    let double = Double::start(setup)?;
    let control = double.control(arguments.control)?;
    let line = serde_json::json!({
        "url": double.url(), "control": format!("http://127.0.0.1:{control}"), "token": double.token(),
        "fingerprint": double.fingerprint(), "ca_pem": double.ca_pem(),
    });
    println!("{line}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
