//! What a test puts into a guest without touching its image: systemd credentials, handed over as
//! SMBIOS strings (type 11), which systemd ≥ 256 also takes units and drop-ins from. Proxmox has
//! no such channel open to us, so nothing in the image may come to depend on it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::plan::Expect;

/// Gathers the facts in the guest.
const FACTS_SCRIPT: &str = include_str!("guest-facts.sh");

/// Status QEMU must exit with after a finished test: no crash, kill or plain power-off gives it.
pub const SUCCESS_EXIT: i32 = 123;
/// I/O port of the isa-debug-exit device.
pub const EXIT_PORT: u8 = 0xf4;
/// The byte written there: QEMU exits with twice the byte plus one.
const EXIT_BYTE: u8 = ((SUCCESS_EXIT - 1) / 2) as u8;

/// One systemd credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name, such as `systemd.extra-unit.NAME.service`.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

impl Credential {
    fn new(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), content: content.into() }
    }

    /// Writes it as an SMBIOS string below `work`; QEMU reads it from there, as a long value on
    /// the command line would be cut at its commas.
    pub(super) fn write(&self, work: &Path, number: usize) -> Result<PathBuf> {
        let path = work.join(format!("smbios-{number}"));
        let content = BASE64_STANDARD.encode(&self.content);
        fs_err::write(&path, format!("io.systemd.credential.binary:{}={content}", self.name))?;
        Ok(path)
    }
}

/// What the guest is told about the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Stands in every frame of this boot and in no other.
    pub nonce: String,
    /// State that ends the wait.
    pub expect: Expect,
    /// Seconds of uptime after which the guest reports whatever there is.
    pub limit: u64,
}

/// The unit that gathers the facts, pulled in by multi-user.target.
pub fn facts(task: &Task) -> Vec<Credential> {
    // A failure is final either way; a node that waits while it should join may still go on.
    let states = match task.expect {
        Expect::Ready => "ready failed",
        Expect::Waiting => "waiting ready failed",
    };
    let unit = format!(
        "[Unit]\nDescription=Facts for builder boot\n\
         [Service]\nType=exec\nImportCredential=boot-test.*\nRuntimeDirectory=boot-test\n\
         Environment=\"BOOT_NONCE={}\" \"BOOT_STATES= {states} \" BOOT_LIMIT={}\n\
         ExecStart=/bin/sh %d/boot-test.sh\n",
        task.nonce, task.limit
    );
    vec![
        Credential::new("systemd.extra-unit.boot-test.service", unit),
        Credential::new(
            "systemd.unit-dropin.multi-user.target~boot-test",
            "[Unit]\nWants=boot-test.service\n",
        ),
        Credential::new("boot-test.sh", FACTS_SCRIPT),
        Credential::new("boot-test.exit", exit_program()),
    ]
}

/// Lays a file with other content and mode 0755 over `target` before anything but local mounts
/// is up: breaks a guest for a negative test while the image stays as it is.
pub fn replace_file(target: &str, content: &[u8]) -> Vec<Credential> {
    let unit = format!(
        "[Unit]\nDescription=Broken {target} for a test\nDefaultDependencies=no\n\
         After=local-fs.target\nBefore=sysinit.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/install -m 755 /run/credentials/@system/boot-test-replace \
         /var/tmp/boot-test-replace\n\
         ExecStart=/bin/mount --bind /var/tmp/boot-test-replace {target}\n"
    );
    vec![
        Credential::new("systemd.extra-unit.boot-test-replace.service", unit),
        Credential::new(
            "systemd.unit-dropin.sysinit.target~boot-test-replace",
            "[Unit]\nWants=boot-test-replace.service\n",
        ),
        Credential::new("boot-test-replace", content),
    ]
}

/// A whole ELF program for x86-64 that opens [`EXIT_PORT`] and writes [`EXIT_BYTE`] to it. The
/// cloud kernel has no `/dev/port`, and the image no tool that writes to a port.
fn exit_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let code: &[u8] = &[
        0xbf, EXIT_PORT, 0, 0, 0, // mov edi, port
        0xbe, 1, 0, 0, 0, // mov esi, 1 (how many ports)
        0xba, 1, 0, 0, 0, // mov edx, 1 (allow)
        0xb8, 173, 0, 0, 0, // mov eax, SYS_ioperm
        0x0f, 0x05, // syscall
        0x85, 0xc0, // test eax, eax
        0x75, 4, // jnz over the next two
        0xb0, EXIT_BYTE, // mov al, byte
        0xe6, EXIT_PORT, // out port, al
        0xbf, 1, 0, 0, 0, // mov edi, 1: still here
        0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
        0x0f, 0x05, // syscall
    ];
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2_u16, 62] {
        elf.extend(half.to_le_bytes()); // executable, x86-64
    }
    elf.extend(1_u32.to_le_bytes());
    for long in [BASE + HEADERS, 64, 0] {
        elf.extend(long.to_le_bytes()); // entry, program headers, no section headers
    }
    elf.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1_u32, 5] {
        elf.extend(word.to_le_bytes()); // load, readable and executable
    }
    for long in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(long.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_comes_back_from_its_smbios_string() {
        let work = tempfile::tempdir().unwrap();
        let path = Credential::new("a.b", b"x,\0y\n".to_vec()).write(work.path(), 3).unwrap();
        let text = fs_err::read_to_string(path).unwrap();
        let coded = text.strip_prefix("io.systemd.credential.binary:a.b=").unwrap();
        assert_eq!(BASE64_STANDARD.decode(coded).unwrap(), b"x,\0y\n");
    }

    #[test]
    fn the_unit_carries_nonce_states_and_limit() {
        let task = Task { nonce: "n0".into(), expect: Expect::Ready, limit: 270 };
        let unit = String::from_utf8(facts(&task)[0].content.clone()).unwrap();
        for part in ["BOOT_NONCE=n0", "BOOT_STATES= ready failed \"", "BOOT_LIMIT=270"] {
            assert!(unit.contains(part), "{part} not in {unit}");
        }
    }

    #[test]
    fn the_exit_program_starts_and_leaves_the_port_alone_where_it_may_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit");
        fs_err::write(&path, exit_program()).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Without the right to the port (dropped here, as root would have it) it says 1.
        let status = std::process::Command::new("setpriv")
            .args(["--bounding-set", "-all", "--inh-caps", "-all"])
            .arg(&path)
            .status();
        match status {
            Ok(status) => assert_eq!(status.code(), Some(1)),
            Err(_) => eprintln!("skipped: no setpriv here"),
        }
    }

    #[test]
    fn the_facts_script_is_short_and_sound_shell() {
        assert!(FACTS_SCRIPT.lines().count() <= 55);
        let status = std::process::Command::new("sh")
            .args(["-n", concat!(env!("CARGO_MANIFEST_DIR"), "/src/boot/guest-facts.sh")])
            .status()
            .unwrap();
        assert!(status.success());
    }
}
