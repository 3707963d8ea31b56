//! Whether KVM works here: `/dev/kvm` may be there, closed to us, or open and still unable to run
//! a guest (nested machines), so a guest is really started.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::inject::EXIT_PORT;
use super::plan::Accel;
use super::programs::Tools;

/// A guest of a dozen instructions ends at once; one that cannot run hangs.
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
    let reason = run(&mut (tools.qemu)(), Accel::Kvm.arguments())?;
    Ok(choice(ANSWER.get_or_init(|| reason).clone()))
}

fn choice(why_not: Option<String>) -> (Accel, Option<String>) {
    (if why_not.is_none() { Accel::Kvm } else { Accel::Tcg }, why_not)
}

/// Runs the probe with the arguments of one accelerator; `None` means that it works.
fn run(qemu: &mut Command, accel: &str) -> Result<Option<String>> {
    let work = tempfile::Builder::new().prefix("node-kvm-").tempdir()?;
    let disk = work.path().join("probe.img");
    fs_err::write(&disk, boot_sector())?;
    let errors = fs_err::File::create(work.path().join("errors"))?;
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "pc", "-m", "16"])
        .args(accel.split(' '))
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
        Some(status) => Some(match said.lines().next() {
            Some(line) => line.trim_start_matches("qemu-system-x86_64: ").to_owned(),
            None => format!("QEMU ended with {status}"),
        }),
        None => Some(format!("a guest of one boot sector did not end in {PROBE_LIMIT:?}")),
    })
}

/// The child's status, or `None` after killing it at the limit.
fn wait(
    child: &mut std::process::Child,
    limit: Duration,
) -> Result<Option<std::process::ExitStatus>> {
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

/// A BIOS boot sector that enters protected mode, counts down and writes [`PROBE_BYTE`] to the
/// exit port. Real mode alone proves nothing: a nested KVM was seen to run that and to hang at
/// GRUB's first step into protected mode.
fn boot_sector() -> Vec<u8> {
    const LOADED_AT: u16 = 0x7c00;
    const GDT_AT: u16 = 0x40;
    /// 0.3 s emulated; seconds where KVM itself only emulates, step by step.
    const TURNS: [u8; 4] = 50_000_000_u32.to_le_bytes();
    let [pointer_low, pointer_high] = (LOADED_AT + GDT_AT).to_le_bytes();
    let [entry_low, entry_high] = (LOADED_AT + 0x19).to_le_bytes();
    let [table_low, table_high] = (LOADED_AT + GDT_AT + 8).to_le_bytes();
    let mut sector = vec![
        0xfa, // cli
        0x31,
        0xc0,
        0x8e,
        0xd8, // xor ax, ax; mov ds, ax
        0x0f,
        0x01,
        0x16,
        pointer_low,
        pointer_high, // lgdt
        0x0f,
        0x20,
        0xc0,
        0x66,
        0x83,
        0xc8,
        0x01,
        0x0f,
        0x22,
        0xc0, // cr0 |= protection
        0xea,
        entry_low,
        entry_high,
        0x08,
        0x00, // far jump to the next instruction, 32 bit now
        0xb9,
        TURNS[0],
        TURNS[1],
        TURNS[2],
        TURNS[3],
        0xe2,
        0xfe, // mov ecx, TURNS; loop
        0xb0,
        PROBE_BYTE,
        0xe6,
        EXIT_PORT, // mov al, byte; out port, al
        0xf4,
        0xeb,
        0xfd, // hlt; jmp back to it
    ];
    sector.resize(GDT_AT.into(), 0);
    sector.extend([15, 0, table_low, table_high, 0, 0, 0, 0]); // limit and address of the table
    sector.extend([0; 8]); // its empty entry
    sector.extend([0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0]); // flat 32-bit code
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
        match run(&mut Command::new("qemu-system-x86_64"), Accel::Tcg.arguments()) {
            Ok(answer) => assert_eq!(answer, None),
            Err(_) => eprintln!("skipped: no QEMU here"),
        }
    }

    #[test]
    fn an_accelerator_that_cannot_run_is_refused_with_its_own_words() {
        if let Ok(answer) = run(&mut Command::new("qemu-system-x86_64"), "-accel xen") {
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
