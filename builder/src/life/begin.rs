//! The beginning of an operation: who, from what, to what. Only reads; the journal it makes is written
//! with the first step.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use node::image_id::ImageId;
use node::values::Hostname;

use super::failed::Failed;
use super::history;
use super::journal::{self, Journal, Kind, Operation, Options};
use super::op::{PAUSE, World};
use super::seams::{Answer, Member, Template};
use super::shelf::Drawer;

/// Nothing is under way yet: who asks can ask again.
const ASK: Duration = Duration::from_mins(2);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is done.
    pub operation: Operation,
    /// To whom.
    pub node: Hostname,
    /// The image; `None`: the newest good one, or for a rollback the one before.
    pub to: Option<ImageId>,
    /// What the operator chose.
    pub options: Options,
    /// Who asks, as USER@HOST.
    pub who: String,
    /// The rollout it is part of.
    pub rollout: Option<String>,
}

/// The journal of an operation that has not begun.
///
/// # Errors
/// Something is under way, the node is not of this cluster, or there is no image for it.
pub fn begin(world: &World<'_>, request: &Request) -> Result<Journal> {
    if request.rollout.is_none() {
        refuse_beside_others(world)?;
    }
    let member = member(world, &request.node)?;
    let mut own = ask(world, || world.hypervisor.vms_of(&member.name))?.into_iter();
    let old = own.next();
    if let (Some(one), Some(other)) = (&old, own.next()) {
        bail!(
            "two VMs are called {}: {} and {}; remove the one that is not the node",
            member.name,
            one.place,
            other.place
        );
    }
    let kind = Kind::of(member, world.members);
    let now = world.time.wall();
    let what = (request.operation.word(), request.node.as_str());
    let id = journal::free_id(world.shelf, Drawer::Journal, now, what)?;
    let mut journal = Journal::new(id, request.operation, member.clone(), kind, now);
    journal.from = old.as_ref().and_then(|vm| vm.image.clone());
    journal.to = target(world, request, member, journal.from.as_ref())?;
    if request.operation != Operation::Create {
        journal.old = old.map(|vm| vm.place);
    }
    journal.options = request.options.clone();
    journal.who.clone_from(&request.who);
    journal.rollout.clone_from(&request.rollout);
    Ok(journal)
}

/// One thing at a time: what was left half done may have a node out of service. A rollout asked this
/// when it was planned, and has the state folder to itself since.
pub(super) fn refuse_beside_others(world: &World<'_>) -> Result<()> {
    if let Some(open) = history::rollouts(world.shelf)?.iter().find(|r| r.outcome.is_none()) {
        bail!(
            "the rollout {} is not over; `builder rollout --resume` or `--abort` it first",
            open.id
        );
    }
    if let Some(open) = history::unfinished(world.shelf)?.first() {
        let why = open.asks.as_deref().unwrap_or("it was cut off");
        let (word, name) = (open.operation.word(), &open.member.name);
        bail!(
            "the {} is not over: {why}; `builder node {word} {name} --resume` or `--abort` it first",
            open.title()
        );
    }
    Ok(())
}

fn member<'a>(world: &World<'a>, name: &Hostname) -> Result<&'a Member> {
    let found = world.members.iter().find(|member| member.name == *name);
    found.with_context(|| {
        let names: Vec<_> = world.members.iter().map(|m| m.name.as_str()).collect();
        format!("{name} is no node of cluster.toml; its nodes are {}", names.join(", "))
    })
}

fn target(
    world: &World<'_>,
    request: &Request,
    member: &Member,
    now: Option<&ImageId>,
) -> Result<Option<ImageId>> {
    match (request.operation, &request.to) {
        (Operation::Delete, _) => Ok(None),
        (_, Some(image)) => {
            ensure!(
                *image.profile() == member.profile,
                "{image} is no image of profile {}, which {} has",
                member.profile,
                member.name
            );
            Ok(Some(image.clone()))
        }
        (Operation::Rollback, None) => before(world, member, now).map(Some),
        (Operation::Create | Operation::Rebuild, None) => newest(world, member).map(Some),
    }
}

/// Good templates of a profile, the newest first, by image.
pub(super) fn good(world: &World<'_>, profile: &Hostname) -> Result<Vec<Template>> {
    let all = ask(world, || world.hypervisor.templates())?;
    let mut good = Vec::new();
    for template in all.iter().filter(|template| template.image.profile() == profile) {
        let tagged = all.iter().any(|t| t.image == template.image && t.quarantined);
        if !tagged && history::bad(world.shelf, &template.image)?.is_none() {
            good.push(template.clone());
        }
    }
    good.sort_by_key(|t| (std::cmp::Reverse(t.made), t.image.clone()));
    Ok(good)
}

/// The newest good image of a member's profile, on whichever host.
pub(super) fn newest(world: &World<'_>, member: &Member) -> Result<ImageId> {
    let profile = &member.profile;
    let newest = good(world, profile)?.into_iter().next().map(|template| template.image);
    newest.with_context(|| {
        format!(
            "no good template of profile {profile} is there; run `builder push --profile {profile}`"
        )
    })
}

/// The image before: by the history, or else the newest good one; never one that is newer.
fn before(world: &World<'_>, member: &Member, now: Option<&ImageId>) -> Result<ImageId> {
    let good = good(world, &member.profile)?;
    let all = ask(world, || world.hypervisor.templates())?;
    let age = all.iter().filter(|t| Some(&t.image) == now).map(|t| t.made).min();
    let older = |t: &&Template| Some(&t.image) != now && age.is_none_or(|age| t.made <= age);
    let last =
        now.map(|now| history::before(world.shelf, &member.name, now)).transpose()?.flatten();
    let last = good.iter().filter(older).find(|t| Some(&t.image) == last.as_ref());
    let found = last.or_else(|| good.iter().find(older)).map(|t| t.image.clone());
    found.with_context(|| {
        let (profile, name) = (&member.profile, &member.name);
        format!("no good template of profile {profile} is older than what {name} has")
    })
}

/// Reads through what passes.
pub(super) fn ask<T>(world: &World<'_>, mut call: impl FnMut() -> Answer<T>) -> Result<T> {
    let end = world.time.now() + ASK;
    loop {
        match call() {
            Ok(value) => return Ok(value),
            Err(Failed::Later(_)) if world.time.now() < end => world.time.pause(PAUSE),
            Err(e) => return Err(e.into()),
        }
    }
}
