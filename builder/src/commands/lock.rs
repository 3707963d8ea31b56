//! `builder lock`: keeps `builder.lock` in step with the images, and says what changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{Context, inputs};
use crate::cli::LockArgs;
use crate::lock::apt::{SetRequest, resolve};
use crate::lock::mirror::Mirrors;
use crate::lock::{BaseSet, Diff, Lock, standin};
use crate::store::Store;
use crate::ui::Ui;

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct LockOptions {
    /// Names of base sets to resolve anew though nothing asked for changed; `all` for every one.
    pub update: Vec<String>,
    /// Files that take an artifact's place: name, path.
    pub standins: Vec<(String, PathBuf)>,
    /// Whether no mirror may be asked.
    pub offline: bool,
}

/// Everything [`run_lock`] works on.
#[derive(Debug)]
pub struct LockInputs<'a> {
    /// The lock file.
    pub path: &'a Path,
    /// The lock to start from where that one is not there yet.
    pub start: &'a Path,
    /// All package sets the images need; what the lock has beyond them is dropped.
    pub requests: &'a [SetRequest],
    /// Where the package mirrors are.
    pub mirrors: &'a Mirrors,
    /// The cache.
    pub store: &'a Store,
}

/// `builder lock`.
///
/// # Errors
/// The configuration is wrong, a name unknown, or a mirror cannot be asked.
pub fn run(ctx: &Context, args: &LockArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let path = ctx.root()?.join(&args.output);
    let update = match &args.update {
        Some(names) if names.is_empty() => vec!["all".to_owned()],
        Some(names) => names.clone(),
        None => Vec::new(),
    };
    let options =
        LockOptions { update, standins: args.standins.clone(), offline: args.source.offline };
    // A stand-in's lock is made beside the project's own and starts from it.
    let start = ctx.root()?.join(inputs::LOCK);
    let requests = inputs::all_requests(&project)?;
    let mirrors = inputs::mirrors(&args.source)?;
    let store = Store::open(None)?;
    let found = LockInputs {
        path: &path,
        start: &start,
        requests: &requests,
        mirrors: &mirrors,
        store: &store,
    };
    run_lock(&found, &options, &ctx.ui)?;
    Ok(ExitCode::SUCCESS)
}

/// Resolves what is missing, outdated or named by `--update`, puts stand-ins in place and writes
/// the lock if it changed. Artifacts stay as they are: their digests are facts that people enter
/// with their source.
pub fn run_lock(inputs: &LockInputs, options: &LockOptions, ui: &Ui) -> Result<Lock> {
    let there = inputs.path.try_exists()?;
    let old = Lock::read_or_empty(if there { inputs.path } else { inputs.start })?;
    check_names(&old, inputs.requests, &options.update)?;
    let mut lock = Lock { artifacts: old.artifacts.clone(), ..Lock::default() };
    for request in inputs.requests {
        let base = refresh(old.bases.get(&request.name), request, inputs, options, ui)?;
        lock.bases.insert(request.name.clone(), base);
    }
    for name in old.bases.keys().filter(|name| !lock.bases.contains_key(*name)) {
        ui.line(format!("{name}: no image asks for it any more; dropped"));
    }
    for (name, path) in &options.standins {
        standin(&mut lock, inputs.store, name, path)?;
        let artifact = lock.artifact(name)?;
        if !artifact.left_out {
            let version = &artifact.version;
            ui.warn(format!("{name} {version} is a stand-in from {}", path.display()));
        }
    }
    let left_out = lock.artifacts.values().filter(|a| a.left_out);
    let left_out: Vec<_> = left_out.map(|a| a.name.as_str()).collect();
    if !left_out.is_empty() {
        ui.warn(format!("the bundle goes on without the charts {}", left_out.join(", ")));
    }
    if lock == old && there {
        ui.line(format!("{} is up to date", inputs.path.display()));
    } else {
        lock.write(inputs.path)?;
        ui.line(format!("wrote {}", inputs.path.display()));
    }
    Ok(lock)
}

fn check_names(lock: &Lock, requests: &[SetRequest], update: &[String]) -> Result<()> {
    for name in update {
        if lock.artifacts.contains_key(name) {
            bail!(
                "--update {name}: an artifact's digest is entered by hand, with the place it was \
                 read: change `version`, `url`, `sha256` and `source` of {name} in the lock"
            );
        }
        if name != "all" && !requests.iter().any(|r| r.name == *name) {
            let known: Vec<_> = requests.iter().map(|r| r.name.as_str()).collect();
            bail!("--update {name}: no such package set; there are: all, {}", known.join(", "));
        }
    }
    Ok(())
}

