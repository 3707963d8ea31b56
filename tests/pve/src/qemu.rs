//! Real machines behind the VMs of the model: QEMU with the imported disk under an overlay, the
//! cloud-init drive as Proxmox writes it, and the guest agent's port.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::hook::{Disk, Machine, Start};
use crate::table::TABLE;

/// QEMU makes its sockets within milliseconds; a loaded host may take seconds.
const START_LIMIT: Duration = Duration::from_secs(20);
/// As long as Proxmox waits for the agent.
const AGENT_LIMIT: Duration = Duration::from_secs(3);
/// Proxmox pads its cloud-init drives to this.
const SEED_BYTES: u64 = 4 << 20;

/// Runs VMs with QEMU.
pub struct Qemu {
    folder: PathBuf,
    accel: String,
    netdev: String,
    program: Program,
    running: BTreeMap<u32, Guest>,
}

type Program = Box<dyn Fn(&str) -> Command + Send>;

impl std::fmt::Debug for Qemu {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Qemu").field("running", &self.running).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Guest {
    child: Child,
    agent: UnixStream,
    pending: Vec<u8>,
    sync: u64,
}

impl Qemu {
    /// `folder` takes overlays and consoles; `accel` is `kvm` or `tcg`; `netdev` is the value of QEMU's
    /// `-netdev` for the first card and must contain `id=net0`. Programs: `qemu-system-x86_64`,
    /// `setpriv`, `qemu-img`, and `xorriso` for VMs with a cloud-init drive.
    pub fn new(folder: &Path, accel: &str, netdev: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            accel: accel.to_owned(),
            netdev: netdev.to_owned(),
            program: Box::new(from_path),
            running: BTreeMap::new(),
        }
    }

    /// Where `qemu-img` and `xorriso` come from, if not from `PATH`.
    #[must_use]
    pub fn programs(mut self, program: impl Fn(&str) -> Command + Send + 'static) -> Self {
        self.program = Box::new(program);
        self
    }

    /// The file that the first serial port of a VM writes.
    pub fn console(&self, vmid: u32) -> PathBuf {
        self.folder.join(format!("{vmid}.console"))
    }

    fn guest(&mut self, vmid: u32) -> Result<&mut Guest> {
        self.running.get_mut(&vmid).context("the machine does not run")
    }

    fn arguments(&self, start: &Start) -> Result<Vec<String>> {
        let get = |key: &str| start.config.get(key).map(String::as_str);
        let memory = get("memory").map_or("512", |text| text.trim_start_matches("current="));
        let card = TABLE.split("net", get("net0").context("the VM has no net0")?);
        let mac = card.get("macaddr").context("net0 has no address")?;
        let own =
            |name: &str| self.folder.join(format!("{}.{name}", start.vmid)).display().to_string();
        let disk = start.disks.values().next().context("the VM has no disk with contents")?;
        let mut words: Vec<String> =
            "-nodefaults -no-user-config -display none -machine pc -vga none"
                .split(' ')
                .map(str::to_owned)
                .collect();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("-accel", self.accel.clone());
        option("-name", get("name").unwrap_or("vm").to_owned());
        option("-smp", get("cores").unwrap_or("1").to_owned());
        option("-m", format!("{memory}M"));
        option("-serial", format!("file:{}", own("console")));
        option("-chardev", format!("socket,id=agent,path={},server=on,wait=off", own("agent")));
        option("-device", "virtio-serial-pci".to_owned());
        option("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned());
        option("-device", "virtio-rng-pci".to_owned());
        option("-device", "virtio-scsi-pci,id=scsihw0".to_owned());
        let overlay = self.overlay(disk)?;
        option(
            "-drive",
            format!(
                "if=none,id=scsi0,format=qcow2,cache=unsafe,discard=unmap,file={}",
                overlay.display()
            ),
        );
        option("-device", "scsi-hd,bus=scsihw0.0,drive=scsi0,bootindex=1".to_owned());
        if start.has_seed {
            let seed = self.seed(start)?;
            let drive = "if=none,id=ide2,media=cdrom,format=raw,readonly=on";
            option("-drive", format!("{drive},file={}", seed.display()));
            option("-device", "ide-cd,bus=ide.1,unit=0,drive=ide2".to_owned());
        }
        option("-netdev", self.netdev.clone());
        option("-device", format!("virtio-net-pci,netdev=net0,mac={mac}"));
        Ok(words)
    }

    /// What a VM writes outlives its stops, as a volume does.
    fn overlay(&self, disk: &Disk) -> Result<PathBuf> {
        let name: String = disk
            .volume
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
            .collect();
        let overlay = self.folder.join(format!("{name}.overlay"));
        if !overlay.exists() {
            let mut command = (self.program)("qemu-img");
            command
                .args(["create", "-q", "-f", "qcow2", "-F", &disk.format, "-b"])
                .arg(&disk.base)
                .arg(&overlay);
            run(command.arg(disk.size.to_string()))?;
        }
        Ok(overlay)
    }

    fn seed(&self, start: &Start) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{}.cidata", start.vmid));
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join("user-data"), &start.seed.user_data)?;
        fs_err::write(folder.join("network-config"), &start.seed.network_config)?;
        fs_err::write(folder.join("meta-data"), &start.seed.meta_data)?;
        fs_err::write(folder.join("vendor-data"), "")?;
        let iso = self.folder.join(format!("{}.cidata.iso", start.vmid));
        let mut command = (self.program)("xorriso");
        command.args([
            "-as",
            "mkisofs",
            "-quiet",
            "-iso-level",
            "3",
            "-J",
            "-R",
            "-V",
            "cidata",
            "-o",
        ]);
        run(command.arg(&iso).arg(&folder))?;
        let file = fs_err::OpenOptions::new().write(true).open(&iso)?;
        file.set_len(SEED_BYTES)?;
        Ok(iso)
    }
}

