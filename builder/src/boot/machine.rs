//! The virtual machine: as Proxmox would make it, on a throw-away overlay of the very image file.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use node::command::tied;

use super::inject::EXIT_PORT;
use super::plan::{Accel, BootPlan, Firmware, Forward, mac_text};
use super::qmp::{self, Qmp};
use super::work::Work;

/// QEMU makes its sockets within milliseconds; a loaded host may take seconds.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a QEMU that was told to quit may take before it is killed.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// A running QEMU; killed when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    qmp: Qmp,
    errors: PathBuf,
    /// First serial port.
    pub console: UnixStream,
    /// Second serial port: the verdict.
    pub facts: UnixStream,
    /// The guest agent's port.
    pub agent: UnixStream,
    /// When the guest's processors started.
    pub started: Instant,
}

impl Machine {
    /// Starts QEMU paused, connects to everything, and lets it go: no byte of output is missed.
    ///
    /// # Errors
    /// QEMU does not start; its own words are in the error.
    pub fn start(plan: &BootPlan, accel: Accel, work: &Work) -> Result<Self> {
        let errors = work.path("qemu.errors");
        let mut command = dying_with_us(&(plan.tools.qemu)());
        command
            .args(arguments(plan, accel, work)?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::from(fs_err::File::create(&errors)?));
        let child = command.spawn().context("failed to start QEMU (package qemu-system-x86)")?;
        let mut starting = Starting { child: Some(child), errors };
        let mut open = |name: &str| starting.connect(&work.path(name));
        let (control, console) = (open("qmp")?, open("console")?);
        let (facts, agent) = (open("facts")?, open("agent")?);
        let going = Qmp::new(control).and_then(|mut q| q.execute("cont").map(|_| q));
        let qmp = going
            .with_context(|| format!("QEMU did not start: {}", last_words(&starting.errors)))?;
        let Some(child) = starting.child.take() else { bail!("QEMU is gone") };
        let errors = starting.errors.clone();
        Ok(Self { child, qmp, errors, console, facts, agent, started: Instant::now() })
    }

