//! The commands for people: how far this boot came, whether a file is sound, a secret by hand.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use node::command::Run;
use node::config::{self, NodeConfig};
use node::files::write_atomic;
use node::join::{Bootstrap, FILE, FOLDER, Join};
use node::report::{Report, State};
use node::values::Digest;
use serde_json::json;

use crate::boot::Machine;
use crate::ledger::Ledger;
use crate::runner::seconds;
use crate::{EXIT_UNHEALTHY, EXIT_WRONG, journal, reporting};

/// The longest payload read: a join secret is a few hundred bytes.
const LONGEST: u64 = 64 * 1024;

/// Prints the report and the ledger; 0 when the node is Ready.
pub fn show(root: &Path, json: bool) -> Result<u8> {
    let machine = Machine::open(root.to_owned(), None);
    let report = reporting::earlier(&machine)
        .context("no report of this boot yet: see `systemctl status firstboot-host`")?;
    let digest = fs_err::read(root.join(config::PATH)).map_or(Digest::of(b""), Digest::of);
    let ledger = Ledger::open(root, digest, &machine.boot_id);
    let text = if json {
        serde_json::to_string_pretty(&json!({"report": report, "ledger": ledger.entries()}))?
    } else {
        table(&report, &ledger)
    };
    writeln!(std::io::stdout(), "{}", text.trim_end())?;
    Ok(if report.state == State::Ready { 0 } else { EXIT_UNHEALTHY })
}

fn table(report: &Report, ledger: &Ledger) -> String {
    use std::fmt::Write;
    let image = report.image_id.as_ref().map_or("unknown".to_owned(), ToString::to_string);
    let mut text = format!("{}  {image}  {}\n", report.node, word(report.state));
    for step in &report.steps {
        let kept = if ledger.is_done(&step.name) { "*" } else { " " };
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "  {:<8}{:<12}{kept} {:<10}{:>7} s  {}",
            step.stage,
            step.name,
            word(step.outcome),
            seconds(step.millis),
            step.detail
        );
    }
    if !report.modified.is_empty() {
        let _ = writeln!(text, "modified since the image: {}", report.modified.join(", "));
    }
    if report.applying {
        text += "the bundle is being applied\n";
    }
    for release in report.bundle.iter().flat_map(|bundle| &bundle.releases) {
        let _ = writeln!(
            text,
            "  bundle  {:<24}{:<10}{:>7} s  {}",
            release.release,
            release.outcome.as_str(),
            seconds(release.millis),
            release.detail
        );
    }
    if let Some(failure) = &report.failure {
        let _ = write!(text, "{}: {}\nto go on: {}\n", failure.step, failure.cause, failure.fix);
    }
    text + "(* recorded as done in the ledger)\n"
}

/// The lower-case name that JSON has for a value of an enum.
fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Validates the baked configuration, or a file of that kind or a join secret.
pub fn check(root: &Path, file: Option<&Path>) -> Result<u8> {
    let result = match file {
        None => NodeConfig::load(root).map(|config| describe(&config)),
        Some(file) => check_file(file),
    };
    match result {
        Ok(text) => writeln!(std::io::stdout(), "{text}")?,
        Err(error) => {
            journal::error(&format!("{error:#}"));
            return Ok(EXIT_WRONG);
        }
    }
    Ok(0)
}

fn check_file(file: &Path) -> Result<String> {
    let data = fs_err::read(file)?;
    if data.first() == Some(&b'{') {
        return NodeConfig::read(file).map(|config| describe(&config));
    }
    let join =
        Join::decode(&data).with_context(|| format!("{} is not a join secret", file.display()))?;
    let bootstrap = if join.bootstrap == Bootstrap::No { "" } else { ", permits a new cluster" };
    Ok(format!("a join secret for node `{}`{bootstrap}", join.node))
}

fn describe(config: &NodeConfig) -> String {
    format!(
        "image {}, role {}, cluster `{}` with {} nodes, K3s {}",
        config.image_id,
        config.role.as_str(),
        config.cluster.name,
        config.cluster.nodes.len(),
        config.k3s_version
    )
}

/// Puts a join secret where the guest agent would, and runs the host stage.
pub fn join(root: &Path, file: &Path) -> Result<u8> {
    let data = read(file)?;
    let join = Join::decode(&data).context("the join secret was not taken")?;
    let me = Machine::open(root.to_owned(), None).hostname;
    if join.node.as_str() != me {
        bail!("the join secret is for node `{}`, this is `{me}`", join.node);
    }
    let folder = root.join(FOLDER);
    fs_err::create_dir_all(&folder)?;
    write_atomic(&folder.join(FILE), &data, 0o600)?;
    // The path unit does the same; asked for here so that its end is the end of this command.
    Command::new("systemctl").args(["start", "firstboot-host.service"]).run()?;
    let report = reporting::earlier(&Machine::open(root.to_owned(), None));
    let state = report.map_or_else(|| "unknown".to_owned(), |r| word(r.state));
    writeln!(std::io::stdout(), "join secret given, the node is {state}; see `firstboot status`")?;
    Ok(0)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().take(LONGEST).read_to_end(&mut data).context("failed to read stdin")?;
    } else {
        fs_err::File::open(file)?.take(LONGEST).read_to_end(&mut data)?;
    }
    Ok(data)
}
