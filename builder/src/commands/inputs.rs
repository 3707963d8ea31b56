//! What the commands that build have in common: lock, mirrors, given files, the plan.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::cli::SourceArgs;
use crate::config::{Profile, Project};
use crate::fetch::{Options, fetch_artifacts, fetch_base};
use crate::image::plan::Requests;
use crate::image::{Manifest, Plan};
use crate::lock::Lock;
use crate::lock::apt::SetRequest;
use crate::lock::mirror::Mirrors;
use crate::lock::standin::check_artifact;
use crate::store::Store;

/// The project's lock file.
pub const LOCK: &str = "builder.lock";
/// Name of the firstboot program among `--artifact`s; it is built with builder, not locked.
const FIRSTBOOT: &str = "firstboot";

/// Where the build's inputs come from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The lock in use.
    pub lock: Lock,
    /// Files given by `--artifact`.
    pub artifacts: &'a [(String, PathBuf)],
    /// Where package mirrors are.
    pub mirrors: Mirrors,
    /// How to download.
    pub fetch: Options,
    /// The cache.
    pub store: Store,
}

impl<'a> Sources<'a> {
    /// From the flags of a command.
    ///
    /// # Errors
    /// The lock is missing or wrong, or the cache cannot be opened.
    pub fn new(
        lock: &Path,
        artifacts: &'a [(String, PathBuf)],
        source: &SourceArgs,
    ) -> Result<Self> {
        Ok(Self {
            lock: Lock::read(lock)?,
            artifacts,
            mirrors: mirrors(source)?,
            fetch: Options { offline: source.offline, ..Options::default() },
            store: Store::open(None)?,
        })
    }

    /// Decides the build of `profile`.
    ///
    /// # Errors
    /// As [`Plan::new`]; or firstboot is not there.
    pub fn plan(&self, project: &Project, profile: &Profile) -> Result<Plan> {
        Plan::new(project, profile, &self.lock, &self.firstboot()?)
    }

    /// Brings everything the plan needs into the store.
    ///
    /// # Errors
    /// A given file is not what the lock says, or a download fails.
    pub fn fetch(&self, ctx: &Context, project: &Project, plan: &Plan) -> Result<()> {
        for (name, path) in self.artifacts.iter().filter(|(name, _)| name != FIRSTBOOT) {
            check_artifact(&self.lock, &self.store, name, path)?;
        }
        for request in Requests::of(project, &plan.profile)?.all() {
            let set = self.lock.base(&request)?;
            fetch_base(&self.store, set, &request, &self.mirrors, &ctx.ui, &self.fetch)?;
        }
        let names: Vec<&str> = plan.artifacts().map(|a| a.name.as_str()).collect();
        fetch_artifacts(&self.store, &self.lock, &names, &ctx.ui, &self.fetch)?;
        Ok(())
    }

    /// The static firstboot: as given, else where cargo puts it, else beside this program.
    fn firstboot(&self) -> Result<PathBuf> {
        if let Some((_, path)) = self.artifacts.iter().find(|(name, _)| name == FIRSTBOOT) {
            return Ok(path.clone());
        }
        let own = std::env::current_exe().context("failed to find this program's own file")?;
        let folder = own.parent().unwrap_or(Path::new("/"));
        let places = [
            // First: a sibling in cargo's folders may be a dynamic build for this host.
            folder.join("../x86_64-unknown-linux-gnu/release").join(FIRSTBOOT),
            folder.join(FIRSTBOOT),
        ];
        match places.iter().find(|p| p.is_file()) {
            Some(path) => Ok(path.clone()),
            None => bail!(
                "there is no firstboot beside {}; build it with `just firstboot`, or give it \
                 with --artifact firstboot=PATH",
                own.display()
            ),
        }
    }
}

/// The file of the newest image of a profile below `out`.
///
/// # Errors
/// There is none.
pub fn newest(ctx: &Context, out: &Path, profile: &str) -> Result<PathBuf> {
    let out = ctx.root()?.join(out);
    let hint = || {
        let make = format!("run `builder image --profile {profile}`");
        format!("no image of `{profile}` in {}; {make}", out.display())
    };
    let mut newest = None;
    for entry in fs_err::read_dir(&out).with_context(hint)? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with(".manifest.json") {
            continue;
        }
        let manifest = Manifest::load(&path)?;
        let made = fs_err::metadata(&path)?.modified()?;
        if manifest.profile == profile && newest.as_ref().is_none_or(|(time, _)| *time < made) {
            newest = Some((made, out.join(manifest.qcow2.file)));
        }
    }
    Ok(newest.with_context(hint)?.1)
}

/// Mirrors by the flags and this host's apt sources.
///
/// # Errors
/// A flag that is no address, or apt sources that cannot be read.
pub fn mirrors(source: &SourceArgs) -> Result<Mirrors> {
    Mirrors::new(source.mirrors.iter().cloned(), Path::new("/etc/apt"))
}

/// The package sets of all profiles, each once.
///
/// # Errors
/// A profile names an image that is not there.
pub fn all_requests(project: &Project) -> Result<Vec<SetRequest>> {
    let mut all: Vec<SetRequest> = Vec::new();
    for profile in project.profiles.values() {
        for request in Requests::of(project, profile)?.all() {
            if all.iter().all(|r| r.name != request.name) {
                all.push(request);
            }
        }
    }
    Ok(all)
}
