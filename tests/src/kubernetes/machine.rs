//! One node: a folder that holds all its files, and a [`Jail`] for all its processes, so that it ends
//! as a machine does when power is cut, and takes with it whatever it ran: K3s, containerd's shims,
//! pods and their mounts.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node::command::Run as _;
use serde_json::Value;

use super::switch::Switch;
use crate::jail::{Jail, children_of};
use crate::lab::names;
use crate::tied;

/// How long K3s may take to stop: etcd, and whatever is under way, on a busy machine.
const STOP_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(50);

/// A node.
#[derive(Debug)]
pub struct Machine {
    /// Its name in Kubernetes.
    pub name: String,
    /// Its address in the cluster's LAN.
    pub address: Ipv4Addr,
    /// The K3s it runs.
    pub program: PathBuf,
    root: PathBuf,
    jail: Option<Jail>,
    running: Option<Child>,
}

impl Machine {
    /// A machine that is switched on, connected, and runs nothing yet.
    ///
    /// # Errors
    /// The kernel does not give the namespaces.
    pub fn start(name: &str, root: &Path, k3s: &Path, lan: &Switch, at: u8) -> Result<Self> {
        fs::create_dir_all(root)?;
        let jail = Jail::start(&root.join("first.pid"))?;
        Ok(Self {
            name: name.to_owned(),
            address: lan.connect(jail.pid(), at)?,
            program: k3s.to_owned(),
            root: root.to_owned(),
            jail: Some(jail),
            running: None,
        })
    }

    /// The number, on this host, of the process that holds its namespaces.
    pub fn pid(&self) -> u32 {
        self.jail.as_ref().map_or(0, Jail::pid)
    }

    /// Ids of the containers that containerd has here.
    ///
    /// # Errors
    /// Its folder cannot be read.
    pub fn containers(&self) -> Result<Vec<String>> {
        names(&self.path("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io"))
    }

    /// A file of the node's.
    pub fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// What K3s has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A program that finds this machine's processes, network and mounts; [`tied::spawn`] starts it.
    ///
    /// # Errors
    /// The machine is off.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        Ok(self.jail.as_ref().context("the machine is off")?.command(program))
    }

    /// Starts K3s in a role with these settings and the images of the archive.
    ///
    /// # Errors
    /// A file cannot be written, or the program not be started.
    pub fn run(&mut self, role: &str, settings: &Value, images: &Path) -> Result<()> {
        fs::create_dir_all(self.path("etc/rancher/k3s"))?;
        // JSON is YAML too.
        fs::write(self.path("etc/rancher/k3s/config.yaml"), settings.to_string())?;
        self.run_as_configured(role, images)
    }

    /// As [`Machine::run`], with the settings that lie there.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_as_configured(&mut self, role: &str, images: &Path) -> Result<()> {
        let folder = self.path("var/lib/rancher/k3s/agent/images");
        fs::create_dir_all(&folder)?;
        fs::copy(images, folder.join("airgap.tar"))?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let both = log.file().try_clone()?;
        let mut command = self.command(&self.program)?;
        command.arg(role).env("K3S_STANDIN_ROOT", &self.root);
        command.stdout(both).stderr(Stdio::from(log.into_file()));
        self.running = Some(tied::spawn(command)?);
        Ok(())
    }

    /// Whether K3s runs.
    ///
    /// # Errors
    /// It does not; its last words are in the error.
    pub fn lives(&mut self) -> Result<()> {
        let Some(running) = &mut self.running else { bail!("{} runs no K3s", self.name) };
        let Some(status) = running.try_wait()? else { return Ok(()) };
        let (name, log) = (&self.name, self.log());
        let last = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
        bail!("K3s of {name} ended with {status}; it last said, newest first:\n{last}")
    }

    /// Stops K3s in order, as `systemctl stop` does. Pods live on.
    ///
    /// # Errors
    /// It does not stop in time.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        for pid in children_of(running.id())? {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)
                .context("failed to stop K3s")?;
        }
        let end = Instant::now() + STOP_LIMIT;
        while running.try_wait()?.is_none() {
            ensure!(Instant::now() < end, "K3s of {} did not stop in {STOP_LIMIT:?}", self.name);
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// `k3s` with these arguments for this node's files, run beside it on this host.
    pub fn k3s(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        // Some programs in it, like ctr, ignore the first signal.
        command.args(["-k", "5", "300"]).arg(&self.program).args(args);
        command.env("K3S_STANDIN_ROOT", &self.root).env_remove("KUBECONFIG");
        command
    }

    /// `k3s` with these arguments in the machine itself, as its administrator runs it.
    ///
    /// # Errors
    /// The machine is off.
    pub fn inside(&self, args: &[&str]) -> Result<Command> {
        let jail = self.jail.as_ref().context("the machine is off")?;
        let mut command = jail.command(&self.program);
        command.args(args).env("K3S_STANDIN_ROOT", &self.root).env_remove("KUBECONFIG");
        Ok(command)
    }

    /// Loads the images of an archive, as `ctr images import` does.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.k3s(&["ctr", "--namespace", "k8s.io", "images", "import"]).arg(archive).run()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let containers = self.containers().unwrap_or_default();
        drop(self.jail.take());
        // Control groups are no namespace's: the kernel leaves the empty ones.
        for folder in control_groups(&containers) {
            let _ = fs::remove_dir(folder); // containerd has removed it in good time
        }
    }
}

/// Where containers may have a control group: in each tree of the first version, and in the one of the
/// second.
pub fn control_groups(containers: &[String]) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let trees = names(top).unwrap_or_default().into_iter().map(|name| top.join(name));
    let of = |tree: PathBuf| containers.iter().map(move |id| tree.join("k8s.io").join(id));
    trees.chain([top.to_owned()]).flat_map(of).filter(|folder| folder.exists()).collect()
}
