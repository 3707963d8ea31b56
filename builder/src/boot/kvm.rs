//! Whether KVM works here: `/dev/kvm` may be there, closed to us, or open and still unable to run
//! a guest (nested machines), so a guest is really started.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::inject::EXIT_PORT;
use super::plan::{Accel, Tools};

/// A guest of six instructions ends at once; one that cannot run hangs.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Byte the probe writes, and the status QEMU makes of it (twice the byte plus one).
const PROBE_BYTE: u8 = 42;
const PROBE_EXIT: i32 = PROBE_BYTE as i32 * 2 + 1;

/// Chooses KVM if a guest of one boot sector runs on it, else TCG; the second value says why not
/// KVM. Asked once per run of the program.
///
/// # Errors
/// QEMU cannot be started at all, or the probe's files cannot be written.
pub fn probe(tools: &Tools) -> Result<(Accel, Option<String>)> {
    static ANSWER: OnceLock<Option<String>> = OnceLock::new();
    if let Some(reason) = ANSWER.get() {
        return Ok(choice(reason.clone()));
    }
    let reason = run(&mut (tools.qemu)(), "kvm")?;
    Ok(choice(ANSWER.get_or_init(|| reason).clone()))
}

fn choice(why_not: Option<String>) -> (Accel, Option<String>) {
    (if why_not.is_none() { Accel::Kvm } else { Accel::Tcg }, why_not)
}

/// Runs the probe with one accelerator; `None` means that it works.
fn run(qemu: &mut Command, accel: &str) -> Result<Option<String>> {
    let work = tempfile::Builder::new().prefix("node-kvm-").tempdir()?;
    let disk = work.path().join("probe.img");
    fs_err::write(&disk, boot_sector())?;
    let errors = fs_err::File::create(work.path().join("errors"))?;
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "pc", "-m", "16", "-accel", accel])
        .args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=0x04")])
        .arg("-drive")
        .arg(format!("file={},format=raw,if=ide,snapshot=on", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.into_file());
    let mut child = qemu.spawn().context("failed to start QEMU (package qemu-system-x86)")?;
    let status = wait(&mut child, PROBE_LIMIT)?;
    let said = fs_err::read_to_string(work.path().join("errors"))?;
    Ok(match status {
        Some(status) if status.code() == Some(PROBE_EXIT) => None,
        Some(status) => Some(match said.lines().last() {
            Some(line) => line.to_owned(),
            None => format!("QEMU ended with {status}"),
        }),
        None => Some(format!("a guest of one boot sector did not end in {PROBE_LIMIT:?}")),
    })
}

/// The child's status, or `None` after killing it at the limit.
fn wait(child: &mut std::process::Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            if let Err(e) = child.kill() {
                bail!("failed to end the KVM probe: {e}");
            }
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A BIOS boot sector that writes [`PROBE_BYTE`] to the exit port.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![
        0xb0, PROBE_BYTE, // mov al, byte
        0xe6, EXIT_PORT, // out port, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp back to hlt
    ];
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_sector_is_one_and_runs_under_emulation() {
        assert_eq!(boot_sector().len(), 512);
        match run(&mut Command::new("qemu-system-x86_64"), "tcg") {
            Ok(answer) => assert_eq!(answer, None),
            Err(_) => eprintln!("skipped: no QEMU here"),
        }
    }

    #[test]
    fn an_accelerator_that_cannot_run_is_refused_with_its_own_words() {
        if let Ok(answer) = run(&mut Command::new("qemu-system-x86_64"), "xen") {
            assert!(answer.is_some_and(|why| !why.is_empty()));
        }
    }

    #[test]
    fn a_guest_that_hangs_is_killed_at_the_limit() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait(&mut child, Duration::from_millis(50)).unwrap().is_none());
        assert!(child.try_wait().unwrap().is_some());
    }
}
