//! `builder history`: what was done to nodes, by whom, how long it took and how it ended.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use node::image_id::ImageId;
use node::values::Digest;
use serde::Serialize;

use super::Context;
use crate::cli::HistoryArgs;
use crate::config::Project;
use crate::life::history::operations;
use crate::life::{Folder, Journal, Outcome};
use crate::status::html::{self, Event};
use crate::ui::seconds;

/// Where state lies that belongs to no project's folder, when the environment does not say.
const STATE: &str = ".local/state";
/// Hex digits that tell clusters of one name apart.
const UNIQUE: usize = 8;

/// The folder of a cluster's journals: the operator's, so that two copies of a project on one machine
/// see the same, and never work on one cluster at once.
///
/// # Errors
/// There is no home.
pub fn folder(project: &Project) -> Result<PathBuf> {
    let set = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(STATE));
    let top = set.or_else(home).context("neither XDG_STATE_HOME nor HOME is set")?;
    let cluster = &project.cluster;
    let key = Digest::of(format!("{} {}", cluster.proxmox.endpoint, cluster.name)).short(UNIQUE);
    Ok(top.join("node-image-builder").join(format!("{}-{key}", cluster.name)))
}

/// One operation, as the command shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    id: String,
    who: String,
    what: String,
    node: String,
    from: Option<ImageId>,
    to: Option<ImageId>,
    started: String,
    ended: Option<String>,
    seconds: Option<i64>,
    /// `done`, `went-back`, `refused`, `waits`, `open`.
    outcome: &'static str,
    cause: Option<String>,
    rollout: Option<String>,
    notes: Vec<String>,
}

impl Line {
    fn of(journal: &Journal) -> Self {
        let took = journal.ended.map(|end| end.as_second() - journal.started.as_second());
        Self {
            id: journal.id.clone(),
            who: journal.who.clone(),
            what: journal.operation.word().to_owned(),
            node: journal.member.name.to_string(),
            from: journal.from.clone(),
            to: journal.to.clone(),
            started: journal.started.to_string(),
            ended: journal.ended.map(|end| end.to_string()),
            seconds: took,
            outcome: outcome(journal),
            cause: journal.cause.clone().or_else(|| journal.asks.clone()),
            rollout: journal.rollout.clone(),
            notes: journal.notes.clone(),
        }
    }
}

fn outcome(journal: &Journal) -> &'static str {
    match journal.outcome {
        Some(Outcome::Done) => "done",
        Some(Outcome::WentBack) => "went-back",
        Some(Outcome::Refused) => "refused",
        None if journal.asks.is_some() => "waits",
        None => "open",
    }
}

/// `builder history`.
///
/// # Errors
/// The configuration is wrong, or a journal cannot be read.
#[expect(clippy::print_stdout, reason = "the history is the command's data")]
pub fn run(ctx: &Context, args: &HistoryArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let all = operations(&Folder::read_only(&folder(&project)?))?;
    let mut lines: Vec<_> = all.iter().map(Line::of).collect();
    lines.retain(|line| args.node.as_ref().is_none_or(|name| line.node == name.as_str()));
    let skipped = lines.len().saturating_sub(args.last.unwrap_or(usize::MAX));
    lines.drain(..skipped);
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else if lines.is_empty() {
        ctx.ui.line(nothing(&project, args)?);
    } else {
        print!("{}", table(&lines));
    }
    Ok(ExitCode::SUCCESS)
}

/// Why there is nothing to show. A name that neither the cluster's file nor the history knows is a typing
/// error.
fn nothing(project: &Project, args: &HistoryArgs) -> Result<String> {
    let what = match &args.node {
        Some(name) => {
            super::site::node(project, name)?;
            format!("nothing was done to {name} yet")
        }
        None => "nothing was done yet".to_owned(),
    };
    let folder = folder(project)?;
    Ok(format!("{what} by this user of this machine: {} has no journal of it", folder.display()))
}

const HEAD: [&str; 8] = ["BEGUN", "NODE", "WHAT", "FROM", "TO", "TOOK", "OUTCOME", "WHO"];

fn table(lines: &[Line]) -> String {
    let rows: Vec<[String; 8]> = lines.iter().map(cells).collect();
    let all = || std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().cloned());
    let width = |n: usize| all().map(|row| row[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in all().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        let line = number.checked_sub(1).and_then(|n| lines.get(n));
        let causes = line.into_iter().flat_map(|line| line.cause.iter().chain(&line.notes));
        for cause in causes {
            let _ = writeln!(text, "    {}", cause.replace('\n', "\n    "));
        }
    }
    text
}

fn cells(line: &Line) -> [String; 8] {
    let image = |id: &Option<ImageId>| id.as_ref().map_or("-".to_owned(), ToString::to_string);
    let took = line.seconds.and_then(|s| u64::try_from(s).ok());
    [
        line.started.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect(),
        line.node.clone(),
        line.what.clone(),
        image(&line.from),
        image(&line.to),
        took.map_or("-".to_owned(), |s| seconds(std::time::Duration::from_secs(s))),
        line.outcome.to_owned(),
        line.who.clone(),
    ]
}

/// The same for the timeline.
///
/// # Errors
/// A journal cannot be read.
pub fn events(project: &Project) -> Result<Vec<Event>> {
    let all = operations(&Folder::read_only(&folder(project)?))?;
    Ok(all.iter().map(event).collect())
}

fn event(journal: &Journal) -> Event {
    let line = Line::of(journal);
    let image =
        |id: &Option<ImageId>| id.as_ref().map_or("nothing".to_owned(), ToString::to_string);
    let mut text = format!("{} to {}, by {}", image(&line.from), image(&line.to), line.who);
    if let Some(cause) = &line.cause {
        let _ = write!(text, ": {cause}");
    }
    Event {
        node: line.node,
        what: line.what,
        from: journal.started.as_second(),
        to: journal.ended.map(jiff::Timestamp::as_second),
        outcome: match line.outcome {
            "done" => html::Outcome::Done,
            "went-back" => html::Outcome::Back,
            "refused" | "waits" => html::Outcome::Failed,
            _ => html::Outcome::Open,
        },
        text,
    }
}
