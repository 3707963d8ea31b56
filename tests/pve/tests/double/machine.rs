//! A VM of the model that is a real machine: it starts with its VM, its agent is asked, it ends.

use std::time::{Duration, Instant};

use pve_double::{Double, Qemu, Setup};

use super::client::{call, done, parts, task, upload_as};

/// Prints `up` on the first serial port and halts.
const BOOT: [u8; 16] = [
    0xba, 0xf8, 0x03, 0xb0, b'u', 0xee, 0xb0, b'p', 0xee, 0xb0, b'\n', 0xee, 0xf4, 0xeb, 0xfd, 0x90,
];
/// The firmware takes a second or two emulated; a loaded host many more.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_started_vm_is_a_machine_of_its_imported_disk() {
    let double = Double::start(Setup::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let qemu = Qemu::new(folder.path(), "tcg", "user,id=net0,restrict=on");
    let console = qemu.console(101);
    double.machine(qemu);
    let mut disk = vec![0; 1 << 20];
    disk[..BOOT.len()].copy_from_slice(&BOOT);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let body = parts(&[("content", "import")], "boot.raw", &disk);
    let upload = upload_as(&double, &double.token(), "/nodes/pve1/storage/local/upload", &body);
    assert_eq!(task(&double, &upload).0, "OK");
    let settings = [
        ("vmid", "101"),
        ("pool", "k3s"),
        ("memory", "64"),
        ("agent", "1"),
        ("net0", "virtio,bridge=vmbr0"),
        ("scsi0", "disks:0,import-from=local:import/boot.raw"),
    ];
    done(&double, "POST", "/nodes/pve1/qemu", &settings);
    done(&double, "POST", "/nodes/pve1/qemu/101/status/start", &[]);
    let end = Instant::now() + BOOT_LIMIT;
    while !fs_err::read_to_string(&console).unwrap_or_default().contains("up\n") {
        assert!(
            Instant::now() < end,
            "the machine did not boot: {:?}",
            fs_err::read_to_string(&console)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let ping = call(&double, "POST", "/nodes/pve1/qemu/101/agent/ping", &[]);
    assert_eq!(ping.reason, "QEMU guest agent is not running", "this machine has no agent");
    done(&double, "POST", "/nodes/pve1/qemu/101/status/stop", &[]);
    assert!(double.world(|world| world.vms[&101].run.is_none()));
}
