//! `builder preflight`: everything that would stop a push or a rebuild halfway, found before anything
//! is changed, all at once, each with what to do about it.

mod cluster;
mod rights;
mod room;

use std::fmt::Write as _;

use serde::Serialize;

use super::calls::Version;
use super::error::{Class, Error};
use super::inventory::Inventory;
use super::{Client, Connection};
use crate::config::Project;
use crate::ui::Ui;

/// The oldest version whose upload takes qcow2 images.
const OLDEST: (u32, u32) = (8, 4);

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Proxmox, or something around it.
    Environment,
    /// The project's own files, or what was typed.
    Configuration,
    /// Nobody at once: nothing is stopped by it.
    Warning,
}

/// One thing that is not right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whose matter it is.
    pub kind: Kind,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// Of Proxmox or its surroundings.
    pub fn new(text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { kind: Kind::Environment, text: text.into(), fix: fix.into() }
    }

    /// The same as another kind.
    #[must_use]
    pub fn of(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        let fix = error.fix.clone().unwrap_or_else(|| "see docs/proxmox.md".to_owned());
        Self::new(Error { fix: None, ..error }.to_string(), fix)
    }
}

/// A check's outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// Its name.
    pub check: &'static str,
    /// What was looked at, in a few words.
    pub found: String,
    /// What is not right.
    pub findings: Vec<Finding>,
}

/// What a check says: what it found, and what is wrong with it.
type Outcome = (String, Vec<Finding>);

/// A check that could not be made is a finding too.
fn told(outcome: Result<Outcome, Error>) -> Outcome {
    outcome.unwrap_or_else(|error| ("could not be looked at".to_owned(), vec![error.into()]))
}

/// What will be brought to Proxmox.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the disk that is made of it.
    pub disk: u64,
    /// Bytes it has once it has grown to the profile's size.
    pub grown: u64,
}

/// What the checks look at.
#[derive(Debug)]
pub struct Look<'a> {
    client: &'a Client,
    project: &'a Project,
    connection: &'a Connection,
    /// Hosts that are meant.
    hosts: Vec<String>,
    load: Load,
    version: Version,
    inventory: Inventory,
}

/// How far the checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What a push needs.
    Push,
    /// Also what nodes need.
    All,
}

type Check = (&'static str, Scope, fn(&Look<'_>) -> Outcome);

/// In this order, as an earlier one explains a later one: without rights no storage is seen.
const CHECKS: [Check; 8] = [
    ("rights", Scope::Push, rights::check),
    ("storages", Scope::Push, room::storages),
    ("space", Scope::Push, room::space),
    ("numbers", Scope::Push, cluster::numbers),
    ("addresses", Scope::All, cluster::addresses),
    ("templates", Scope::Push, cluster::templates),
    ("nodes", Scope::All, cluster::nodes),
    ("network", Scope::All, cluster::network),
];

/// Runs the checks. `hosts` are those meant; empty: all that `cluster.toml` names.
pub fn run(
    project: &Project,
    connection: &Connection,
    (hosts, load): (&[String], Load),
    scope: Scope,
) -> Vec<Checked> {
    let client = &connection.client;
    let mut all = Vec::new();
    // Whatever stops this stops all others, with the same words.
    let version = match reach(client) {
        Ok((version, findings)) => {
            let found = format!("Proxmox VE {}", version.text);
            all.push(Checked { check: "version", found, findings });
            version
        }
        Err(error) => {
            let found = "no answer".to_owned();
            let findings = vec![connection.told(error).into()];
            all.push(Checked { check: "version", found, findings });
            return all;
        }
    };
    let inventory = Inventory::read(client, &project.cluster);
    let (inventory, unread) = match inventory {
        Ok(inventory) => (inventory, None),
        Err(error) => (Inventory::default(), Some(Finding::from(error))),
    };
    let hosts = if hosts.is_empty() { hosts_of(project) } else { hosts.to_vec() };
    let mut look = Look { client, project, connection, hosts, load, version, inventory };
    let (found, findings) = room::hosts(&mut look);
    all.push(Checked { check: "hosts", found, findings });
    for (check, needed, work) in CHECKS {
        if needed == Scope::All && scope == Scope::Push {
            continue;
        }
        let (found, findings) = work(&look);
        all.push(Checked { check, found, findings });
    }
    if let (Some(finding), Some(last)) = (unread, all.last_mut()) {
        last.findings.push(finding);
    }
    all
}

fn reach(client: &Client) -> Result<(Version, Vec<Finding>), Error> {
    let version = client.version()?;
    let mut findings = Vec::new();
    if version.number < OLDEST {
        findings.push(Finding::new(
            format!(
                "Proxmox VE {} takes no image uploads: 8.4 is the oldest that does",
                version.text
            ),
            "upgrade Proxmox VE",
        ));
    }
    Ok((version, findings))
}

/// The hosts that nodes stand on, each once.
pub fn hosts_of(project: &Project) -> Vec<String> {
    let mut hosts: Vec<_> = project.cluster.nodes.iter().map(|n| n.host.to_string()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// The problems of a report, without warnings.
pub fn problems(report: &[Checked]) -> impl Iterator<Item = &Finding> {
    report.iter().flat_map(|c| &c.findings).filter(|f| f.kind != Kind::Warning)
}

/// Exit status of a report: 0, 1 for what Proxmox or its surroundings lack, 2 for wrong files.
pub fn status(report: &[Checked]) -> u8 {
    let kinds: Vec<_> = problems(report).map(|f| f.kind).collect();
    match kinds.as_slice() {
        [] => 0,
        kinds if kinds.contains(&Kind::Configuration) => crate::USAGE,
        _ => 1,
    }
}

/// The report for people.
pub fn table(report: &[Checked], ui: &Ui) -> String {
    let width = report.iter().map(|c| c.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for checked in report {
        let bad = checked.findings.iter().any(|f| f.kind != Kind::Warning);
        let (word, colour) = match (bad, checked.findings.is_empty()) {
            (true, _) => ("FAIL", "31"),
            (false, true) => ("ok  ", "32"),
            (false, false) => ("note", "33"),
        };
        let (word, name) = (ui.paint(colour, word), checked.check);
        let _ = writeln!(text, "{word}  {name:width$}  {}", checked.found);
        for finding in &checked.findings {
            let indented = finding.text.replace('\n', "\n        ");
            // Beside one that stops everything it must not look like another.
            let note = if bad && finding.kind == Kind::Warning { "note: " } else { "" };
            let _ = writeln!(text, "      - {note}{indented}\n        fix: {}", finding.fix);
        }
    }
    text
}

/// Whether an error is only a missing right to look.
fn is_blind(error: &Error) -> bool {
    error.class == Class::Permission
}
