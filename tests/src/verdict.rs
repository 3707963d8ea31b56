//! Verdicts of `builder --json boot`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::run::Ended;

/// What every first boot is checked for, whatever its role and however it ends.
const CHECKS: [&str; 8] = [
    "machine-id",
    "host keys",
    "instance-id",
    "failed units",
    "root file system",
    "clock",
    "ports",
    "image-id",
];

/// The verdict a boot printed; its duration goes to the test's output, as `name`.
///
/// # Errors
/// It printed none; the error has its last words.
pub fn of(ended: &Ended, name: &str) -> Result<Value> {
    let verdict: Value = serde_json::from_str(&ended.stdout)
        .with_context(|| format!("{}: no verdict: {}", ended.line, ended.stderr()))?;
    eprintln!("{name}: {:.0} s", verdict["seconds"].as_f64().unwrap_or_default());
    Ok(verdict)
}

/// Demands a pass of a first boot, with every check in it.
///
/// # Errors
/// The boot failed, or a check was not made; the error has the whole verdict.
pub fn passed(verdict: &Value) -> Result<()> {
    ensure!(verdict["passed"] == true, "{verdict:#}");
    let checks = verdict["checks"].as_array().context("checks")?;
    for name in CHECKS {
        let made = checks.iter().any(|c| c["name"] == name && c["passed"] == true);
        ensure!(made, "no check {name}: {verdict:#}");
    }
    Ok(())
}

/// Where the node came to, in firstboot's own words.
pub fn state(verdict: &Value) -> &str {
    verdict["report"]["state"].as_str().unwrap_or_default()
}