fn from_path(name: &str) -> Command {
    Command::new(name)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("failed to start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", errors.trim());
    Ok(())
}

impl Machine for Qemu {
    fn start(&mut self, start: &Start) -> Result<()> {
        let arguments = self.arguments(start)?;
        let errors = self.folder.join(format!("{}.errors", start.vmid));
        let socket = self.folder.join(format!("{}.agent", start.vmid));
        drop(fs_err::remove_file(&socket));
        // The kernel ends the machine when the test is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(arguments)
            .process_group(0);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs_err::File::create(&errors)?.into_file());
        let mut child = command.spawn().context("failed to start QEMU")?;
        let end = Instant::now() + START_LIMIT;
        let agent = loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                break stream;
            }
            if child.try_wait()?.is_some() || Instant::now() >= end {
                drop(child.kill());
                drop(child.wait());
                bail!("QEMU did not start: {}", fs_err::read_to_string(&errors)?.trim());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.running.insert(start.vmid, Guest { child, agent, pending: Vec::new(), sync: 0 });
        Ok(())
    }

    fn stop(&mut self, vmid: u32) {
        if let Some(mut guest) = self.running.remove(&vmid) {
            drop(guest.child.kill());
            drop(guest.child.wait());
        }
    }

    fn ping(&mut self, vmid: u32) -> Result<()> {
        self.guest(vmid)?.synchronise()
    }

    fn write_file(&mut self, vmid: u32, name: &str, content: &[u8]) -> Result<()> {
        let guest = self.guest(vmid)?;
        guest.synchronise()?;
        let handle = guest.call("guest-file-open", &json!({"path": name, "mode": "wb"}))?;
        let written = guest.call(
            "guest-file-write",
            &json!({"handle": handle, "buf-b64": STANDARD.encode(content)}),
        );
        guest.call("guest-file-close", &json!({"handle": handle}))?;
        written.map(drop)
    }

    fn interfaces(&mut self, vmid: u32) -> Result<Value> {
        let guest = self.guest(vmid)?;
        guest.synchronise()?;
        guest.call("guest-network-get-interfaces", &json!({}))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let all: Vec<u32> = self.running.keys().copied().collect();
        for vmid in all {
            self.stop(vmid);
        }
    }
}

impl Guest {
    /// The answer that carries our newest number is the first of this talk.
    fn synchronise(&mut self) -> Result<()> {
        self.sync += 1;
        self.agent.write_all(&[0xff])?;
        self.send("guest-sync-delimited", &json!({"id": self.sync}))?;
        let end = Instant::now() + AGENT_LIMIT;
        while !matches!(answer(&self.line(end)?), Ok(id) if id == self.sync) {}
        Ok(())
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        answer(&self.line(Instant::now() + AGENT_LIMIT)?)
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        Ok(self.agent.write_all(line.as_bytes())?)
    }

    fn line(&mut self, end: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                return Ok(self.pending.drain(..=at).collect());
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the agent does not answer");
            self.agent.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.agent.read(&mut bytes) {
                Ok(0) => bail!("QEMU closed the agent's port"),
                Ok(count) => self.pending.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn answer(line: &[u8]) -> Result<Value> {
    // A delimited answer starts with 0xff, which is in no JSON text.
    let text = line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
    let mut answer: Value =
        serde_json::from_slice(text).context("the agent's answer is no JSON")?;
    if let Some(error) = answer.get("error") {
        bail!("{}", error.get("desc").and_then(Value::as_str).unwrap_or("no reason given"));
    }
    Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
}
