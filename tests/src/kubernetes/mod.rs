//! Real Kubernetes for tests (D22): API server, controllers, scheduler and etcd of the K3s stand-in,
//! with any number of real nodes: kubelet, containerd and pods. Each cluster lies in a folder and a
//! network of its own, so tests may run side by side; this host reaches the API and node ports at
//! the nodes' addresses. When a [`Cluster`] is dropped, or this process ends in any other way,
//! nothing of it is left: see [`machine`].
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let mut cluster = e2e::kubernetes::Cluster::with_node()?;
//! cluster.kubectl(&["create", "deployment", "hello", "--image", e2e::kubernetes::HELLO])?;
//! cluster.helm(&["install", "mine", "path/of/a/chart", "--wait"])?;
//! cluster.add_node("k3s-worker-02")?;
//! cluster.kubectl(&["drain", "k3s-worker-01", "--ignore-daemonsets"])?;
//! # Ok(()) }
//! ```
//!
//! There is no DNS for pods (the stand-in has no `CoreDNS`) and no way out of the cluster's network.

pub mod guests;
pub mod image;
pub mod machine;
pub mod switch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use node::command::Run as _;
use node::values::Digest;
use serde_json::{Value, json};

pub use self::image::Image;
use self::machine::Machine;
use self::switch::Switch;
use crate::lab::{Programs, repository};

/// An image that every node has: answers HTTP on 8080.
pub const HELLO: &str = "docker.io/library/standin-hello:1";
/// Name of the server's machine.
pub const SERVER: &str = "k3s-master";
/// Name of the first node.
pub const NODE: &str = "k3s-worker-01";
/// What the images say to their kubelets.
const KUBELET: &str = "images/base/etc/rancher/k3s/kubelet.conf";
/// From a start to an answer, and from a join to Ready: 8 and 15 s on an idle machine.
pub const LIMIT: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_millis(250);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    // In this order: nodes end before the server, the network after both, the files last.
    nodes: Vec<Machine>,
    server: Machine,
    lan: Switch,
    images: PathBuf,
    helm: PathBuf,
    /// How many machines were ever connected.
    connected: u8,
    /// The API's address for guests of QEMU; the server is a node then.
    api: Option<Ipv4Addr>,
    place: tempfile::TempDir,
}

impl Cluster {
    /// The control plane alone: objects can be made, pods stay pending.
    ///
    /// # Errors
    /// A program is missing, or the API does not answer in time.
    pub fn without_nodes() -> Result<Self> {
        Self::started(None)
    }

    fn started(api: Option<Ipv4Addr>) -> Result<Self> {
        let (programs, helm) = (Programs::find()?, Programs::helm()?);
        // Short: the path of containerd's socket below it may have 104 characters.
        let place = tempfile::Builder::new().prefix("k8s-").tempdir()?;
        let lan = Switch::start()?;
        let root = place.path().join(SERVER);
        let server = Machine::start(SERVER, &root, &programs.k3s, &lan, 2)?;
        let images = programs.images;
        let mut this = Self { nodes: vec![], server, lan, images, helm, connected: 2, api, place };
        this.start_server()?;
        Ok(this)
    }

    /// A control plane and one node, Ready.
    ///
    /// # Errors
    /// As [`Cluster::without_nodes`], or the node does not become Ready in time.
    pub fn with_node() -> Result<Self> {
        let mut this = Self::without_nodes()?;
        this.add_node(NODE)?;
        Ok(this)
    }

