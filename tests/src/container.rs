//! The real root file system of an image, started by systemd-nspawn in seconds: its own systemd, units,
//! cloud-init and firstboot, on a layer that is kept from one start to the next. What it has not: a
//! kernel, devices and NFS mounts of its own; those are the virtual machines' to test.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use node::command::Run as _;
use node::report::Report;

use crate::jail::{Jail, children_of};
use crate::tied;

/// From start to the first process of the image; a second on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(1);
/// From the wish to power off to the end: what units may take, the last snapshot's 2 minutes included.
const STOP_LIMIT: Duration = Duration::from_mins(4);
const POLL: Duration = Duration::from_millis(100);
/// GUID of the partition type "root of x86-64", as it stands in a partition table.
const ROOT: [u8; 16] = 0xe3bc_684f_cde8_b14d_96e7_fbca_f984_b709_u128.to_be_bytes();
/// The node's LAN: this end is the gateway, and nobody else is there. Then the image starts. With `/sys`
/// read-only systemd-nspawn does not wait for a udev to know the card.
const BOOT: &str = "set -e; cd \"$0\"; mkdir -p lower upper work root
    mount -t ext4 -o loop,ro,noload,offset=\"$2\" \"$1\" lower
    mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work root
    if [ -n \"$3\" ]; then
        ip link add eth0 address \"$3\" type veth peer name lan
        ip address add \"$4\" dev lan; ip link set lan up
        mount -o remount,bind,ro /sys
        set -- --network-interface=eth0
    else set -- --private-network; fi
    exec systemd-nspawn --quiet --directory=root --boot --register=no --keep-unit \
        --resolv-conf=off --timezone=off --link-journal=no \"$@\"";

/// The disk of an image as a file that can be mounted.
#[derive(Debug)]
pub struct Disk {
    raw: PathBuf,
    offset: u64,
    _place: tempfile::TempDir,
}

impl Disk {
    /// Unpacks an image.
    ///
    /// # Errors
    /// It cannot be read, or has no root partition.
    pub fn of(image: &Path) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("e2e-disk-").tempdir()?;
        let raw = place.path().join("disk.raw");
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-O", "raw"]).arg(image).arg(&raw);
        convert.run().context("failed to unpack the image (package qemu-utils)")?;
        let offset = root_offset(fs::File::open(&raw)?.file())?;
        Ok(Self { raw, offset, _place: place })
    }
}

/// Where the root partition begins. The table: 128 entries of 128 bytes from the third sector on.
fn root_offset(disk: &File) -> Result<u64> {
    let mut table = [0; 128 * 128];
    disk.read_exact_at(&mut table, 2 * 512)?;
    let entry = table.chunks(128).find(|entry| entry[..16] == ROOT);
    let first = entry.context("the image has no root partition")?[32..40].try_into()?;
    Ok(u64::from_le_bytes(first) * 512)
}

/// Who the node is, as Proxmox' cloud-init drive tells it; in a folder, as there is no drive here.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Host name.
    pub name: &'static str,
    /// Address with prefix.
    pub address: &'static str,
    /// The gateway's, with prefix.
    pub gateway: &'static str,
}

/// Any; the drive's network settings go by it.
const MAC: &str = "bc:24:11:00:00:01";

/// One node's root file system, whether it runs or not.
#[derive(Debug)]
pub struct Container<'a> {
    disk: &'a Disk,
    node: Identity,
    place: tempfile::TempDir,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    // In this order: the program is collected before everything around it ends.
    nspawn: Child,
    leader: u32,
    _jail: Jail,
}

impl<'a> Container<'a> {
    /// A new node of an image.
    ///
    /// # Errors
    /// The folder of its layer cannot be made.
    pub fn new(disk: &'a Disk, node: Identity) -> Result<Self> {
        let place = tempfile::Builder::new().prefix("e2e-node-").tempdir()?;
        let this = Self { disk, node, place, running: None };
        let (name, address) = (node.name, node.address);
        let gateway = node.gateway.split('/').next().unwrap_or_default();
        let seed = "var/lib/cloud/seed/nocloud";
        // With what Proxmox adds where nobody told it `ciupgrade=0` (traps P1).
        let more = "manage_etc_hosts: true\npackage_upgrade: true\n";
        this.put(
            &format!("{seed}/user-data"),
            &format!("#cloud-config\nhostname: {name}\n{more}"),
        )?;
        this.instance(1)?;
        this.put(
            &format!("{seed}/network-config"),
            &format!(
                "version: 1\nconfig:\n  - type: physical\n    name: eth0\n    \
                 mac_address: '{MAC}'\n    subnets:\n      - type: static\n        \
                 address: '{address}'\n        gateway: '{gateway}'\n"
            ),
        )?;
        Ok(this)
    }

