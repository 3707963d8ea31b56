//! What every step is given: the machine, its baked configuration, and the ledger.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use node::config::{self, NodeConfig, NodeFact};
use node::report::BundleReport;
use node::values::Digest;

use crate::kubernetes::Kubernetes;
use crate::ledger::Ledger;

/// The machine and this boot of it, known even when nothing can be read from the image.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Root of the file system: `/`, or a test's tree.
    pub root: PathBuf,
    /// The kernel's host name, as cloud-init set it.
    pub hostname: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Upper limit of every wait (tests only).
    longest_wait: Option<Duration>,
}

impl Machine {
    /// Looks at the machine below `root`.
    pub fn open(root: PathBuf, longest_wait: Option<Duration>) -> Self {
        let hostname = kernel(&root, "hostname");
        let boot_id = kernel(&root, "random/boot_id");
        Self { root, hostname, boot_id, longest_wait }
    }

    /// Milliseconds since the kernel started.
    pub fn uptime_millis(&self) -> u64 {
        let text = fs_err::read_to_string(self.root.join("proc/uptime")).unwrap_or_default();
        let seconds = text.split(' ').next().and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis() as u64
    }

    /// A wait's limit, cut short where a test asks for it.
    pub fn limit(&self, wait: Duration) -> Duration {
        self.longest_wait.map_or(wait, |longest| wait.min(longest))
    }

    /// A path below the root.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }
}

/// A value below `/proc/sys/kernel`, empty when it cannot be read.
fn kernel(root: &Path, name: &str) -> String {
    let path = root.join("proc/sys/kernel").join(name);
    fs_err::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// One run of a stage.
#[derive(Debug)]
pub struct Boot {
    /// The machine.
    pub machine: Machine,
    /// What `builder` baked into the image.
    pub config: NodeConfig,
    /// What was intended and done in this and earlier boots.
    pub ledger: Ledger,
    /// Whether a step of this run changed what K3s reads at its start.
    pub k3s_changed: bool,
    /// Whether what a step waits for may come by itself: the stage is then run again soon.
    pub retry: bool,
    /// The connection that the cluster stage's first step opens.
    pub kubernetes: Option<Kubernetes>,
    /// What became of the bundle, for the report.
    pub bundle: Option<BundleReport>,
}

impl Boot {
    /// Reads the baked configuration and the ledger.
    ///
    /// # Errors
    /// The configuration is missing or broken; the file and the place in it are named.
    pub fn open(machine: Machine) -> Result<Self> {
        let config = NodeConfig::load(&machine.root)?;
        let text = fs_err::read(machine.path(config::PATH))?;
        let ledger = Ledger::open(&machine.root, Digest::of(text), &machine.boot_id);
        Ok(Self {
            machine,
            config,
            ledger,
            k3s_changed: false,
            retry: false,
            kubernetes: None,
            bundle: None,
        })
    }

    /// A path below the root.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.machine.path(relative)
    }

    /// This node's entry of `cluster.toml`.
    ///
    /// # Errors
    /// The host name is not in it, which the step `hostname` has checked before any other asks.
    pub fn node(&self) -> Result<&NodeFact> {
        let name = &self.machine.hostname;
        self.config.node(name).with_context(|| format!("no node `{name}` in this image's cluster"))
    }
}