/// The locked set where it still answers the request, else a new one.
fn refresh(
    old: Option<&BaseSet>,
    request: &SetRequest,
    inputs: &LockInputs,
    options: &LockOptions,
    ui: &Ui,
) -> Result<BaseSet> {
    let name = &request.name;
    let forced = options.update.iter().any(|u| u == name || u == "all");
    let why = match old {
        None => "not locked yet",
        Some(old) if old.request != request.digest() => "asked for something else now",
        Some(_) if forced => "update asked for",
        Some(old) => {
            ui.line(format!("{name}: {} packages, kept", old.packages.len()));
            return Ok(old.clone());
        }
    };
    if options.offline {
        bail!("offline, but {name} is to be resolved ({why}), which needs its mirrors");
    }
    ui.line(format!("{name}: {why}; asking the mirrors"));
    let new = resolve(inputs.store, request, inputs.mirrors)?;
    ui.line(format!("{name}: {}", summary(old, &new)));
    Ok(new)
}

/// How many packages, and each that changed.
fn summary(old: Option<&BaseSet>, new: &BaseSet) -> String {
    let count = new.packages.len();
    match old.map(|old| Diff::new(old, new)) {
        None => format!("{count} packages"),
        Some(diff) if diff.is_empty() => format!("{count} packages, none changed"),
        Some(diff) => format!("{count} packages, changed:\n{}", diff.to_string().trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::tests::sample;

    /// A request that the sample lock's set answers, and that lock in a file.
    fn locked(folder: &Path) -> (SetRequest, PathBuf) {
        let request = SetRequest {
            name: "debian-13".into(),
            origin: "images/debian-13.toml".into(),
            sources: vec![],
            keyring: "none.gpg".into(),
            packages: vec!["bash".into()],
            essential: true,
            arch: "amd64".into(),
        };
        let mut lock = sample();
        if let Some(base) = lock.bases.get_mut("debian-13") {
            base.request = request.digest();
        }
        let path = folder.join("builder.lock");
        lock.write(&path).unwrap();
        (request, path)
    }

    fn relock(folder: &Path, requests: &[SetRequest], options: &LockOptions) -> Result<Lock> {
        let store = Store::open(Some(&folder.join("cache")))?;
        let (mirrors, path) = (Mirrors::default(), folder.join("builder.lock"));
        let (start, store) = (&path, &store);
        let inputs = LockInputs { path: &path, start, requests, mirrors: &mirrors, store };
        run_lock(&inputs, options, &Ui::new(true))
    }

    fn refused(folder: &Path, request: &SetRequest, options: &LockOptions) -> String {
        let path = folder.join("builder.lock");
        let before = fs_err::read(&path).unwrap();
        let error = relock(folder, std::slice::from_ref(request), options).unwrap_err();
        assert_eq!(fs_err::read(&path).unwrap(), before, "the lock stays as it was");
        format!("{error:#}")
    }

    #[test]
    fn a_lock_that_answers_all_requests_is_kept_and_no_mirror_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (request, path) = locked(dir.path());
        let before = fs_err::read(&path).unwrap();
        let offline = LockOptions { offline: true, ..LockOptions::default() };
        relock(dir.path(), &[request], &offline).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), before);
        let lock = relock(dir.path(), &[], &offline).unwrap();
        assert!(lock.bases.is_empty(), "what nobody asks for is dropped");
        assert_eq!(Lock::read(&path).unwrap(), lock);
    }

    #[test]
    fn another_lock_starts_from_the_projects_and_is_only_there_when_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (request, start) = locked(dir.path());
        let (path, store) = (dir.path().join("other.lock"), dir.path().join("cache"));
        let (mirrors, store) = (Mirrors::default(), Store::open(Some(&store)).unwrap());
        let requests = &[request];
        let inputs =
            LockInputs { path: &path, start: &start, requests, mirrors: &mirrors, store: &store };
        let standins = vec![("k3s".to_owned(), dir.path().join("nothing"))];
        let options = LockOptions { offline: true, standins, ..LockOptions::default() };
        run_lock(&inputs, &options, &Ui::new(true)).unwrap_err();
        assert!(!path.exists(), "a lock without the stand-in that was asked for");
        let options = LockOptions { offline: true, ..LockOptions::default() };
        run_lock(&inputs, &options, &Ui::new(true)).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Lock::read(&start).unwrap());
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (request, _) = locked(dir.path());
        let update =
            |name: &str| LockOptions { update: vec![name.into()], ..LockOptions::default() };
        let text = refused(dir.path(), &request, &update("debian-31"));
        assert_eq!(text, "--update debian-31: no such package set; there are: all, debian-13");
        let text = refused(dir.path(), &request, &update("k3s"));
        assert!(
            text.starts_with("--update k3s: an artifact's digest is entered by hand"),
            "{text}"
        );
        let offline = LockOptions { offline: true, ..update("all") };
        let text = refused(dir.path(), &request, &offline);
        assert_eq!(
            text,
            "offline, but debian-13 is to be resolved (update asked for), which needs its mirrors"
        );
        let mut other = request.clone();
        other.packages.push("zstd".into());
        let offline = LockOptions { offline: true, ..LockOptions::default() };
        let text = refused(dir.path(), &other, &offline);
        assert!(text.contains("(asked for something else now)"), "{text}");
        let lock = Lock::read(&dir.path().join("builder.lock")).unwrap();
        let text = lock.base(&other).unwrap_err().to_string();
        assert!(text.starts_with("the lock is older than images/debian-13.toml"), "{text}");
    }
}
