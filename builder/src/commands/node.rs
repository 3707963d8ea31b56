//! `builder node create|delete|rebuild|rollback`: one operation of the engine, watched.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use node::image_id::ImageId;
use node::values::Hostname;
use serde_json::json;

use super::Context;
use super::gates::Checks;
use super::site::Site;
use crate::cli::{AgainArgs, ClusterArgs, DrainArgs, NodeCommand};
use crate::kubernetes;
use crate::life::{
    Drain, Folder, Journal, Op, Operation, Options, Outcome, Request, World, begin, history,
};
use crate::proxmox::clock;

/// An operation as the command line gives it.
struct Asked<'a> {
    operation: Operation,
    name: &'a Hostname,
    image: Option<&'a ImageId>,
    options: Options,
    again: AgainArgs,
    cluster: &'a ClusterArgs,
}

/// `builder node …`, but for `enroll` and `fence`.
///
/// # Errors
/// The configuration is wrong, something is missing, or something else is under way. How the operation
/// ends is told and is the exit status.
pub fn run(ctx: &Context, command: &NodeCommand) -> Result<ExitCode> {
    let asked = match command {
        NodeCommand::Enroll(args) => return super::enroll::run(ctx, args),
        NodeCommand::Fence(args) => return super::fence::run(ctx, args),
        NodeCommand::Create(args) if args.bootstrap => return super::first::run(ctx, args),
        NodeCommand::Create(args) => Asked {
            operation: Operation::Create,
            name: &args.name,
            image: args.image.as_ref(),
            // A sole server that is made without more takes back the newest snapshot.
            options: Options::default(),
            again: args.again,
            cluster: &args.cluster,
        },
        NodeCommand::Delete(args) => Asked {
            operation: Operation::Delete,
            name: &args.name,
            image: None,
            options: Options { lose_cluster: args.lose_cluster, ..options(args.drain) },
            again: args.again,
            cluster: &args.cluster,
        },
        NodeCommand::Rebuild(args) => Asked {
            operation: Operation::Rebuild,
            name: &args.name,
            image: args.image.as_ref(),
            options: options(args.drain),
            again: args.again,
            cluster: &args.cluster,
        },
        NodeCommand::Rollback(args) => Asked {
            operation: Operation::Rollback,
            name: &args.name,
            image: None,
            options: options(args.drain),
            again: args.again,
            cluster: &args.cluster,
        },
    };
    operate(ctx, &asked)
}

/// What may be lost, as the flags say.
pub fn options(drain: DrainArgs) -> Options {
    Options {
        drain: Drain { empty_dirs: !drain.keep_emptydir, force: drain.force },
        lose_local_data: drain.lose_local_data,
        max_unavailable: drain.max_unavailable as usize,
        ..Options::default()
    }
}

fn operate(ctx: &Context, asked: &Asked<'_>) -> Result<ExitCode> {
    let mut site = Site::open(ctx, asked.cluster)?;
    let member = site.member(asked.name)?;
    let begun = asked.again.resume || asked.again.abort;
    site.must_reach(begun)?;
    site.pin(ctx)?;
    let shelf = Folder::own(&super::history::folder(&site.project)?)?;
    // One that was begun went through it, and what is half done must not stay so; beside another one
    // nothing is begun.
    if !begun && !is_busy(&shelf)? && !site.is_ready(ctx, std::slice::from_ref(&member)) {
        return Ok(ExitCode::FAILURE);
    }
    with_world(ctx, &site, &shelf, asked.cluster, |world| {
        let journal =
            if begun { unfinished(world, asked)? } else { begin(world, &request(asked))? };
        let mut op = Op::new(*world, journal);
        if asked.again.abort {
            op.abort(asked.again.accept_loss)?;
        } else if !begun {
            ctx.ui.line(head(op.journal()));
        }
        op.run()?;
        told(ctx, op.journal())
    })
}

