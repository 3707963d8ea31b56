//! A place for one test: a copy of the project that may be changed, a cache and a scratch folder of
//! its own, and the built programs.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::Run as _;
use node::values::Digest;
use sha2::{Digest as _, Sha256};

use crate::cache::{self, Cache};
use crate::run::{Ended, run};

/// What a copy of the project is made of.
const PROJECT: [&str; 3] = ["images", "profiles", "cluster"];
/// Free bytes of memory-backed scratch space under which the disk is used instead.
const SCRATCH_FLOOR: u64 = 4 << 30;

/// The repository under test.
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The programs under test and what stands in for K3s.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `builder`.
    pub builder: PathBuf,
    /// firstboot, static.
    pub firstboot: PathBuf,
    /// In K3s' place.
    pub k3s: PathBuf,
    /// In the place of its container images.
    pub images: PathBuf,
}

impl Programs {
    /// Those of the repository's `target/`.
    ///
    /// # Errors
    /// One is missing; the error says what to run.
    pub fn find() -> Result<Self> {
        Ok(Self {
            builder: there("release/builder", "just build")?,
            firstboot: there("x86_64-unknown-linux-gnu/release/firstboot", "just build")?,
            k3s: there("k3s-standin/k3s", "tests/k3s-standin/build.sh")?,
            images: there("k3s-standin/k3s-airgap-images.tar", "tests/k3s-standin/build.sh")?,
        })
    }

    /// `helm` of the lock's version.
    ///
    /// # Errors
    /// It was not built; the error says what to run.
    pub fn helm() -> Result<PathBuf> {
        there("helm/helm", "tests/helm.sh")
    }
}

/// A file of `target/`, or an error that says what makes it.
fn there(path: &str, fix: &str) -> Result<PathBuf> {
    let path = repository().join("target").join(path);
    ensure!(path.is_file(), "{} is not there; run `{fix}` first", path.display());
    Ok(path)
}

/// The place. Everything in it is gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    /// The programs under test.
    pub programs: Programs,
    /// The copy of the project; its `builder.lock` has the stand-ins.
    pub project: PathBuf,
    /// `BUILDER_CACHE`.
    pub cache: Cache,
    /// Where images go.
    pub out: PathBuf,
    scratch: tempfile::TempDir,
    place: tempfile::TempDir,
}

impl Lab {
    /// A fresh one, whose cache has the downloads only: every stage will be made.
    ///
    /// # Errors
    /// A prerequisite is missing.
    pub fn cold() -> Result<Self> {
        let programs = Programs::find()?;
        let lock = cache::prepare(&programs)?;
        let place = folder(&std::env::temp_dir())?;
        let scratch = folder(&scratch_parent())?;
        let project = place.path().join("project");
        copy_project(&project)?;
        fs::copy(lock, project.join("builder.lock"))?;
        let out = project.join("out");
        let cache = Cache::new(&place.path().join("cache"))?;
        Ok(Self { programs, project, cache, out, scratch, place })
    }

    /// A fresh one, whose cache has the stages of the project's worker image too. The first call
    /// on a machine makes them.
    ///
    /// # Errors
    /// A prerequisite is missing, or the stages cannot be made.
    pub fn warm() -> Result<Self> {
        let lab = Self::cold()?;
        lab.cache.take_stages(&cache::warm(&lab)?)?;
        Ok(lab)
    }

    /// The folder all this lies in; a place for a test's own files.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// `TMPDIR` of the builds here.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// `builder` in the project, with this lab's cache.
    pub fn builder(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.builder);
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// Sets folder and environment as [`Lab::builder`] does.
    pub fn surround(&self, command: &mut Command) {
        command.current_dir(&self.project).env_remove("RUST_LOG").env_remove("LANG");
        command.env("BUILDER_CACHE", self.cache.root()).env("TMPDIR", self.scratch());
    }

    /// `builder image` of the worker.
    pub fn image(&self) -> Command {
        self.builder(&[
            "image",
            "--profile",
            "worker",
            "--offline",
            "--artifact",
            &self.firstboot(),
        ])
    }

    /// The argument that names firstboot.
    pub fn firstboot(&self) -> String {
        format!("firstboot={}", self.programs.firstboot.display())
    }

    /// Builds the worker's image, which must go well.
    ///
    /// # Errors
    /// It does not.
    pub fn build(&self) -> Result<(Ended, Product)> {
        let ended = run(&mut self.image())?.ok()?;
        let product = Product::read(Path::new(ended.only_line()?))?;
        Ok((ended, product))
    }

    /// Changes a file of the project's copy.
    ///
    /// # Errors
    /// It is not there, or does not hold `from`.
    pub fn replace(&self, file: &str, from: &str, to: &str) -> Result<()> {
        let path = self.project.join(file);
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{file} does not hold `{from}`");
        fs::write(&path, text.replacen(from, to, 1))?;
        Ok(())
    }

    /// Adds a file to the project's copy.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&self, file: &str, text: &str) -> Result<()> {
        let path = self.project.join(file);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(&path, text)?;
        Ok(())
    }

    /// Names of everything in the folder of images, hidden files too; none when it is not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn out_names(&self) -> Result<Vec<String>> {
        names(&self.out)
    }
}

/// Sorted names of what lies in `folder`; none when it is not there.
///
/// # Errors
/// It cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entry =
        |e: std::io::Result<fs::DirEntry>| Ok(e?.file_name().to_string_lossy().into_owned());
    let mut names = fs::read_dir(folder)?.map(entry).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// What one build gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The qcow2 file.
    pub qcow2: PathBuf,
    /// The image-id: its name without the ending.
    pub id: String,
    /// SHA-256 of qcow2, manifest and bill of materials.
    pub digests: [String; 3],
}

impl Product {
    /// What lies beside `qcow2`.
    ///
    /// # Errors
    /// One of the three files is missing.
    pub fn read(qcow2: &Path) -> Result<Self> {
        let name = qcow2.file_name().unwrap_or_default().to_string_lossy();
        let id = name.strip_suffix(".qcow2").context("an image ends in .qcow2")?.to_owned();
        let file = |ending: &str| sha256(&qcow2.with_file_name(format!("{id}.{ending}")));
        let digests = [file("qcow2")?, file("manifest.json")?, file("sbom.cdx.json")?];
        Ok(Self { qcow2: qcow2.to_owned(), id, digests })
    }

    /// Whether another build gave the same bytes.
    pub fn same(&self, other: &Self) -> bool {
        (&self.id, &self.digests) == (&other.id, &other.digests)
    }
}

/// SHA-256 of a file in hex.
///
/// # Errors
/// It cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let (mut file, mut hasher) = (fs::File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(Digest::from_bytes(hasher.finalize().into()).to_string())
}

/// A folder that other users may look into, as the mapped ones of a rootless build must.
fn folder(parent: &Path) -> Result<tempfile::TempDir> {
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let dir = tempfile::Builder::new().prefix("e2e-").permissions(everyone).tempdir_in(parent)?;
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(dir)
}

/// In memory where there is room, as builder does it.
fn scratch_parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free =
        nix::sys::statvfs::statvfs(memory).map_or(0, |s| s.blocks_available() * s.fragment_size());
    if free > SCRATCH_FLOOR { memory.to_owned() } else { std::env::temp_dir() }
}

fn copy_project(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut copy = Command::new("cp");
    copy.arg("-a").args(PROJECT.map(|name| repository().join(name))).arg(to).run()
}
