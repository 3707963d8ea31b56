//! A home around the built program: the double of Proxmox with QEMU behind its VMs, and a cluster that
//! their guests join. Its addresses are those of cluster.toml, in a network of the test's own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use builder::boot::kvm;
use builder::image::Manifest;
use builder::image::tools::Tools;
use builder::store::Store;
use e2e::kubernetes::Cluster;
use e2e::lab::{Product, Programs, names, repository};
use e2e::run::Running;
use e2e::{Ended, Lab, cache};
use fs_err as fs;
use node::command::Run as _;
use pve_double::{Double, Pace, Qemu, Setup};
use serde_json::Value;

/// The node of this test.
pub const WORKER: &str = "k3s-worker-01";
/// The NFS server of cluster.toml: the preflight looks whether somebody answers there.
const NFS: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 2);
/// The LAN of cluster.toml as QEMU plays it; its own two addresses are nobody's.
const LAN: &str = "user,id=net0,ipv6=off,restrict=on,net=192.168.2.0/24,host=192.168.2.254,\
                   dns=192.168.2.1,dhcpstart=192.168.2.253";
/// Where guests find the API, and so does this host.
const API: &str = "192.168.2.20:6443";
/// What the second stand-in says of itself.
pub const NEXT: &str = "v1.36.4+k3s-standin";
/// The stand-in linked anew; compiled anew, where nothing of it is in Go's cache.
const BUILD_LIMIT: Duration = Duration::from_mins(40);
/// Lines of a console that a failure shows.
const LAST: usize = 40;
/// Between two looks whether somebody wants a snapshot.
const LOOK: Duration = Duration::from_secs(3);

pub struct Home {
    // In this order: the VMs end before the cluster, the files last.
    pub double: Double,
    pub cluster: Cluster,
    lab: Lab,
    begun: Instant,
}

impl Home {
    /// With a worker's first image, and nothing at Proxmox.
    pub fn new() -> Result<(Self, Product)> {
        join_lan()?;
        let lab = Lab::warm()?;
        let cluster = Cluster::for_guests()?;
        let mut setup = Setup { pace: Pace::Real(1), ..Setup::default() };
        // Two templates of a worker's 50 GiB, and a VM.
        setup.storages.get_mut("disks").context("disks")?.total = 1 << 40;
        let double = Double::start(setup)?;
        let home = Self { double, cluster, lab, begun: Instant::now() };
        home.write_project()?;
        let (_, first) = home.lab.build()?;
        let vms = home.lab.place().join("vms");
        fs::create_dir(&vms)?;
        let tools = tools(&home.lab, &first)?;
        let (accel, _) = kvm::probe(&builder::boot::Tools::from_path()?)?;
        let accel = accel.arguments().split(' ').nth(1).context("QEMU's accelerator")?;
        let relay = format!("{} relay {API}", home.lab.programs.builder.display());
        let lan = format!("{LAN},guestfwd=tcp:{API}-cmd:{relay}");
        home.double.machine(Qemu::new(&vms, accel, &lan).programs(move |name| match name {
            "xorriso" => tools.command("usr/bin/xorriso"),
            other => Command::new(other),
        }));
        Ok((home, first))
    }

    /// The lines that an operator writes into cluster.toml.
    fn write_project(&self) -> Result<()> {
        let token = self.lab.place().join("token");
        node::files::ensure_file(&token, self.double.token().as_bytes(), 0o600)?;
        self.lab.add("cluster/pve-root-ca.pem", self.double.ca_pem())?;
        let file = "cluster/cluster.toml";
        let endpoint = "https://pve1.home.jetzinger.com:8006";
        self.lab.replace(file, endpoint, &self.double.url())?;
        self.lab.replace(file, "storage = \"local-lvm\"", "storage = \"disks\"")?;
        let more = format!(
            "bridge = \"vmbr0\"\npool = \"k3s\"\nca_file = \"cluster/pve-root-ca.pem\"\n\
             token_file = \"{}\"\n",
            token.display()
        );
        self.lab.replace(file, "bridge = \"vmbr0\"\n", &more)?;
        // One processor: QEMU 7.2 emulates two with a fault that panics a kernel now and then.
        let own = "vmid = 201\nvm = { cores = 1, memory = \"3 GiB\" }\n";
        self.lab.replace(file, "vmid = 201\n", own)
    }

    /// Changes the K3s pin of the lock and builds the image again.
    pub fn next_image(&self) -> Result<Product> {
        let given = |name: &str, file: &str| format!("{name}={}", next().join(file).display());
        let k3s = given("k3s", "k3s");
        let images = given("k3s-airgap-images", "k3s-airgap-images.tar");
        self.done(&["lock", "--offline", "--standin", &k3s, "--standin", &images])?;
        let (ended, product) = self.lab.build()?;
        ensure!(ended.made() == ["k3s", "image"], "made anew: {:?}", ended.made());
        Ok(product)
    }

