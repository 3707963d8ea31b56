//! `builder quarantine ls|add|lift`: the images that no node is made of. A record of the state folder and
//! a tag on the image's templates say the same: the one knows why, the other is seen from every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use node::image_id::ImageId;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::node::who;
use crate::cli::QuarantineCommand;
use crate::config::Project;
use crate::life::Folder;
use crate::life::history::{self, Bad, Lifted};
use crate::proxmox::inventory::Inventory;
use crate::proxmox::{self, Connection};

/// `builder quarantine …`.
///
/// # Errors
/// The configuration is wrong, Proxmox refuses, or the image is not what was said.
pub fn run(ctx: &Context, command: &QuarantineCommand) -> Result<ExitCode> {
    let project = ctx.project()?;
    match command {
        QuarantineCommand::Ls => list(ctx, &project),
        QuarantineCommand::Add { image, reason } => add(ctx, &project, image, reason),
        QuarantineCommand::Lift { image } => lift(ctx, &project, image),
    }
}

/// A bad image as the command shows it.
#[derive(Debug, Default, Serialize)]
struct Line {
    /// Empty: another machine, or a person in Proxmox, said so.
    reason: String,
    since: Option<Timestamp>,
    templates: Vec<String>,
}

/// All that are known, by record or by tag.
fn known(records: &[Bad], inventory: &Inventory) -> BTreeMap<ImageId, Line> {
    let mut all: BTreeMap<ImageId, Line> = BTreeMap::new();
    for bad in records {
        let line = all.entry(bad.image.clone()).or_default();
        (line.reason, line.since) = (bad.told(), Some(bad.at));
    }
    for template in inventory.templates.iter().filter(|t| t.is_quarantined()) {
        let Some(image) = template.image.clone() else { continue };
        all.entry(image).or_default().templates.push(template.place());
    }
    all
}

/// What Proxmox says is half of it: the records are shown also while it does not answer.
#[expect(clippy::print_stdout, reason = "the list is the command's data")]
fn list(ctx: &Context, project: &Project) -> Result<ExitCode> {
    let records = history::all_bad(&Folder::read_only(&super::history::folder(project)?))?;
    let inventory = proxmox::connect(project, &ctx.ui)
        .and_then(|connection| Ok(Inventory::read(&connection.client, &project.cluster)?));
    let inventory = inventory.unwrap_or_else(|why| {
        ctx.ui.warn(format!("templates are not shown, as Proxmox was not asked: {why:#}"));
        Inventory::default()
    });
    let all = known(&records, &inventory);
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else if all.is_empty() {
        ctx.ui.line("no image is quarantined");
    } else {
        print!("{}", table(&all));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(all: &BTreeMap<ImageId, Line>) -> String {
    let mut text = String::new();
    for (image, line) in all {
        let since = line.since.map_or_else(|| "tagged".to_owned(), |at| format!("since {at:.0}"));
        let templates = match line.templates.as_slice() {
            [] => "no template".to_owned(),
            some => format!("template {}", some.join(", ")),
        };
        let _ = writeln!(text, "{image}  {since}, {templates}");
        let reason = match line.reason.as_str() {
            "" => "no reason is known on this machine",
            reason => reason,
        };
        let _ = writeln!(text, "    {}", reason.replace('\n', "\n    "));
    }
    text
}

/// Templates of hosts that are off keep their tags whatever is said meanwhile.
fn inventory(project: &Project, connection: &Connection) -> Result<Inventory> {
    let inventory = Inventory::read(&connection.client, &project.cluster)?;
    if let Some(host) = inventory.offline.first() {
        bail!(
            "the host {host} is offline, and so are its templates; nothing was changed: try again"
        );
    }
    Ok(inventory)
}

/// The record first: from then on nothing here places the image.
fn add(ctx: &Context, project: &Project, image: &ImageId, reason: &str) -> Result<ExitCode> {
    let connection = proxmox::connect(project, &ctx.ui)?;
    let shelf = Folder::own(&super::history::folder(project)?)?;
    let inventory = inventory(project, &connection)?;
    let images: BTreeSet<_> = inventory.templates.iter().filter_map(|t| t.image.clone()).collect();
    let names: Vec<_> = images.iter().map(ToString::to_string).collect();
    ensure!(
        images.contains(image),
        "{image} is no template of this cluster; those that are: {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    let bad = Bad {
        image: image.clone(),
        node: None,
        operation: None,
        reason: format!("{reason} ({})", who()),
        at: Timestamp::now(),
        lifted: None,
    };
    history::quarantine(&shelf, &bad)?;
    let tagged = inventory.set_quarantined(&connection.client, &project.cluster, image, true)?;
    told(ctx, image, tagged.len(), true)?;
    let on: Vec<_> = inventory.made_of(image).map(|vm| vm.name.clone()).collect();
    if !on.is_empty() {
        let on = on.join(", ");
        ctx.ui.line(format!("made of it: {on}; `builder node rollback NAME` takes a node off it"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The tags first: cut off in between, the image is still known as bad, and the next run goes on.
fn lift(ctx: &Context, project: &Project, image: &ImageId) -> Result<ExitCode> {
    let connection = proxmox::connect(project, &ctx.ui)?;
    let shelf = Folder::own(&super::history::folder(project)?)?;
    let inventory = inventory(project, &connection)?;
    let known = known(&history::all_bad(&shelf)?, &inventory);
    if !known.contains_key(image) {
        let others: Vec<_> = known.keys().map(ToString::to_string).collect();
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        bail!("{image} is not quarantined; those that are: {others}");
    }
    let freed = inventory.set_quarantined(&connection.client, &project.cluster, image, false)?;
    history::lift(&shelf, image, Lifted { who: who(), at: Timestamp::now() })
        .context("the templates are free, and the record is not")?;
    told(ctx, image, freed.len(), false)?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "what was changed is the command's data")]
fn told(ctx: &Context, image: &ImageId, templates: usize, bad: bool) -> Result<()> {
    if ctx.json {
        let all = json!({ "image": image, "quarantined": bad, "templates": templates });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    ctx.ui.line(if bad {
        format!("{image} is quarantined, templates tagged: {templates}; no node is made of it")
    } else {
        format!(
            "{image} is not quarantined any more, templates freed: {templates}; `builder rollout` \
             brings it where it is the newest of its profile. A builder of another machine that saw \
             it fail keeps a record of its own: lift it there too"
        )
    });
    Ok(())
}
