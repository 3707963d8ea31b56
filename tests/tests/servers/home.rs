//! Servers whose files are those of a master's image for three of them, each in namespaces of its own:
//! firstboot and K3s are real, and systemd is two stub programs. What they share is a LAN and a folder
//! that stands for the export of the NAS.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use builder::config::Project;
use builder::image::overlay::{self, Trees};
use builder::image::plan;
use builder::image::tarball::{Content, Entry};
use e2e::kubernetes::LIMIT;
use e2e::kubernetes::machine::Machine;
use e2e::kubernetes::switch::Switch;
use e2e::lab::{Programs, repository};
use fs_err as fs;
use node::command::Run as _;
use node::config::{NodeFact, Role};
use node::join::{Bootstrap, Join};
use node::report::{Report, State};
use node::values::Digest;

/// For a stage of firstboot, in seconds: its own limits, of 10 and 5 minutes, say more.
const STAGE_LIMIT: &str = "960";
/// K3s reads what its settings name below the real `/etc`: a copy of this host's, with the node's own
/// folder in it. What else the settings name lies below `/run` and `/var` of this host and is not there.
const OWN_ETC: &str = "cp -a /etc \"$0/view\" && ln -s \"$0/etc/rancher\" \"$0/view/rancher\" \
    && mount --bind \"$0/view\" /etc";
/// How long the cable of a machine that is gone may stay.
const CABLE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(250);
/// Settings of the image that this host has no place for: the audit log's folder and the kernel's values.
const HERE: &str = r#"{"kube-apiserver-arg": ["enable-admission-plugins=NodeRestriction"],
    "protect-kernel-defaults": false, "resolv-conf": "/etc/resolv.conf"}"#;
/// What firstboot asks of systemd: K3s runs when the test has started it, and its journal is its log.
const SYSTEMCTL: &str = "#!/bin/sh\ncase \"$*\" in\n\
    is-active*k3s*) test -e \"$ROOT/runs\" ;;\n\
    show*) cat \"$ROOT/unit-state\" ;;\nesac\n";
const JOURNALCTL: &str = "#!/bin/sh\ntail -n 12 \"$ROOT/log\"\n";

/// The LAN, the export, and what every node's disk holds at its first boot.
pub struct Home {
    lan: Switch,
    programs: Programs,
    place: tempfile::TempDir,
}

/// One server, which is on.
pub struct Server {
    pub machine: Machine,
    name: &'static str,
    programs: Programs,
}

/// The nodes of this home's file, by the last byte of their addresses.
const NODES: [(&str, u8); 3] = [("k3s-master", 2), ("k3s-m2", 3), ("k3s-m3", 4)];

impl Home {
    pub fn new() -> Result<Self> {
        // Short: the path of containerd's socket below it may have 104 characters.
        let place = tempfile::Builder::new().prefix("ha-").tempdir()?;
        fs::create_dir(place.path().join("export"))?;
        Ok(Self { lan: Switch::start()?, programs: Programs::find()?, place })
    }

    /// A machine of a node's name and address with an empty disk: the folder `disk`.
    pub fn server(&self, name: &'static str, disk: &str) -> Result<Server> {
        let at = NODES.iter().find(|(known, _)| *known == name).context("no node of this home")?.1;
        let root = self.place.path().join(disk);
        let start = Instant::now();
        // The cable of an earlier machine goes a moment after it.
        let machine = loop {
            match Machine::start(name, &root, &self.programs.k3s, &self.lan, at) {
                Err(_) if start.elapsed() < CABLE => std::thread::sleep(POLL),
                other => break other?,
            }
        };
        let server = Server { machine, name, programs: self.programs.clone() };
        self.install(&server)?;
        server.boot()?;
        Ok(server)
    }

    /// The image's files, and a kernel's.
    fn install(&self, server: &Server) -> Result<()> {
        for (path, bytes) in baked(server.machine.address)? {
            server.put(&path, &bytes)?;
        }
        server.put("etc/rancher/k3s/config.yaml.d/90-here.yaml", HERE.as_bytes())?;
        server.put("etc/machine-id", Digest::of(server.name).short(32).as_bytes())?;
        server.put("proc/sys/kernel/hostname", server.name.as_bytes())?;
        // The kubelet says the kernel's own, whoever asks on this host.
        let boot_id = fs::read("/proc/sys/kernel/random/boot_id")?;
        server.put("proc/sys/kernel/random/boot_id", &boot_id)?;
        server.put("proc/uptime", b"12.34 20.00\n")?;
        let route = server.machine.path("proc/net");
        fs::os::unix::fs::symlink("/proc/net", route)?;
        let mounts = "90 21 0:50 / /srv/nfs/data rw - nfs4 192.168.2.2:/volume1/k8s-data rw\n";
        server.put("proc/self/mountinfo", mounts.as_bytes())?;
        fs::create_dir_all(server.machine.path("srv/nfs"))?;
        let export = self.place.path().join("export");
        fs::os::unix::fs::symlink(export, server.machine.path("srv/nfs/data"))?;
        for (name, text) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            let path = server.put(&format!("stubs/{name}"), text.as_bytes())?;
            fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        }
        let mut view = server.machine.command("sh")?;
        view.args(["-c", OWN_ETC]).arg(server.machine.path("")).run()
    }
}

