//! `builder cache ls|gc`: what the cache holds, for which images, and the removal of the rest.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use node::values::Digest;

use super::{Context, inputs};
use crate::cli::CacheCommand;
use crate::lock::Lock;
use crate::store::{Entry, GcReport, Kind, Store};
use crate::ui::Ui;

/// `builder cache`.
///
/// # Errors
/// The cache cannot be read, or something in it not removed.
pub fn run(ctx: &Context, command: &CacheCommand) -> Result<ExitCode> {
    let store = Store::open(None)?;
    let mut out = std::io::stdout().lock();
    match command {
        CacheCommand::Ls => {
            // The lock only lends its names; the cache can be listed outside any project.
            let lock = ctx.root().ok().and_then(|root| Lock::read(&root.join(inputs::LOCK)).ok());
            let lock = lock.unwrap_or_default();
            run_ls(&store, &lock, ctx.json, &mut out, &ctx.ui)?;
        }
        CacheCommand::Gc(args) => {
            let lock = Lock::read_or_empty(&ctx.root()?.join(inputs::LOCK))?;
            let report = store.gc(args.keep, &lock.digests().collect(), args.dry_run)?;
            show_gc(&report, args.dry_run, ctx.json, &mut out, &ctx.ui)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `builder cache ls`: one line per thing, or all as JSON.
pub fn run_ls(store: &Store, lock: &Lock, json: bool, out: &mut impl Write, ui: &Ui) -> Result<()> {
    let mut listing = store.list()?;
    let titles = lock.titles();
    for entry in listing.entries.iter_mut().filter(|e| e.kind == Kind::Object) {
        entry.title =
            entry.name.parse().ok().and_then(|digest: Digest| titles.get(&digest).cloned());
    }
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&listing)?)?;
        return Ok(());
    }
    for entry in &listing.entries {
        writeln!(out, "{}", line(entry))?;
    }
    let total: u64 = listing.entries.iter().map(|e| e.size).sum();
    let (count, images) = (listing.entries.len(), listing.images.len());
    let root = store.root().display();
    ui.line(format!("{}: {count} entries, {}, used by {images} images", root, mebibytes(total)));
    Ok(())
}

/// `builder cache gc`: one line per thing that went, or all as JSON.
fn show_gc(
    report: &GcReport,
    dry_run: bool,
    json: bool,
    out: &mut impl Write,
    ui: &Ui,
) -> Result<()> {
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        for entry in &report.removed {
            writeln!(out, "{}", line(entry))?;
        }
    }
    let verb = if dry_run { "would free" } else { "freed" };
    let (freed, kept) = (mebibytes(report.freed), mebibytes(report.kept));
    let (count, forgotten) = (report.removed.len(), report.forgotten.len());
    ui.line(format!("{verb} {freed} in {count} entries of {forgotten} older images; {kept} stay"));
    Ok(())
}

/// `stage base  3f9c2a71b0de…  295.2 MiB  worker-3f9c2a71b0de`, with what the lock calls it.
fn line(entry: &Entry) -> String {
    let kind = match &entry.kind {
        Kind::Stage(name) => format!("stage {name}"),
        Kind::Object => "object".to_owned(),
        Kind::Temp => "temp".to_owned(),
    };
    let name: String = entry.name.chars().take(16).collect();
    let users = if entry.images.is_empty() { "-".to_owned() } else { entry.images.join(" ") };
    let title = entry.title.as_ref().map(|title| format!("  {title}")).unwrap_or_default();
    format!("{kind:<16} {name:<16} {:>12}  {users}{title}", mebibytes(entry.size))
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