    /// Starts the server (again, after [`Cluster::stop_server`]) and waits for its API.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn start_server(&mut self) -> Result<()> {
        let address = self.server.address;
        let names: Vec<_> = self.api.into_iter().chain([address]).collect();
        let settings = json!({
            "node-name": SERVER, "node-ip": address, "tls-san": names,
            "token": token("server"), "agent-token": token("agent"), "kubelet-arg": kubelet(),
            "cluster-init": true, "disable-agent": self.api.is_none(), "secrets-encryption": true,
        });
        self.server.run("server", &settings, &self.images)?;
        let start = Instant::now();
        while self.kubectl(&["get", "--raw", "/readyz"]).is_err() {
            self.server.lives()?;
            ensure!(start.elapsed() < LIMIT, "no API within {LIMIT:?}: {}", self.server.log());
            self.write_kubeconfig()?;
            std::thread::sleep(POLL);
        }
        // Pods cannot be made before the controllers have made this.
        self.until("the default service account", LIMIT, |this| {
            this.kubectl(&["get", "serviceaccount", "default"]).map(drop)
        })
    }

    /// Stops the control plane in order; nodes and their pods live on.
    ///
    /// # Errors
    /// It does not stop in time.
    pub fn stop_server(&mut self) -> Result<()> {
        self.server.stop()
    }

    /// As K3s wrote it, but for an address that this host reaches.
    fn write_kubeconfig(&self) -> Result<()> {
        let Ok(text) = fs::read_to_string(self.server.path("etc/rancher/k3s/k3s.yaml")) else {
            return Ok(()); // not there yet
        };
        let text = text.replace("127.0.0.1", &self.server.address.to_string());
        node::files::ensure_file(&self.kubeconfig(), text.as_bytes(), 0o600)?;
        Ok(())
    }

    /// Administrator's credentials, for any client on this host.
    pub fn kubeconfig(&self) -> PathBuf {
        self.place.path().join("kubeconfig")
    }

    /// Where the API answers.
    pub fn api(&self) -> SocketAddr {
        (self.server.address, 6443).into()
    }

    /// The token with which agents join, with the hash of the cluster's CA in it.
    ///
    /// # Errors
    /// The server has not written it.
    pub fn agent_token(&self) -> Result<String> {
        let path = self.server.path("var/lib/rancher/k3s/server/agent-token");
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    /// A folder for the test's own files, as long as the cluster.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Starts a further node and waits until it is Ready.
    ///
    /// # Errors
    /// It does not become Ready in time; its last words are in the error.
    pub fn add_node(&mut self, name: &str) -> Result<()> {
        self.connected += 1;
        let root = self.place.path().join(name);
        let mut node =
            Machine::start(name, &root, &self.server.program, &self.lan, self.connected)?;
        let settings = json!({
            "server": format!("https://{}:6443", self.server.address), "token": token("agent"),
            "node-name": name, "node-ip": node.address, "kubelet-arg": kubelet(),
        });
        node.run("agent", &settings, &self.images)?;
        self.nodes.push(node);
        self.until(&format!("Ready of {name}"), LIMIT, |this| this.is_ready(name))?;
        self.connect_pods()
    }

    fn is_ready(&mut self, name: &str) -> Result<()> {
        self.machine(name)?.lives()?;
        let path = "{.status.conditions[?(@.type=='Ready')].status}";
        let found = self.field(&format!("node/{name}"), path)?;
        ensure!(found == "True", "{name} is Ready: {found:?}");
        Ok(())
    }

    /// What flannel does in K3s: each node knows the way to the pods of the others.
    fn connect_pods(&self) -> Result<()> {
        for to in &self.nodes {
            let pods = self.field(&format!("node/{}", to.name), "{.spec.podCIDR}")?;
            for from in self.nodes.iter().filter(|from| from.name != to.name && !pods.is_empty()) {
                switch::route(from.pid(), &pods, to.address)?;
            }
        }
        Ok(())
    }

    /// Cuts a node's power, with everything that runs on it. Its Node object stays.
    ///
    /// # Errors
    /// There is no such node.
    pub fn power_off(&mut self, name: &str) -> Result<()> {
        let at = self.nodes.iter().position(|node| node.name == name);
        drop(self.nodes.remove(at.with_context(|| format!("no node {name} runs"))?));
        Ok(())
    }

    /// A running node, for its log, its address and its files.
    ///
    /// # Errors
    /// There is no such node.
    pub fn machine(&mut self, name: &str) -> Result<&mut Machine> {
        let found = self.nodes.iter_mut().find(|node| node.name == name);
        found.with_context(|| format!("no node {name} runs"))
    }

    /// The server's machine.
    pub fn server(&self) -> &Machine {
        &self.server
    }

    /// Makes an image known to every node that runs now.
    ///
    /// # Errors
    /// It cannot be written or is refused.
    pub fn import(&self, image: &Image) -> Result<()> {
        self.import_all(std::slice::from_ref(image))
    }

    /// As [`Cluster::import`], of several at once.
    ///
    /// # Errors
    /// As [`Cluster::import`].
    pub fn import_all(&self, images: &[Image]) -> Result<()> {
        let archive = self.place.path().join("image.tar");
        Image::write_all(images, &archive)?;
        let names: Vec<_> = images.iter().map(|image| image.reference.as_str()).collect();
        for node in &self.nodes {
            node.import(&archive).with_context(|| format!("{names:?} on {}", node.name))?;
        }
        fs::remove_file(archive)?;
        Ok(())
    }

    /// `kubectl` with administrator's rights.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = self.server.k3s(&["kubectl"]);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        command
    }

    /// What `kubectl` prints, without white space around it.
    ///
    /// # Errors
    /// It fails; its last words are in the error.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        Ok(self.kubectl_command(args).stdout_text()?.trim().to_owned())
    }

    /// One field of an object such as `pod/hello`, by `JSONPath`; empty when the field is not there.
    ///
    /// # Errors
    /// The object is not there.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Makes or changes an object.
    ///
    /// # Errors
    /// The API refuses it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let file = self.place.path().join("object.json");
        fs::write(&file, object.to_string())?;
        self.kubectl_command(&["apply", "--server-side", "-f"]).arg(file).run()
    }

    /// `helm` of the lock's version, with administrator's rights and a home of its own.
    pub fn helm_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.helm);
        command.args(args).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.place.path());
        command
    }

    /// What `helm` prints.
    ///
    /// # Errors
    /// It fails; its last words are in the error.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        self.helm_command(args).stdout_text()
    }

    /// Tries until it works.
    ///
    /// # Errors
    /// It does not within `limit`; the last cause is the error's.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            match attempt(self) {
                Ok(value) => return Ok(value),
                Err(cause) if start.elapsed() > limit => {
                    bail!("{what} did not come within {limit:?}: {cause:#}")
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

/// The kubelet's settings of our images.
fn kubelet() -> [String; 1] {
    [format!("config={}", repository().join(KUBELET).display())]
}

/// Tokens of one run: no other has them.
fn token(of: &str) -> String {
    Digest::of(format!("{of} of {} in {}", std::process::id(), repository().display())).short(32)
}