    /// Gives its drive an instance-id of this number, while it is off.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn instance(&self, number: u32) -> Result<()> {
        let text = format!("instance-id: {}-{number}\n", self.node.name);
        self.put("var/lib/cloud/seed/nocloud/meta-data", &text)
    }

    /// Gives it the other kind of drive that Proxmox can make, with the same facts, while it is off.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn use_config_drive(&self) -> Result<()> {
        let user = fs::read_to_string(self.path("var/lib/cloud/seed/nocloud/user-data"))?;
        fs::remove_dir_all(self.path("var/lib/cloud/seed/nocloud"))?;
        let top = "var/lib/cloud/seed/config_drive/openstack";
        let address = self.node.address.split('/').next().unwrap_or_default();
        let gateway = self.node.gateway.split('/').next().unwrap_or_default();
        let meta = r#"{"uuid": "3f9c2a71", "network_config": {"content_path": "/content/0000"}}"#;
        self.put(&format!("{top}/latest/meta_data.json"), meta)?;
        self.put(&format!("{top}/latest/user_data"), &user)?;
        self.put(
            &format!("{top}/content/0000"),
            &format!(
                "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n        \
                 address {address}\n        netmask 255.255.255.0\n        gateway {gateway}\n"
            ),
        )
    }

    /// A file of its own layer, while it is off.
    pub fn path(&self, file: &str) -> PathBuf {
        self.place.path().join("upper").join(file)
    }

    /// Writes such a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    /// What was said on its console since its last start, without colours. Names of units are cut to
    /// its width.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.place.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let mut pieces = text.split("\u{1b}[");
        let first = pieces.next().unwrap_or_default().to_owned();
        // A sequence ends at its first letter.
        let end =
            |piece: &str| piece.find(|c: char| ('@'..='~').contains(&c)).map_or(0, |at| at + 1);
        let rest = pieces.map(|piece| &piece[end(piece)..]);
        rest.fold(first, |whole, piece| whole + piece)
    }

    /// Starts it, with a cable or without. Returns when its systemd runs.
    ///
    /// # Errors
    /// systemd-nspawn does not start it; its words are in the error.
    pub fn boot(&mut self, has_cable: bool) -> Result<()> {
        let place = self.place.path();
        let jail = Jail::start(&place.join("first.pid"))?;
        let console = fs::File::create(place.join("console"))?.into_file();
        let mut command = jail.command("sh");
        command.args(["-c", BOOT]).arg(place).arg(&self.disk.raw);
        command.arg(self.disk.offset.to_string());
        command.args([if has_cable { MAC } else { "" }, self.node.gateway]);
        // The image's systemd wants the second version of control groups.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.stdout(console.try_clone()?).stderr(console);
        let mut nspawn = tied::spawn(command)?;
        let leader = self.leader(&mut nspawn)?;
        self.running = Some(Running { nspawn, leader, _jail: jail });
        self.until("systemd", START_LIMIT, |this| this.run("systemctl list-jobs").map(drop))
    }

    /// The image's first process: the one child of systemd-nspawn that is number 1 for itself.
    fn leader(&self, nspawn: &mut Child) -> Result<u32> {
        let end = Instant::now() + START_LIMIT;
        while Instant::now() < end {
            if let Some(status) = nspawn.try_wait()? {
                bail!(
                    "systemd-nspawn (package systemd-container) ended with {status}: {}",
                    self.console()
                );
            }
            for program in children_of(nspawn.id())? {
                let is_first = |pid: &u32| {
                    let text =
                        fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
                    numbers.is_some_and(|n| n.split_whitespace().next_back() == Some("1"))
                };
                if let Some(pid) = children_of(program)?.into_iter().find(is_first) {
                    return Ok(pid);
                }
            }
            std::thread::sleep(POLL);
        }
        bail!("no systemd in the image within {START_LIMIT:?}: {}", self.console())
    }

    /// Runs a line of shell in there as root; what it prints.
    ///
    /// # Errors
    /// It fails, or the node does not run.
    pub fn run(&self, line: &str) -> Result<String> {
        let running = self.running.as_ref().context("the node is off")?;
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "240", "nsenter", "--all", "--target"]);
        command.arg(running.leader.to_string()).args(["--", "/bin/sh", "-c", line]);
        command.env("PATH", "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin");
        Ok(command.stdout_text()?.trim().to_owned())
    }

    /// firstboot's report of this start.
    ///
    /// # Errors
    /// There is none yet.
    pub fn report(&self) -> Result<Report> {
        let text = self.run("cat /run/firstboot/report.json")?;
        serde_json::from_str(&text).with_context(|| format!("another report: {text}"))
    }

    /// Tries until it works.
    ///
    /// # Errors
    /// It does not within `limit`; the last cause is the error's.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        attempt: impl Fn(&Self) -> Result<T>,
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

    /// Powers it off in order: how long that took.
    ///
    /// # Errors
    /// It does not come to its end in time.
    pub fn shut_down(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.run("systemctl poweroff --no-block")?;
        let mut running = self.running.take().context("the node is off")?;
        while running.nspawn.try_wait()?.is_none() {
            let console = || self.console();
            ensure!(start.elapsed() < STOP_LIMIT, "still on after {STOP_LIMIT:?}: {}", console());
            std::thread::sleep(POLL);
        }
        Ok(start.elapsed())
    }

    /// Cuts its power.
    pub fn cut(&mut self) {
        self.running = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.nspawn.kill(); // ended already after a shutdown
        let _ = self.nspawn.wait();
    }
}
