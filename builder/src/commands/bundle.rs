//! `builder bundle`: what runs in the cluster, shown, compared and applied by hand.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use firstboot::bundle::{self as live, Change, News, Target};
use firstboot::kubernetes::Kubernetes;
use fs_err as fs;
use node::bundle as packed;
use node::config::Role;
use node::report::BundleReport;
use tempfile::TempDir;

use super::Context;
use super::inputs::Sources;
use crate::bundle::{self, Bundle, Chart, Part};
use crate::cli::{BundleArgs, BundleCommand, LiveArgs, RenderArgs};
use crate::fetch::fetch_artifacts;
use crate::image::plan::{HELM, K3S, facts};
use crate::lock::{ArtifactKind, check_artifact};

/// Under which name helm applies fields.
const HELM_MANAGER: &str = "helm";

/// The bundle, packed in a folder of its own, with helm beside it.
struct Prepared {
    folder: TempDir,
    bundle: Bundle,
    root: PathBuf,
    index: packed::Bundle,
    /// Kubernetes' version without K3s' suffix.
    version: String,
}

impl Prepared {
    fn place(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn helm(&self) -> PathBuf {
        self.folder.path().join("helm")
    }

    /// Rendered, with every name in it looked up.
    fn parts(&self) -> Result<Vec<Part>> {
        let parts = bundle::render(&self.index, &self.place(), &self.helm(), &self.version)?;
        self.bundle.check_rendered(&self.root, &parts)?;
        Ok(parts)
    }
}

/// `builder bundle`.
///
/// # Errors
/// The bundle has problems, an input cannot be had, helm or the cluster refuse.
pub fn run(ctx: &Context, command: &BundleCommand) -> Result<ExitCode> {
    match command {
        BundleCommand::Render(args) => render(ctx, args),
        BundleCommand::Diff(args) => diff(ctx, args),
        BundleCommand::Apply(args) => apply(ctx, args),
    }
}

fn prepare(ctx: &Context, args: &BundleArgs) -> Result<Prepared> {
    let project = ctx.project()?;
    let root = ctx.root()?;
    let sources = Sources::new(&root.join(&args.lock), &args.artifacts, &args.source)?;
    let (lock, store) = (&sources.lock, &sources.store);
    let profile = match &args.profile {
        Some(name) => project.profile(name)?,
        None => project
            .profiles
            .values()
            .find(|p| p.role == Role::Server)
            .context("no profile has the role `server`")?,
    };
    let mut facts = facts(&project, profile)?;
    facts.k3s_version.clone_from(&lock.artifact(K3S)?.version);
    let Some(bundle) = Bundle::load(root, &facts, lock)? else {
        bail!("the project has no {}", bundle::FILE)
    };
    for (name, path) in &args.artifacts {
        check_artifact(lock, store, name, path)?;
    }
    let locked = bundle.charts.iter();
    let locked = locked.filter(|(_, c)| matches!(c, Chart::Locked { left_out: false, .. }));
    let names: Vec<&str> = locked.map(|(name, _)| name.as_str()).chain([HELM]).collect();
    fetch_artifacts(store, lock, &names, &ctx.ui, &sources.fetch)?;
    let folder = tempfile::tempdir().context("failed to make a folder")?;
    bundle::write(&bundle::pack(&bundle, store)?, &folder.path().join("bundle"))?;
    let helm = lock.artifact(HELM)?;
    let (from, to) = (store.object(&helm.sha256), folder.path().join("helm"));
    match helm.kind {
        ArtifactKind::Archive => crate::image::helm::unpack(&from, &to)?,
        _ => drop(fs::copy(&from, &to)?),
    }
    fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
    let (index, _) = packed::Bundle::load(&folder.path().join("bundle"))?;
    let version = facts.k3s_version.split('+').next().unwrap_or_default().to_owned();
    say_absent(ctx, &index);
    Ok(Prepared { folder, bundle, root: root.to_owned(), index, version })
}

/// Names what cannot be shown or applied.
fn say_absent(ctx: &Context, index: &packed::Bundle) {
    for release in index.releases().filter(|r| r.is_left_out()) {
        let chart = release.chart.as_ref().map(|c| c.name.as_str()).unwrap_or_default();
        ctx.ui.warn(format!("{}: left out, the lock goes on without chart {chart}", release.id()));
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's data")]
fn render(ctx: &Context, args: &RenderArgs) -> Result<ExitCode> {
    let parts = prepare(ctx, &args.bundle)?.parts()?;
    for part in &parts {
        match &args.out {
            None => print!("# {}\n{}", part.path, part.text),
            Some(out) => {
                let path = out.join(&part.path);
                fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
                fs::write(path, &part.text)?;
            }
        }
    }
    ctx.ui.line(format!("{} parts", parts.len()));
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "this is the command's data")]
fn diff(ctx: &Context, args: &LiveArgs) -> Result<ExitCode> {
    let prepared = prepare(ctx, &args.bundle)?;
    let kubernetes = Kubernetes::connect(&args.kubeconfig)?;
    let mut changes = Vec::new();
    for part in prepared.parts()? {
        let manager = if part.helm.is_some() { HELM_MANAGER } else { packed::MANAGER };
        changes.extend(live::diff(&kubernetes, &part.objects()?, &part.namespace, manager)?);
    }
    let leaving = live::leaving(&kubernetes, &prepared.index)?;
    if ctx.json {
        let (removed, kept) = (&leaving.removed, &leaving.kept);
        let all = serde_json::json!({"changes": changes, "leaving": removed, "kept": kept});
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        for change in &changes {
            print!("{}", told(change));
        }
        for id in &leaving.removed {
            println!("- release {id}");
        }
        for id in &leaving.kept {
            ctx.ui.line(format!("{id} is not in the bundle and stays for its data"));
        }
    }
    let same = changes.is_empty() && leaving.removed.is_empty();
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(crate::UNHEALTHY) })
}

