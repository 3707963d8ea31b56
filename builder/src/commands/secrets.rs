//! `builder secrets` and `builder cluster init`: what only the operator holds.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use firstboot::kubernetes::Kubernetes;
use node::config::Role;
use serde_json::json;

use super::Context;
use crate::bundle::Bundle;
use crate::cli::{ClusterCommand, SecretsApplyArgs, SecretsCommand};
use crate::config::Problems;
use crate::image::plan::facts;
use crate::lock::Lock;
use crate::secrets::key::{self, Key};
use crate::secrets::needs::Needs;
use crate::secrets::vault::Content;
use crate::secrets::{Escrow, FILE, Vault, apply as live, edit};

/// `builder secrets …`.
///
/// # Errors
/// There is no key, or the file cannot be opened or written.
pub fn run(ctx: &Context, command: &SecretsCommand) -> Result<ExitCode> {
    match command {
        SecretsCommand::Init => init(ctx),
        SecretsCommand::Edit => edit(ctx),
        SecretsCommand::Check => check(ctx),
        SecretsCommand::Apply(args) => apply(ctx, args),
    }
}

/// `builder cluster …`.
///
/// # Errors
/// There is a cluster already, or the file cannot be opened or written.
pub fn cluster(ctx: &Context, command: &ClusterCommand) -> Result<ExitCode> {
    let ClusterCommand::Init { another } = command;
    let project = ctx.project()?;
    let vault = vault_made(ctx)?;
    let mut content = vault.open()?.unwrap_or_else(Content::new);
    if let Some(old) = content.cluster.as_ref().filter(|_| !another) {
        bail!(
            "{FILE} has the cluster {} already; its snapshots cannot be opened without it. For a new, \
             empty cluster in its place keep a copy of the file and run `builder cluster init --another`",
            old.cluster_id
        );
    }
    let escrow = Escrow::mint(&project.cluster.name)?;
    let id = escrow.cluster_id.clone();
    content.cluster = Some(escrow);
    vault.save(&content)?;
    if ctx.json {
        println!("{}", json!({ "cluster_id": id, "file": FILE }));
    }
    ctx.ui.line(format!(
        "minted the cluster {id}: tokens and snapshot key are in {FILE}. Keep that file and {} in a \
         second place: without both no snapshot can be restored",
        vault.key.path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The vault, with a key made where there is none.
fn vault_made(ctx: &Context) -> Result<Vault> {
    let (key, made) = Key::read_or_make(&key::path()?)?;
    if made {
        ctx.ui.line(format!("made an age key: {}", key.path.display()));
    }
    Ok(Vault { path: ctx.root()?.join(FILE), key })
}

fn init(ctx: &Context) -> Result<ExitCode> {
    let needs = Needs::load(ctx.root()?)?;
    let vault = vault_made(ctx)?;
    let old = vault.open()?;
    let mut content = old.clone().unwrap_or_else(Content::new);
    let made = needs.fill(&mut content)?;
    if old.as_ref() != Some(&content) {
        vault.save(&content)?;
    }
    for name in &made {
        ctx.ui.line(format!("made {name}"));
    }
    let missing = needs.missing(&content, |_| true);
    ctx.ui.line(match (made.is_empty(), missing.len()) {
        (true, 0) => format!("{FILE} has everything already"),
        (_, 0) => format!("{FILE} has everything"),
        (_, n) => format!("{n} values are yours to enter, with `builder secrets edit`:"),
    });
    for missing in &missing {
        ctx.ui.line(format!("  {} {}: {}", missing.secret, missing.key, missing.what));
    }
    if ctx.json {
        println!("{}", json!({ "made": made, "missing": missing }));
    }
    Ok(ExitCode::SUCCESS)
}

fn edit(ctx: &Context) -> Result<ExitCode> {
    let vault = vault_made(ctx)?;
    let content = vault.open()?.unwrap_or_else(Content::new);
    match edit::edit(&content)? {
        None => ctx.ui.line("nothing was changed"),
        Some(edited) => {
            vault.save(&edited)?;
            ctx.ui.line(format!("{FILE} is written anew"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(ctx: &Context) -> Result<ExitCode> {
    let root = ctx.root()?;
    let needs = Needs::load(root)?;
    let vault = Vault::of(root)?;
    let content = opened(&vault)?;
    let missing = needs.missing(&content, |_| true);
    let unknown = needs.unknown(&content);
    if ctx.json {
        println!("{}", json!({ "missing": missing, "unknown": unknown }));
    }
    for missing in &missing {
        ctx.ui.line(format!("missing {} {}: {}", missing.secret, missing.key, missing.what));
    }
    for name in &unknown {
        ctx.ui.line(format!("{name}: nothing in cluster/secrets.toml needs it; misspelt?"));
    }
    if content.cluster.is_none() {
        ctx.ui.line("there is no cluster yet: `builder cluster init` mints its tokens");
    }
    let sound = missing.is_empty() && unknown.is_empty();
    if sound {
        let count = needs.secret.len();
        ctx.ui.line(format!("{FILE} can be opened and has what {count} Secrets need"));
    }
    Ok(ExitCode::from(u8::from(!sound)))
}

fn opened(vault: &Vault) -> Result<Content> {
    vault.open()?.ok_or_else(|| {
        let fix = "make it with `builder cluster init` and `builder secrets init`".to_owned();
        Problems::usage(format!("there is no {FILE}"), Some(fix)).into()
    })
}

/// A Secret that lacks a value is left as it stands in the cluster, and named.
fn apply(ctx: &Context, args: &SecretsApplyArgs) -> Result<ExitCode> {
    let root = ctx.root()?;
    let needs = Needs::load(root)?;
    let content = opened(&Vault::of(root)?)?;
    let releases = releases_on(ctx, &root.join(&args.lock))?;
    let on = |release: &str| releases.as_ref().is_none_or(|all| all.contains(release));
    let missing = needs.missing(&content, on);
    let kubernetes = Kubernetes::connect(&args.kubeconfig)?;
    let (mut changed, mut same) = (Vec::new(), Vec::new());
    for need in needs.secret.iter().filter(|need| need.wanted(on)) {
        let id = need.id();
        if missing.iter().any(|missing| missing.secret == id) {
            continue;
        }
        let applied = live::apply(&kubernetes, need, need.data(&content))?;
        if applied { changed.push(id) } else { same.push(id) }
    }
    for id in &changed {
        ctx.ui.line(format!("applied {id}"));
    }
    for missing in &missing {
        ctx.ui.line(format!("missing {} {}: {}", missing.secret, missing.key, missing.what));
    }
    let (applied, unchanged) = (changed.len(), same.len());
    ctx.ui.line(format!("{applied} Secrets applied, {unchanged} unchanged"));
    if ctx.json {
        println!("{}", json!({ "applied": changed, "unchanged": same, "missing": missing }));
    }
    Ok(ExitCode::from(u8::from(!missing.is_empty())))
}

/// Names of the bundle's releases; `None` for a project without one, whose Secrets are all wanted.
fn releases_on(ctx: &Context, lock: &Path) -> Result<Option<BTreeSet<String>>> {
    let project = ctx.project()?;
    let server = project.profiles.values().find(|profile| profile.role == Role::Server);
    let server = server.context("no profile has the role `server`")?;
    let facts = facts(&project, server)?;
    let bundle = Bundle::load(&project.root, &facts, &Lock::read_or_empty(lock)?)?;
    Ok(bundle.map(|bundle| bundle.releases().map(|r| r.name.to_string()).collect()))
}
