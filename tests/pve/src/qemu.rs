//! Real machines behind the VMs of the model: QEMU with the imported disk under an overlay, the
//! cloud-init drive as Proxmox writes it, and the guest agent's port.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::hook::{Disk, Machine, Start};
use crate::table::TABLE;

/// QEMU makes its sockets within milliseconds; a loaded host may take seconds.
const START_LIMIT: Duration = Duration::from_secs(20);
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
    /// Held open: QEMU forgets commands of a monitor that went away.
    monitor: UnixStream,
    agent: Agent,
    /// Ends the thread that the kernel tied QEMU to.
    _keeper: Sender<()>,
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
        let get = |key: &str| start.get(key);
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
        if let Some(kind) = get("cpu") {
            option("-cpu", cpu(kind, &self.accel).to_owned());
        }
        if let Some(uuid) = start.uuid() {
            option("-uuid", uuid);
        }
        option("-name", get("name").unwrap_or("vm").to_owned());
        option("-smp", get("cores").unwrap_or("1").to_owned());
        option("-m", format!("{memory}M"));
        option("-serial", format!("file:{}", own("console")));
        option("-monitor", format!("unix:{},server=on,wait=off", own("monitor")));
        option("-chardev", format!("socket,id=agent,path={},server=on,wait=off", own("agent")));
        option("-device", "virtio-serial-pci".to_owned());
        option("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0".to_owned());
        option("-device", "virtio-rng-pci".to_owned());
        option("-device", "virtio-scsi-pci,id=scsihw0".to_owned());
        let overlay = self.overlay(start, disk)?;
        option(
            "-drive",
            format!(
                "if=none,id=scsi0,format=qcow2,cache=writeback,discard=unmap,file={}",
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

    /// What a VM writes outlives its stops, as a volume does, and ends with the VM: a later one of the
    /// same number has volumes of the same names, and another UUID.
    fn overlay(&self, start: &Start, disk: &Disk) -> Result<PathBuf> {
        let name: String = disk
            .volume
            .chars()
            .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
            .collect();
        let vm = start.uuid().unwrap_or_default();
        let overlay = self.folder.join(format!("{name}-{vm}.overlay"));
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

/// QEMU's words for the types that Proxmox has beyond QEMU's own. Emulation has no host to show; and it
/// refuses instructions that the type does not name, where a processor behind the same type runs them:
/// Linux' `aesni_intel` uses PCLMULQDQ wherever it sees AES.
fn cpu<'a>(kind: &'a str, accel: &str) -> &'a str {
    match (kind, accel.starts_with("tcg")) {
        ("x86-64-v2-AES", false) => "qemu64,+aes,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3",
        ("x86-64-v2-AES", true) => "qemu64,+aes,+popcnt,+pni,+sse4.1,+sse4.2,+ssse3,+pclmulqdq",
        ("host", true) => "max",
        (other, _) => other,
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("failed to start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", errors.trim());
    Ok(())
}

/// Starts a command that the kernel ends with the thread that started it. The double's threads end
/// with their connections, so it gets one of its own, which lives as long as the sender.
fn spawn_tied(mut command: Command) -> Result<(Child, Sender<()>)> {
    let (keeper, hold) = channel::<()>();
    let (send, started) = channel();
    std::thread::spawn(move || {
        let _ = send.send(command.spawn()); // who asked may be gone
        let _ = hold.recv(); // the keeper was dropped
    });
    let child = started.recv().context("the thread that starts QEMU is gone")?;
    Ok((child.context("failed to start QEMU")?, keeper))
}

impl Machine for Qemu {
    fn start(&mut self, start: &Start) -> Result<()> {
        let arguments = self.arguments(start)?;
        let own = |name: &str| self.folder.join(format!("{}.{name}", start.vmid));
        let errors = own("errors");
        for port in ["agent", "monitor"] {
            drop(fs_err::remove_file(own(port)));
        }
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
        let (mut child, keeper) = spawn_tied(command)?;
        let ports = connect(&mut child, &own("monitor"))
            .and_then(|monitor| Ok((monitor, connect(&mut child, &own("agent"))?)));
        let (monitor, agent) = ports
            .inspect_err(|_| {
                drop(child.kill());
                drop(child.wait());
            })
            .with_context(|| {
                let words = fs_err::read_to_string(&errors).unwrap_or_default();
                format!("QEMU did not start: {}", words.trim())
            })?;
        let guest = Guest { child, monitor, agent: Agent::new(agent), _keeper: keeper };
        self.running.insert(start.vmid, guest);
        Ok(())
    }

    fn stop(&mut self, vmid: u32) {
        if let Some(mut guest) = self.running.remove(&vmid) {
            drop(guest.child.kill());
            drop(guest.child.wait());
        }
    }

    fn press_power(&mut self, vmid: u32) -> Result<()> {
        Ok(self.guest(vmid)?.monitor.write_all(b"system_powerdown\n")?)
    }

    fn runs(&mut self, vmid: u32) -> bool {
        let child = self.running.get_mut(&vmid).map(|guest| guest.child.try_wait());
        matches!(child, Some(Ok(None)))
    }

    fn ping(&mut self, vmid: u32) -> Result<()> {
        self.guest(vmid)?.agent.synchronise()
    }

    fn write_file(&mut self, vmid: u32, name: &str, content: &[u8]) -> Result<()> {
        let agent = &mut self.guest(vmid)?.agent;
        agent.synchronise()?;
        let handle = agent.call("guest-file-open", &json!({"path": name, "mode": "wb"}))?;
        let written = agent.call(
            "guest-file-write",
            &json!({"handle": handle, "buf-b64": STANDARD.encode(content)}),
        );
        agent.call("guest-file-close", &json!({"handle": handle}))?;
        written.map(drop)
    }

    fn interfaces(&mut self, vmid: u32) -> Result<Value> {
        let agent = &mut self.guest(vmid)?.agent;
        agent.synchronise()?;
        agent.call("guest-network-get-interfaces", &json!({}))
    }
}

fn connect(child: &mut Child, socket: &Path) -> Result<UnixStream> {
    let end = Instant::now() + START_LIMIT;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        ensure!(Instant::now() < end, "no {} within {START_LIMIT:?}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
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