    fn command(&self, args: &[&str]) -> Command {
        let own = |name: &str| self.lab.place().join(name);
        let mut command = self.lab.builder(args);
        command.env_remove("BUILDER_PROXMOX_TOKEN").env_remove("BUILDER_AGE_KEY");
        command.env("XDG_CONFIG_HOME", own("config")).env("XDG_STATE_HOME", own("state"));
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("USER", "operator");
        command
    }

    /// Runs the program to its end, and answers for the server meanwhile.
    pub fn run(&self, args: &[&str]) -> Result<Ended> {
        let mut running = Running::start(&mut self.command(args))?;
        let mut asked = !args.iter().any(|word| ["rollout", "rollback"].contains(word));
        while !running.has_ended()? {
            std::thread::sleep(if asked { LOOK / 10 } else { LOOK });
            asked = asked || self.cluster.answer_snapshot()?;
        }
        let ended = running.end()?;
        self.tell(&format!("{} ({:.0?})", args.join(" "), ended.time));
        Ok(ended)
    }

    /// The same, and it must work.
    pub fn done(&self, args: &[&str]) -> Result<Ended> {
        let ended = self.run(args)?;
        let text = format!("{}\n{}\n{}", ended.stdout, ended.stderr(), self.consoles()?);
        ensure!(ended.code() == Some(0), "{args:?}: {:?}\n{text}", ended.code());
        Ok(ended)
    }

    /// What it prints as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(args)?.stdout)?)
    }

    /// The worker's line of `builder status`.
    pub fn status(&self) -> Result<Value> {
        let status = self.json(&["status", "--json"])?;
        let rows = status["nodes"].as_array().context("nodes")?;
        rows.iter().find(|row| row["name"] == WORKER).cloned().context("the worker's row")
    }

    /// A line of the test's output, with the time.
    pub fn tell(&self, text: &str) {
        println!("{:4.0} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    /// The last words of every VM.
    fn consoles(&self) -> Result<String> {
        let vms = self.lab.place().join("vms");
        let mut text = String::new();
        for name in names(&vms)?.into_iter().filter(|name| name.ends_with(".console")) {
            let said = fs::read(vms.join(&name))?;
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<_> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST)..];
            text = [&text, "## ", &name, "\n", &last.join("\n"), "\n"].concat();
        }
        Ok(text)
    }
}

/// Where the second stand-in lies.
fn next() -> PathBuf {
    repository().join("target/k3s-standin-next")
}

/// What the test takes from the network, which the one of its own does not lead to.
pub fn prepare() -> Result<()> {
    cache::prepare(&Programs::find()?)?;
    let mut build = Command::new(repository().join("tests/k3s-standin/build.sh"));
    build.env("OUT", next()).env("VERSION", NEXT);
    Running::start(&mut build)?.within(BUILD_LIMIT).end()?.ok().map(drop)
}

/// The tools that the image was made with.
fn tools(lab: &Lab, image: &Product) -> Result<Tools> {
    let manifest = Manifest::beside(&image.qcow2)?;
    let key = manifest.stages.get("tools").context("the manifest has no stage `tools`")?;
    Ok(Tools::new(&Store::open(Some(lab.cache.root()))?.stage("tools", key)))
}

/// The LAN of cluster.toml with this host in it, as far as the preflight looks: an NFS server. K3s does
/// not start without a default route.
fn join_lan() -> Result<()> {
    let nfs = format!("{NFS}/24");
    let lines: [&[&str]; 5] = [
        &["link", "set", "lo", "up"],
        &["link", "add", "lan", "type", "bridge"],
        &["address", "add", &nfs, "dev", "lan"],
        &["link", "set", "lan", "up"],
        &["route", "add", "default", "via", "192.168.2.1"],
    ];
    lines.iter().try_for_each(|line| Command::new("ip").args(*line).run())?;
    let listener = TcpListener::bind((NFS, 2049))?;
    std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
    Ok(())
}

/// The number of the one VM of the worker.
pub fn vm(home: &Home) -> Result<u32> {
    let vms: Vec<u32> = home.double.world(|world| {
        let nodes = world.vms.iter().filter(|(_, vm)| !vm.is_template());
        nodes.map(|(id, _)| *id).collect()
    });
    match vms.as_slice() {
        [one] => Ok(*one),
        all => bail!("not one VM: {all:?}"),
    }
}
