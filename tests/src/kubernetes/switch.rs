//! The LAN of one cluster: a bridge in a network namespace of its own, and one cable from it to this
//! host. The namespaces have no names, so the kernel removes all of it with the last process inside.

use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use node::command::Run as _;

use crate::tied;

/// The networks clusters take theirs from, set aside for tests of equipment (RFC 2544): no real
/// network has it.
const BLOCK: [u8; 2] = [198, 18];
/// How long a namespace may take to be made.
const LIMIT: Duration = Duration::from_secs(20);

/// The bridge.
#[derive(Debug)]
pub struct Switch {
    holder: Child,
    /// Third byte of its network; other clusters of this host have others.
    number: u8,
}

impl Switch {
    /// Makes a bridge, with this host at address 1.
    ///
    /// # Errors
    /// We are not root, or every network is taken.
    pub fn start() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "Kubernetes in namespaces of its own takes root");
        let mut holder = tied::command("unshare");
        holder.args(["--net", "sh", "-c"]);
        holder.arg("ip link add lan type bridge && ip link set lan up && exec sleep infinity");
        let mut switch = Self { holder: tied::spawn(holder)?, number: 0 };
        switch.wait()?;
        switch.number = switch.connect_host()?;
        Ok(switch)
    }

    /// The bridge is the sign that the namespace is there.
    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while !self.inside(&["link", "show", "lan"]).succeeds()? {
            if let Some(status) = self.holder.try_wait()? {
                bail!("the test's network ended with {status} (package iproute2)");
            }
            ensure!(Instant::now() < end, "the test's network did not come within {LIMIT:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Its name is what makes a network ours: this host can have it once.
    fn connect_host(&self) -> Result<u8> {
        let pid = self.holder.id().to_string();
        let mut last = String::new();
        for number in 1..=250 {
            let name = format!("e2e{number}");
            let mut link = ip(&["link", "add", &name, "type", "veth", "peer", "name", "host"]);
            if let Err(cause) = link.args(["netns", &pid]).run() {
                last = format!("{cause:#}");
                continue;
            }
            let address = format!("{}/24", address(number, 1));
            ip(&["address", "add", &address, "dev", &name]).run()?;
            ip(&["link", "set", &name, "up"]).run()?;
            self.inside(&["link", "set", "host", "up", "master", "lan"]).run()?;
            return Ok(number);
        }
        bail!("no network is free for the test: {last}");
    }

    /// Connects the network namespace of a process, whose only card it becomes: its address there.
    ///
    /// # Errors
    /// It cannot be connected.
    pub fn connect(&self, pid: u32, position: u8) -> Result<Ipv4Addr> {
        let (name, pid) = (format!("port{position}"), pid.to_string());
        let mut link = self.inside(&["link", "add", &name, "type", "veth", "peer", "name", "eth0"]);
        link.args(["netns", &pid]).run()?;
        self.inside(&["link", "set", &name, "up", "master", "lan"]).run()?;
        let (own, host) = (address(self.number, position), address(self.number, 1));
        let there = |args: &[&str]| enter(&pid, args).run();
        there(&["address", "add", &format!("{own}/24"), "dev", "eth0"])?;
        there(&["link", "set", "lo", "up"])?;
        there(&["link", "set", "eth0", "up"])?;
        // K3s does not start without a default route. Nothing is forwarded by this host.
        there(&["route", "add", "default", "via", &host.to_string()])?;
        Ok(own)
    }

    /// Gives a machine that is connected a further address, and this host the way to it.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn also(&self, pid: u32, further: Ipv4Addr) -> Result<()> {
        let further = format!("{further}/32");
        enter(&pid.to_string(), &["address", "add", &further, "dev", "eth0"]).run()?;
        ip(&["route", "add", &further, "dev", &format!("e2e{}", self.number)]).run()
    }

    fn inside(&self, args: &[&str]) -> Command {
        enter(&self.holder.id().to_string(), args)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.holder.kill(); // it ends with this process at the latest
        let _ = self.holder.wait();
        // The kernel removes it a moment after the namespace; until then the number is taken.
        let _ = ip(&["link", "delete", &format!("e2e{}", self.number)]).succeeds();
    }
}

fn address(number: u8, position: u8) -> Ipv4Addr {
    Ipv4Addr::new(BLOCK[0], BLOCK[1], number, position)
}

fn ip(args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(args);
    command
}

/// `ip` in the network namespace of a process.
pub fn enter(pid: &str, args: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", pid, "--net", "ip"]).args(args);
    command
}

/// Runs `ip route replace` in the network namespace of a process.
///
/// # Errors
/// The kernel refuses it.
pub fn route(pid: u32, network: &str, via: Ipv4Addr) -> Result<()> {
    enter(&pid.to_string(), &["route", "replace", network, "via", &via.to_string()])
        .run()
        .with_context(|| format!("failed to give a node the way to {network}"))
}