/// Whether something was cut off, or waits: half-made VMs are no fault then.
///
/// # Errors
/// A journal cannot be read.
pub fn is_busy(shelf: &Folder) -> Result<bool> {
    let rollout = history::rollouts(shelf)?.iter().any(|r| r.outcome.is_none());
    Ok(rollout || !history::unfinished(shelf)?.is_empty())
}

fn request(asked: &Asked<'_>) -> Request {
    Request {
        operation: asked.operation,
        node: asked.name.clone(),
        to: asked.image.cloned(),
        options: asked.options.clone(),
        who: who(),
        rollout: None,
    }
}

/// The journal that `--resume` or `--abort` is about.
fn unfinished(world: &World<'_>, asked: &Asked<'_>) -> Result<Journal> {
    let open = history::unfinished(world.shelf)?;
    let is_it = |j: &&Journal| j.member.name == *asked.name && j.operation == asked.operation;
    let found = open.iter().find(is_it).cloned();
    let word = asked.operation.word();
    let found = found.with_context(|| match open.first() {
        Some(other) => {
            format!("no {word} of {} is under way, but the {}", asked.name, other.title())
        }
        None => format!("no {word} of {} is under way", asked.name),
    })?;
    if let Some(rollout) = &found.rollout {
        bail!(
            "it is part of the rollout {rollout}: `builder rollout --resume` or `builder rollout --abort`"
        );
    }
    Ok(found)
}

/// Gives the engine the real world.
///
/// # Errors
/// A gate is not there, or what `work` says.
pub fn with_world<T>(
    ctx: &Context,
    site: &Site,
    shelf: &Folder,
    cluster: &ClusterArgs,
    work: impl FnOnce(&World<'_>) -> Result<T>,
) -> Result<T> {
    let kubeconfig = kubernetes::named(cluster.kubeconfig.as_deref());
    let gates = Checks::of(&site.project, site.kube.as_ref(), kubeconfig)?;
    let (vms, members, time) = (site.vms()?, site.members(), clock::System::new());
    work(&World {
        hypervisor: &vms,
        cluster: site.kube()?,
        gates: &gates,
        time: &time,
        shelf,
        members: &members,
        say: &|text| ctx.ui.line(text),
    })
}

/// Who asks, for the history.
pub fn who() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
    format!("{user}@{host}")
}

fn head(journal: &Journal) -> String {
    let image = |id: Option<&ImageId>| id.map_or("nothing".to_owned(), ToString::to_string);
    format!(
        "{}: {} to {}",
        journal.title(),
        image(journal.from.as_ref()),
        image(journal.to.as_ref())
    )
}

/// How it ended, as data, words and exit status.
#[expect(clippy::print_stdout, reason = "how it ended is the command's data")]
fn told(ctx: &Context, journal: &Journal) -> Result<ExitCode> {
    if ctx.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({
                "operation": journal.id, "node": journal.member.name, "from": journal.from,
                "to": journal.to, "vm": journal.new.as_ref().map(|place| place.vmid),
                "outcome": journal.outcome, "cause": journal.cause, "asks": journal.asks,
                "notes": journal.notes,
            }))?
        );
    }
    for note in &journal.notes {
        ctx.ui.line(format!("note: {note}"));
    }
    let (title, cause) = (journal.title(), journal.cause.as_deref().unwrap_or("no cause is known"));
    match (journal.outcome, &journal.asks) {
        (Some(Outcome::Done), _) => {
            ctx.ui.line(format!("{title}: done"));
            return Ok(ExitCode::SUCCESS);
        }
        (Some(Outcome::WentBack), _) => {
            eprintln!("error: the {title} failed, and the node is as it was before: {cause}");
        }
        (Some(Outcome::Refused), _) => {
            eprintln!("error: the {title} was not begun, nothing was changed: {cause}");
        }
        (None, Some(asks)) => eprintln!("error: the {title} waits for you: {asks}"),
        (None, None) => eprintln!("error: the {title} did not end"),
    }
    Ok(ExitCode::FAILURE)
}