    /// The exit status, once it has ended.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("failed to ask for QEMU's state")
    }

    /// What QEMU itself complained about.
    pub fn complaints(&self) -> String {
        last_words(&self.errors)
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// QEMU does not take the command.
    pub fn press_power(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown").map(drop)
    }

    /// Ends the machine: asked first, then killed.
    pub fn end(&mut self) {
        let asked = self.qmp.execute("quit").is_ok();
        let limit = Instant::now() + if asked { QUIT_LIMIT } else { Duration::ZERO };
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= limit {
                // It may have ended in between; wait collects it either way.
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// Between spawn and the last connection: kills QEMU when anything fails.
struct Starting {
    child: Option<Child>,
    errors: PathBuf,
}

impl Starting {
    fn connect(&mut self, path: &Path) -> Result<UnixStream> {
        let (child, errors) = (&mut self.child, &self.errors);
        qmp::connect(path, START_LIMIT, || match child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => Ok(()),
            _ => bail!("QEMU did not start: {}", last_words(errors)),
        })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn last_words(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The same command, ended by the kernel when this process is killed without a chance to clean up;
/// in a process group of its own, so that Ctrl-C reaches only us.
fn dying_with_us(qemu: &Command) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = tied("KILL", qemu.get_program());
    command.args(qemu.get_args());
    for (name, value) in qemu.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = qemu.get_current_dir() {
        command.current_dir(folder);
    }
    command.process_group(0);
    command
}

/// QEMU's whole command line.
fn arguments(plan: &BootPlan, accel: Accel, work: &Work) -> Result<Vec<String>> {
    let file = |path: &Path| path.display().to_string().replace(',', ",,");
    let own = |name: &str| file(&work.path(name));
    let mut args = Args(Vec::new());
    args.words("-nodefaults -no-user-config -display none -no-reboot -S");
    args.option("-rtc", format!("base={}", plan.clock.as_deref().unwrap_or("utc")));
    args.option("-name", plan.node.name.as_str().to_owned());
    args.option("-uuid", work.uuid.clone());
    args.words(accel.arguments());
    args.option("-smp", plan.cpus.to_string());
    args.option("-m", format!("{}M", plan.memory.mib_ceil()));
    match plan.firmware {
        // graphics=off sends SeaBIOS' own messages to the serial port too.
        Firmware::SeaBios => args.words("-machine pc,graphics=off -vga none"),
        Firmware::Ovmf => {
            args.words("-machine q35 -vga std");
            let code = file(&plan.tools.ovmf.0);
            args.option("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
            args.option("-drive", format!("if=pflash,unit=1,format=raw,file={}", own("vars.fd")));
        }
    }
    args.option("-qmp", format!("unix:{},server=on,wait=off", own("qmp")));
    for port in ["console", "facts", "agent"] {
        let path = own(port);
        args.option("-chardev", format!("socket,id={port},path={path},server=on,wait=off"));
    }
    args.words("-serial chardev:console -serial chardev:facts -device virtio-serial-pci");
    args.words("-device virtserialport,chardev=agent,name=org.qemu.guest_agent.0");
    args.words("-device virtio-rng-pci -device virtio-scsi-pci,id=scsihw0");
    // A disk that is kept must hold what the guest synced when its power is cut.
    let cache = if plan.disk_file.is_some() { "writeback" } else { "unsafe" };
    let disk = format!("if=none,id=scsi0,format=qcow2,cache={cache},discard=unmap");
    args.option("-drive", format!("{disk},file={}", file(&work.overlay)));
    args.words("-device scsi-hd,bus=scsihw0.0,drive=scsi0,bootindex=1");
    if let Some(seed) = &work.seed {
        let drive =
            format!("if=none,id=ide2,media=cdrom,format=raw,readonly=on,file={}", file(seed));
        args.option("-drive", drive);
        args.words("-device ide-cd,bus=ide.1,unit=0,drive=ide2");
    }
    args.option("-netdev", network(plan, work.ssh)?);
    args.option("-device", format!("virtio-net-pci,netdev=net0,mac={}", mac_text(plan.node.mac)));
    args.option("-device", format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x04"));
    for path in &work.smbios {
        args.option("-smbios", format!("type=11,path={}", file(path)));
    }
    Ok(args.0)
}

/// The production LAN, played by QEMU: the gateway answers ARP (as its DNS address), the
/// forwarded addresses lead to servers on our loopback, and nothing else leaves.
fn network(plan: &BootPlan, ssh: Option<SocketAddr>) -> Result<String> {
    let (host, dhcp) = plan.spare_addresses()?;
    let mut text = format!(
        "user,id=net0,ipv6=off,restrict=on,net={},host={host},dns={},dhcpstart={dhcp}",
        plan.network, plan.node.gateway
    );
    for Forward { address, port, server } in &plan.forwards {
        let program = plan.tools.relay.display().to_string();
        ensure!(
            !program.contains([' ', ',', '\'', '"', '\\']),
            "{program}: QEMU cannot start a program with such a path"
        );
        let command = format!("{program} relay {server}");
        let _ = write!(text, ",guestfwd=tcp:{address}:{port}-cmd:{command}");
    }
    if let Some(ssh) = ssh {
        let _ = write!(text, ",hostfwd=tcp:{ssh}-{}:22", plan.node.address);
    }
    Ok(text)
}

struct Args(Vec<String>);

impl Args {
    fn words(&mut self, text: &str) {
        self.0.extend(text.split(' ').map(str::to_owned));
    }
    fn option(&mut self, name: &str, value: String) {
        self.0.extend([name.to_owned(), value]);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::boot::plan::Ending;
    use crate::boot::plan::tests::sample;

    /// The other ends of a pretended machine's ports.
    pub(crate) struct Peers {
        pub(crate) console: UnixStream,
        pub(crate) facts: UnixStream,
        _others: [UnixStream; 2],
    }

    /// A machine whose QEMU is a shell script.
    pub(crate) fn pretend(script: &str, work: &Path) -> (Machine, Peers) {
        let pair = || UnixStream::pair().unwrap();
        let ((console, console_peer), (facts, facts_peer)) = (pair(), pair());
        let ((agent, agent_peer), (control, mut control_peer)) = (pair(), pair());
        std::io::Write::write_all(&mut control_peer, b"{\"QMP\":{}}\n{\"return\":{}}\n").unwrap();
        let machine = Machine {
            child: Command::new("sh").args(["-c", script]).spawn().unwrap(),
            qmp: Qmp::new(control).unwrap(),
            errors: work.join("errors"),
            console,
            facts,
            agent,
            started: Instant::now(),
        };
        let others = [agent_peer, control_peer];
        (machine, Peers { console: console_peer, facts: facts_peer, _others: others })
    }

    fn api(server: &str) -> Forward {
        let server = server.parse().unwrap();
        Forward { address: [192, 168, 2, 20].into(), port: 6443, server }
    }

    fn line(plan: &BootPlan, accel: Accel) -> String {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display().to_string();
        let work = Work {
            _owner: None,
            overlay: folder.path().join("disk.qcow2"),
            seed: Some(folder.path().join("seed.iso")),
            smbios: vec![folder.path().join("smbios-0")],
            uuid: "UUID".into(),
            ssh: (plan.ending == Ending::Keep).then(|| "127.0.0.1:2222".parse().unwrap()),
            folder,
        };
        let text = arguments(plan, accel, &work).unwrap().join(" ");
        text.replace(&here, "WORK").replace(" -", "\n-")
    }

    #[test]
    fn the_machines_stand_as_recorded() {
        let mut plan = sample();
        plan.tools.relay = "builder".into();
        plan.forwards = vec![api("127.0.0.1:16443")];
        let bios = line(&plan, Accel::Tcg);
        plan.firmware = Firmware::Ovmf;
        plan.ending = Ending::Keep;
        let uefi = line(&plan, Accel::Kvm);
        insta::assert_snapshot!(format!("{bios}\n\n{uefi}"));
    }

    #[test]
    fn a_relay_that_qemu_would_misread_is_refused() {
        let mut plan = sample();
        plan.tools.relay = "/a b/builder".into();
        plan.forwards = vec![api("127.0.0.1:1")];
        let text = network(&plan, None).unwrap_err().to_string();
        assert_eq!(text, "/a b/builder: QEMU cannot start a program with such a path");
    }
}