/// What `builder` bakes for a master of a home with three servers in the LAN of `address`: every file
/// that firstboot or K3s reads.
fn baked(address: Ipv4Addr) -> Result<BTreeMap<String, Vec<u8>>> {
    let [a, b, c, _] = address.octets();
    let at = |last| Ipv4Addr::new(a, b, c, last);
    let nodes = NODES.map(|(name, last)| {
        Ok(NodeFact { name: name.parse()?, address: at(last), role: Role::Server })
    });
    let nodes: Vec<NodeFact> = nodes.into_iter().collect::<Result<_>>()?;
    let project = Project::load(&repository())?;
    let profile = project.profile("master")?;
    let mut facts = plan::facts(&project, profile)?;
    "v1.36.3+k3s1".clone_into(&mut facts.k3s_version);
    facts.cluster.api = at(2);
    facts.cluster.nodes = nodes;
    let id = "master-0123456789ab".parse()?;
    let mut config = facts.node_config(&id, &project.cluster);
    config.cluster.api = at(2);
    config.cluster.network = format!("{}/24", at(0)).parse()?;
    config.cluster.gateway = at(1);
    let trees = Trees::read(&repository(), &["base".to_owned(), "server".to_owned()])?;
    let identity = overlay::identity(&id, uuid::Uuid::nil());
    let tarball = overlay::render(&trees, &facts, &identity, "")?;
    let mut files = BTreeMap::new();
    for (path, entry) in tarball.entries() {
        let wanted = path.starts_with("etc/rancher/") || path.starts_with("usr/lib/firstboot/");
        if let (true, Entry::File(Content::Bytes(bytes), _)) = (wanted, entry) {
            files.insert(path.clone(), bytes.clone());
        }
    }
    files.insert(node::config::PATH.to_owned(), serde_json::to_vec_pretty(&config)?);
    Ok(files)
}

impl Server {
    /// The next boot: what lies on tmpfs is gone, K3s does not run.
    pub fn boot(&self) -> Result<()> {
        for gone in ["run/firstboot", "runs"] {
            let path = self.machine.path(gone);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)); // of no earlier boot
        }
        self.put("run/systemd/timesync/synchronized", b"")?;
        self.put("dev/console", b"")?;
        self.k3s_is("ActiveState=inactive\nSubState=dead\n")
    }

    /// What systemd says of K3s' unit.
    pub fn k3s_is(&self, state: &str) -> Result<()> {
        self.put("unit-state", state.as_bytes()).map(drop)
    }

    /// Writes a file of its disk.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.machine.path(path);
        node::files::ensure_file(&path, bytes, 0o644)?;
        Ok(path)
    }

    /// Reads one.
    pub fn get(&self, path: &str) -> Result<String> {
        Ok(fs::read_to_string(self.machine.path(path))?)
    }

    /// Hands it its secret, as the guest's agent does.
    pub fn give(&self, token: &str, bootstrap: Bootstrap) -> Result<()> {
        let join = Join {
            node: self.name.parse()?,
            token: token.to_owned(),
            agent_token: Some(Digest::of("agents").short(32)),
            cluster_id: Some("home-test".parse()?),
            snapshot_key: Some(Digest::of("key").to_string()),
            bootstrap,
        };
        self.put("run/firstboot/join/payload", &join.encode()?).map(drop)
    }

    /// Runs a stage of firstboot: its report.
    pub fn firstboot(&self, stage: &str) -> Result<Report> {
        let stubs = self.machine.path("stubs");
        let mut command = self.machine.command("timeout")?;
        command.args(["-k", "5", STAGE_LIMIT]).arg(&self.programs.firstboot);
        command.arg("--root").arg(self.machine.path(""));
        command.arg(stage).env("ROOT", self.machine.path(""));
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", stubs.display()));
        let _ = command.succeeds()?; // the report says more
        let text = self.get("run/firstboot/report.json")?;
        serde_json::from_str(&text).with_context(|| format!("another report: {text}"))
    }

    /// Runs a stage that must come to `state`.
    pub fn comes_to(&self, stage: &str, state: State) -> Result<Report> {
        let report = self.firstboot(stage)?;
        let (name, log) = (self.name, self.machine.log());
        let last: Vec<_> = log.lines().rev().take(8).collect();
        ensure!(
            report.state == state,
            "{name}, {stage}: {report:#?}\nK3s, newest first: {last:#?}"
        );
        Ok(report)
    }

    /// Starts K3s, as its unit does, without a wait.
    pub fn start(&mut self) -> Result<()> {
        self.put("runs", b"")?;
        self.k3s_is("ActiveState=active\nSubState=running\n")?;
        self.machine.run_as_configured("server", &self.programs.images)
    }

    /// Starts K3s and waits for firstboot to call the node Ready.
    pub fn becomes_ready(&mut self) -> Result<Report> {
        self.start()?;
        self.comes_to("cluster", State::Ready)
    }

    /// What kubectl says by this server's own API.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.machine.command("timeout")?;
        command.args(["-k", "5", "60"]).arg(&self.programs.k3s).arg("kubectl").args(args);
        command.env("K3S_STANDIN_ROOT", self.machine.path(""));
        Ok(command.stdout_text()?.trim().to_owned())
    }

    /// Tries until it works.
    pub fn until(&mut self, what: &str, attempt: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        while let Err(cause) = attempt(self) {
            self.machine.lives()?;
            ensure!(start.elapsed() < LIMIT, "{what} did not come within {LIMIT:?}: {cause:#}");
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
