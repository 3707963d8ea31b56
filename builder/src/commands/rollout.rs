//! `builder rollout`: every node gets the newest good template of its profile, one after the other.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::Context;
use super::node::{is_busy, options, who, with_world};
use super::site::Site;
use crate::cli::RolloutArgs;
use crate::life::{End, Folder, Member, Rollout, Run, State, Window, Wish, World, history, plan};
use crate::notify::{self, Message};
use crate::proxmox::inventory::Inventory;
use crate::secrets::Vault;

/// `builder rollout`.
///
/// # Errors
/// The configuration is wrong, something is missing, or something else is under way. How the rollout
/// ends is told and is the exit status.
pub fn run(ctx: &Context, args: &RolloutArgs) -> Result<ExitCode> {
    let mut site = Site::open(ctx, &args.cluster)?;
    if let Some(name) = &args.canary {
        site.member(name)?;
    }
    if let Some(name) = &args.profile {
        site.project.profile(name.as_str())?;
    }
    let begun = args.again.resume || args.again.abort;
    site.must_reach(begun)?;
    site.pin(ctx)?;
    let shelf = Folder::own(&super::history::folder(&site.project)?)?;
    let members: Vec<Member> = site.members();
    if !begun && !is_busy(&shelf)? && !site.is_ready(ctx, &members) {
        return Ok(ExitCode::FAILURE);
    }
    with_world(ctx, &site, &shelf, &args.cluster, |world| {
        let rollout = if begun { unfinished(world)? } else { plan(world, &wish(args))? };
        if !begun {
            let cluster = &site.project.cluster;
            let inventory = Inventory::read(&site.connection.client, cluster)?;
            inventory.passed_over(cluster).iter().for_each(|note| ctx.ui.line(note));
        }
        if !begun && (args.dry_run || rollout.rows.is_empty()) {
            return planned(ctx, &rollout);
        }
        ctx.ui.line(table(&rollout).trim_end());
        let mut run = Run::new(*world, rollout)?;
        if args.again.abort {
            run.abort(args.again.accept_loss)?;
        }
        let end = run.run();
        let questions: Vec<_> = run.questions().map(str::to_owned).collect();
        tell(ctx, &site, run.rollout(), &questions);
        end?;
        told(ctx, run.rollout(), &questions)
    })
}

fn wish(args: &RolloutArgs) -> Wish {
    Wish {
        profile: args.profile.clone(),
        canary: args.canary.clone(),
        window: args.window.map(here),
        options: options(args.drain),
        who: who(),
    }
}

/// The window in this machine's zone.
fn here(mut window: Window) -> Window {
    let seconds = TimeZone::system().to_offset(Timestamp::now()).seconds();
    window.offset = i16::try_from(seconds / 60).unwrap_or(0);
    window
}

fn unfinished(world: &World<'_>) -> Result<Rollout> {
    let open = history::rollouts(world.shelf)?.into_iter().find(|r| r.outcome.is_none());
    open.context("no rollout is under way")
}

/// The plan, or that there is none.
#[expect(clippy::print_stdout, reason = "the plan is the command's data")]
fn planned(ctx: &Context, rollout: &Rollout) -> Result<ExitCode> {
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "nodes": rollout.rows }))?);
    } else {
        print!("{}", table(rollout));
    }
    if rollout.rows.is_empty() {
        ctx.ui.line("nothing to do: every node has the newest good template of its profile");
    }
    Ok(ExitCode::SUCCESS)
}

/// One line a node, in the order they are taken.
fn table(rollout: &Rollout) -> String {
    let width = rollout.rows.iter().map(|row| row.node.as_str().len()).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rollout.rows.iter().enumerate() {
        let from = row.from.as_ref().map_or("unknown".to_owned(), ToString::to_string);
        let canary = if rollout.canary && number == 0 { ", first and alone" } else { "" };
        let node = row.node.as_str();
        let _ = writeln!(text, "{node:width$}  {from} -> {}, {}{canary}", row.to, word(row.state));
    }
    text
}

const fn word(state: State) -> &'static str {
    match state {
        State::Waiting => "waits",
        State::UnderWay => "under way",
        State::Done => "done",
        State::WentBack => "went back",
        State::Refused => "not begun",
    }
}

/// How it ended, as data, words and exit status.
#[expect(clippy::print_stdout, reason = "how it ended is the command's data")]
fn told(ctx: &Context, rollout: &Rollout, questions: &[String]) -> Result<ExitCode> {
    if ctx.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({
                "rollout": rollout.id, "outcome": rollout.outcome, "cause": rollout.cause,
                "nodes": rollout.rows, "asks": questions,
            }))?
        );
    } else {
        print!("{}", table(rollout));
    }
    let Some(problem) = problem(rollout, questions) else {
        ctx.ui.line("the rollout is done");
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("error: {problem}");
    Ok(ExitCode::FAILURE)
}

/// What is not as it was meant to be.
fn problem(rollout: &Rollout, questions: &[String]) -> Option<String> {
    let cause = rollout.cause.as_deref().unwrap_or("no cause is known");
    match rollout.outcome {
        Some(End::Done) => None,
        Some(End::Stopped) => Some(format!("the rollout stopped: {cause}")),
        Some(End::Aborted) => Some("the rollout was aborted".to_owned()),
        None if questions.is_empty() => Some("the rollout was cut off; --resume it".to_owned()),
        None => Some(format!("the rollout waits for you: {}", questions.join("\n"))),
    }
}

/// Tells people who are not at the terminal. That they cannot be told changes nothing.
fn tell(ctx: &Context, site: &Site, rollout: &Rollout, questions: &[String]) {
    let content = Vault::of(&site.project.root).and_then(|vault| vault.open());
    let content = match content {
        Ok(content) => content.unwrap_or_default(),
        Err(error) => return ctx.ui.warn(format!("nobody was told: {error:#}")),
    };
    let problem = problem(rollout, questions);
    let name = &site.project.cluster.name;
    let message = Message {
        title: match &problem {
            None => format!("{name}: rollout done, {} nodes", rollout.rows.len()),
            Some(_) => format!("{name}: rollout needs you"),
        },
        text: format!("{}\n{}", problem.clone().unwrap_or_default(), table(rollout)),
        urgent: problem.is_some(),
    };
    for error in notify::tell(&notify::targets(&site.project.cluster, &content), &message) {
        ctx.ui.warn(format!("{error:#}"));
    }
}
