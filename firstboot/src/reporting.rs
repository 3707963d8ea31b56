//! Building the report of a boot and giving it to everyone who may look for it.

use anyhow::{Context, Result};
use node::config::NodeConfig;
use node::files;
use node::report::{CONSOLE_PREFIX, PATH, Report, SCHEMA, State};

use crate::boot::Machine;
use crate::{console, journal, metrics, packages};

/// A report of this boot without any step.
pub fn empty(machine: &Machine, config: Option<&NodeConfig>) -> Report {
    Report {
        schema: SCHEMA,
        image_id: config.map(|c| c.image_id.clone()),
        node: machine.hostname.clone(),
        role: config.map(|c| c.role),
        boot_id: machine.boot_id.clone(),
        state: State::Starting,
        uptime_millis: machine.uptime_millis(),
        modified: packages::known_changes(machine),
        steps: Vec::new(),
        applying: false,
        bundle: None,
        failure: None,
    }
}

/// The report that an earlier stage of this very boot left.
pub fn earlier(machine: &Machine) -> Option<Report> {
    let text = fs_err::read(machine.path(PATH)).ok()?;
    let report: Report = serde_json::from_slice(&text).ok()?;
    (report.boot_id == machine.boot_id).then_some(report)
}

/// Writes the report to its file, the console and the second serial port. The first failure is
/// logged and nothing else: a node must not stay down because nobody can be told about it.
pub fn publish(machine: &Machine, report: &mut Report) {
    report.uptime_millis = machine.uptime_millis();
    match serde_json::to_string(report) {
        Ok(line) => {
            console::line(&machine.root, &format!("{CONSOLE_PREFIX}{line}"));
            console::second_port(&machine.root, &line);
        }
        Err(error) => journal::warn(&machine.root, "report", &error.to_string()),
    }
    save_quietly(machine, report);
}

/// Writes the report to its file and the metrics only; a failure is logged.
pub fn save_quietly(machine: &Machine, report: &Report) {
    if let Err(error) = save(machine, report).and(metrics::save(machine, report)) {
        journal::warn(&machine.root, "report", &format!("{error:#}"));
    }
}

fn save(machine: &Machine, report: &Report) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(report).context("failed to encode the report")?;
    text.push(b'\n');
    let path = machine.path(PATH);
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    // World-readable: it holds no secret, and people without root may look.
    files::write_atomic(&path, &text, 0o644).context("failed to write the report")
}
