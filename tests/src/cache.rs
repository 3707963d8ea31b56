//! Caches for tests. All share the machine's downloads, so that nothing is downloaded twice; stage
//! outputs are each cache's own, linked from one warm cache where a test does not make them itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::Run as _;

use crate::lab::{Lab, Programs, names, repository};
use crate::run::run;

/// A `BUILDER_CACHE`.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What the record of an image says it used.
#[derive(serde::Deserialize)]
struct Used {
    stages: Vec<(String, String)>,
}

impl Cache {
    /// A new one at `root`, with the machine's downloads and nothing else.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        let at = root.join("sha256");
        if !at.exists() {
            fs_err::os::unix::fs::symlink(downloads()?, at)?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder with the outputs of stage `name`.
    pub fn stage(&self, name: &str) -> PathBuf {
        self.root.join("stages").join(name)
    }

    /// Forgets the output of a stage.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, stage: &str) -> Result<()> {
        match fs::remove_dir_all(self.stage(stage)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Takes the stage outputs that the images of another cache use, as hard links: they are never
    /// written again.
    ///
    /// # Errors
    /// They cannot be linked.
    pub fn take_stages(&self, from: &Path) -> Result<()> {
        for record in names(&from.join("images"))? {
            let text = fs::read(from.join("images").join(record))?;
            let used: Used = serde_json::from_slice(&text).context("a record of another shape")?;
            for (stage, key) in used.stages {
                let folder = self.stage(&stage);
                fs::create_dir_all(&folder)?;
                if !folder.join(&key).exists() {
                    let mut copy = Command::new("cp");
                    copy.arg("-al").arg(from.join("stages").join(&stage).join(key)).arg(&folder);
                    copy.run()?;
                }
            }
        }
        Ok(())
    }

    /// Makes the downloads this cache's own, so that a test may damage one: links to the files, in
    /// folders of its own.
    ///
    /// # Errors
    /// They cannot be linked.
    pub fn own_downloads(&self) -> Result<()> {
        let at = self.root.join("sha256");
        let shared = fs::read_link(&at)?;
        fs::remove_file(&at)?;
        let mut copy = Command::new("cp");
        copy.arg("-al").arg(shared).arg(&at);
        // The downloads may lie on another file system, or belong to another user.
        if copy.run().is_err() {
            let _ = fs::remove_dir_all(&at); // what the failed links left
            Command::new("cp").arg("-a").arg(downloads()?).arg(&at).run()?;
        }
        Ok(())
    }

    /// Where the download with this digest lies.
    pub fn object(&self, digest: &str) -> PathBuf {
        self.root.join("sha256").join(&digest[..2]).join(digest)
    }

    /// Everything that has a final name: stage outputs and records of images.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn content(&self) -> Result<Vec<String>> {
        let mut found = names(&self.root.join("images"))?;
        for stage in names(&self.root.join("stages"))? {
            let keys = names(&self.stage(&stage))?;
            found.extend(keys.into_iter().map(|key| format!("{stage}/{key}")));
        }
        Ok(found)
    }

    /// Names of unfinished work.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn unfinished(&self) -> Result<Vec<String>> {
        let mut found = names(&self.root.join("tmp"))?;
        found.retain(|name| name != ".lock");
        Ok(found)
    }
}

/// The machine's downloads, as builder finds them.
fn downloads() -> Result<PathBuf> {
    let given = std::env::var_os("BUILDER_CACHE").map(PathBuf::from);
    let user = || std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let own = || Some(user().or_else(home)?.join("node-image-builder"));
    let root = given.or_else(own).context("neither BUILDER_CACHE nor HOME is set")?;
    Ok(root.join("sha256"))
}

/// Brings every download into the machine's cache and returns a lock that names them, with the
/// stand-ins in K3s' place. Where the mirror has moved on since builder.lock was written, the lock
/// names what it has today; said aloud.
///
/// # Errors
/// The mirror cannot be reached and something is missing.
pub fn prepare(programs: &Programs) -> Result<PathBuf> {
    static DONE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut done = DONE.lock().map_err(|_| anyhow::anyhow!("an earlier preparation failed"))?;
    if let Some(lock) = &*done {
        return Ok(lock.clone());
    }
    let lock = repository().join("target/e2e.lock");
    let new = lock.with_extension(format!("{}.lock", std::process::id()));
    let text = new.to_string_lossy().into_owned();
    let standin = |name: &str, path: &Path| format!("{name}={}", path.display());
    let k3s = standin("k3s", &programs.k3s);
    let images = standin("k3s-airgap-images", &programs.images);
    let helm = standin("helm", &fake_helm()?);
    let standins =
        ["lock", "--output", &text, "--standin", &k3s, "--standin", &images, "--standin", &helm];
    let fetch = ["fetch", "--packages", "--lock", &text];
    at_home(programs, &standins)?;
    if let Err(error) = at_home(programs, &fetch) {
        warn(&format!("the locked packages cannot be had ({error:#}); going on with today's"));
        at_home(programs, &["lock", "--output", &text, "--update"])?;
        at_home(programs, &fetch)?;
    }
    fs::rename(&new, &lock)?;
    *done = Some(lock.clone());
    Ok(lock)
}

/// A program in Helm's place. These images are looked at, never booted, so a version will do.
fn fake_helm() -> Result<PathBuf> {
    let path = repository().join("target/e2e-helm");
    node::files::ensure_file(&path, b"#!/bin/sh\necho v0.0.0+e2e\n", 0o755)?;
    Ok(path)
}

#[expect(clippy::print_stderr, reason = "a departure from the lock is said aloud")]
fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// Runs builder on the repository with the machine's own cache.
fn at_home(programs: &Programs, args: &[&str]) -> Result<()> {
    let mut command = Command::new(&programs.builder);
    run(command.args(args).current_dir(repository()))?.ok()?;
    Ok(())
}

/// The warm cache of this repository: the stages of the project's worker image. Made on first use,
/// and whenever an input has changed since.
///
/// # Errors
/// The build fails.
pub fn warm(lab: &Lab) -> Result<PathBuf> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().map_err(|_| anyhow::anyhow!("an earlier build failed"))?;
    let root = repository().join("target/e2e-cache");
    if *done {
        return Ok(root);
    }
    let cache = Cache::new(&root)?;
    // Older images' stages may stay; only the record of this one may.
    for record in names(&root.join("images"))? {
        fs::remove_file(root.join("images").join(record))?;
    }
    let mut command = lab.image();
    command.env("BUILDER_CACHE", cache.root());
    let ended = run(&mut command)?.ok()?;
    write_spans(&root, &ended)?;
    // Only its stages are wanted; the next test starts without an image.
    fs::remove_dir_all(&lab.out)?;
    *done = true;
    Ok(root)
}

/// Keeps how long each stage took when it was last made: the kill tests spread over it.
fn write_spans(root: &Path, ended: &crate::Ended) -> Result<()> {
    for (name, from, to) in ended.spans() {
        let millis = to.saturating_sub(from).as_millis().to_string();
        fs::write(root.join(format!("{name}.millis")), millis)?;
    }
    Ok(())
}

/// How long stage `name` took when the warm cache was made.
///
/// # Errors
/// It was not made yet.
pub fn span(warm: &Path, name: &str) -> Result<std::time::Duration> {
    let path = warm.join(format!("{name}.millis"));
    let text = fs::read_to_string(&path)?;
    let millis = text.trim().parse().with_context(|| format!("{} is damaged", path.display()))?;
    ensure!(millis > 0, "{} is damaged", path.display());
    Ok(std::time::Duration::from_millis(millis))
}
