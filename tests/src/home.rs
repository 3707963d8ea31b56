//! A project with a bundle, for tests on a real cluster: the repository's or one of the test's own, with
//! the real helm, and a lock that goes on without the charts that cannot be had.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::Run as _;
use serde_json::Value;

use crate::kubernetes::Cluster;
use crate::lab::{Programs, names, repository};
use crate::run::{Ended, run};

/// The project. Everything in it is gone when it is dropped.
#[derive(Debug)]
pub struct Home {
    /// Its folder.
    pub project: PathBuf,
    /// Charts of the lock, all of which are left out.
    pub upstream: Vec<String>,
    builder: PathBuf,
    place: tempfile::TempDir,
}

/// A release of the project.
#[derive(Debug, Clone, PartialEq)]
pub struct Release {
    /// Its folder.
    pub folder: PathBuf,
    /// `NAMESPACE/NAME`.
    pub id: String,
    /// What its `release.toml` says.
    pub file: toml::Table,
}

impl Home {
    /// A copy of the repository's home.
    ///
    /// # Errors
    /// A program is missing, or the copy cannot be made.
    pub fn of_repository() -> Result<Self> {
        let this = Self::empty()?;
        fs::remove_dir_all(this.project.join("cluster"))?;
        Command::new("cp").arg("-a").arg(repository().join("cluster")).arg(&this.project).run()?;
        Ok(this)
    }

    /// A project with the repository's facts and no bundle yet.
    ///
    /// # Errors
    /// As [`Home::of_repository`].
    pub fn empty() -> Result<Self> {
        let (builder, helm) = (Programs::find()?.builder, Programs::helm()?);
        let place = tempfile::Builder::new().prefix("home-").tempdir()?;
        let project = place.path().join("project");
        fs::create_dir_all(project.join("cluster"))?;
        let from = repository();
        let mut copy = Command::new("cp");
        copy.arg("-a").args(["images", "profiles", "builder.lock"].map(|name| from.join(name)));
        copy.arg(&project).run()?;
        fs::copy(from.join("cluster/cluster.toml"), project.join("cluster/cluster.toml"))?;
        let mut this = Self { project, upstream: Vec::new(), builder, place };
        this.lock(&helm)?;
        Ok(this)
    }

    /// Puts the real helm in the lock, and none of its charts.
    fn lock(&mut self, helm: &Path) -> Result<()> {
        let lock: toml::Table = fs::read_to_string(self.project.join("builder.lock"))?.parse()?;
        let artifacts = lock["artifact"].as_array().context("builder.lock has artifacts")?;
        let charts = artifacts.iter().filter(|a| a["kind"].as_str() == Some("chart"));
        let charts = charts.filter_map(|chart| chart["name"].as_str());
        self.upstream = charts.map(str::to_owned).collect();
        let mut command = self.builder(&["lock", "--offline"]);
        command.args(["--standin", &format!("helm={}", helm.display())]);
        for chart in &self.upstream {
            command.args(["--standin", &format!("{chart}=none")]);
        }
        run(&mut command)?.ok()?;
        Ok(())
    }

    /// A folder for the test's own files, as long as the project.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// `builder` in the project, with a cache and a key of its own.
    pub fn builder(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.builder);
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// `builder`, to be killed with all it started, as by a power cut: the first process of a namespace.
    pub fn builder_in_a_jar(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command.arg(&self.builder).args(args);
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command.current_dir(&self.project).env_remove("RUST_LOG").env_remove("LANG");
        command.env("BUILDER_CACHE", self.place.path().join("cache"));
        command.env("BUILDER_AGE_KEY", self.place.path().join("age.key"));
    }

    /// `builder --json bundle apply` to its end, and its report.
    ///
    /// # Errors
    /// It cannot be started, or reports nothing.
    pub fn apply(&self, cluster: &Cluster) -> Result<(Ended, Value)> {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let args = ["--json", "bundle", "apply", "--offline", "--kubeconfig", &kubeconfig];
        let ended = run(&mut self.builder(&args))?;
        let report =
            serde_json::from_str(&ended.stdout).with_context(|| format!("{:#?}", ended.told))?;
        Ok((ended, report))
    }

    /// `builder --json bundle diff` to its end, and what it found.
    ///
    /// # Errors
    /// It cannot be started, or finds no words.
    pub fn diff(&self, cluster: &Cluster) -> Result<(Ended, Value)> {
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let args = ["--json", "bundle", "diff", "--offline", "--kubeconfig", &kubeconfig];
        let ended = run(&mut self.builder(&args))?;
        let found =
            serde_json::from_str(&ended.stdout).with_context(|| format!("{:#?}", ended.told))?;
        Ok((ended, found))
    }

    /// `builder bundle render` into a folder.
    ///
    /// # Errors
    /// It fails; its last words are in the error.
    pub fn render(&self, to: &str) -> Result<PathBuf> {
        let to = self.place.path().join(to);
        let args = ["bundle", "render", "--offline", "--out", &to.display().to_string()];
        run(&mut self.builder(&args))?.ok()?;
        Ok(to)
    }

    /// Its releases, sorted.
    ///
    /// # Errors
    /// A folder or a `release.toml` cannot be read.
    pub fn releases(&self) -> Result<Vec<Release>> {
        let top = self.project.join("cluster");
        let mut all = Vec::new();
        for namespace in names(&top)? {
            for name in names(&top.join(&namespace)).unwrap_or_default() {
                let folder = top.join(&namespace).join(&name);
                if let Ok(text) = fs::read_to_string(folder.join("release.toml")) {
                    let file = text.parse().with_context(|| folder.display().to_string())?;
                    all.push(Release { folder, id: format!("{namespace}/{name}"), file });
                }
            }
        }
        Ok(all)
    }

    /// Adds a file below `cluster/`, or writes it anew.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, path: &str, text: &str) -> Result<()> {
        let path = self.project.join("cluster").join(path);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        Ok(fs::write(path, text)?)
    }
}

impl Release {
    /// The chart it names.
    pub fn chart(&self) -> Option<&str> {
        self.file.get("chart")?.as_str()
    }

    /// What it states to make.
    pub fn makes(&self) -> Vec<String> {
        let all = self.file.get("makes").and_then(toml::Value::as_array).into_iter().flatten();
        all.filter_map(|made| Some(made.as_str()?.to_owned())).collect()
    }

    /// Leaves only its plain objects in the bundle, switched on, waiting for nothing; `false` when it
    /// has none and is gone.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn keep_objects(&mut self) -> Result<bool> {
        if !self.folder.join("manifests").is_dir() {
            fs::remove_dir_all(&self.folder)?;
            return Ok(false);
        }
        self.file.remove("chart");
        for values in ["values-homelab.yaml", "values-homelab.yaml.tera"] {
            node::files::ensure_absent(&self.folder.join(values))?;
        }
        self.free()?;
        Ok(true)
    }

    /// Switches it on, waiting for no other and for nothing that Helm does not wait for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn free(&mut self) -> Result<()> {
        self.file.remove("after");
        self.file.remove("healthy");
        self.file.insert("enabled".to_owned(), true.into());
        ensure!(self.file.contains_key("wave"), "{} has no wave", self.id);
        Ok(fs::write(self.folder.join("release.toml"), self.file.to_string())?)
    }
}