/// One object's change in lines.
fn told(change: &Change) -> String {
    let Change { object, new, fields, refused } = change;
    let mark = if *new { '+' } else { '~' };
    let head = match refused {
        Some(why) => format!("! {object}: {why}\n"),
        None => format!("{mark} {object}\n"),
    };
    fields.iter().fold(head, |text, field| text + "    " + field + "\n")
}

fn apply(ctx: &Context, args: &LiveArgs) -> Result<ExitCode> {
    let prepared = prepare(ctx, &args.bundle)?;
    let kubernetes = Kubernetes::connect(&args.kubeconfig)?;
    let scratch = prepared.folder.path().join("scratch");
    fs::create_dir_all(&scratch)?;
    let kubeconfig = std::path::absolute(&args.kubeconfig)?;
    let report = live::apply(&Target {
        kubernetes: &kubernetes,
        kubeconfig: &kubeconfig,
        folder: &prepared.place(),
        holder: holder(),
        scratch,
        helm: prepared.helm(),
        limit: &|wait: Duration| wait,
        say: &|news: News<'_>| match news {
            News::Begins(what) => ctx.ui.line(format!("{what} …")),
            News::Ended(r) => {
                let colon = if r.detail.is_empty() { "" } else { ": " };
                ctx.ui.line(format!("{}: {}{colon}{}", r.release, r.outcome.as_str(), r.detail));
            }
        },
    })?;
    print(ctx, &report)?;
    let whole = !report.releases.iter().any(|r| r.outcome.is_bad());
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "this is the command's data")]
fn print(ctx: &Context, report: &BundleReport) -> Result<()> {
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else if let Some(why) = &report.skipped {
        ctx.ui.line(format!("revision {}: {why}", report.revision));
    }
    Ok(())
}

/// Who holds the Lease meanwhile: a person at a machine.
fn holder() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
    format!("builder of {user}@{host}")
}
