//! A VM of the model that is a real machine: it starts with its VM, lives on between requests, ends
//! when its guest does, and begins anew when its VM does.

use std::path::Path;
use std::time::{Duration, Instant};

use pve_double::{Double, Pace, Qemu, Setup};

use super::client::{call, parts, task, upload_as};

/// Lets the firmware tell of the power button, prints `up` on the first serial port, waits for the
/// button, and turns the power off.
const BOOT: [u8; 39] = [
    0xfa, 0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // its bit in the enable register of ACPI
    0xba, 0xf8, 0x03, 0xb0, b'u', 0xee, 0xb0, b'p', 0xee, 0xb0, b'\n', 0xee, //
    0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa, // its bit in the status register
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd, // off
];
/// The firmware takes a second or two emulated; a loaded host many more.
const LIMIT: Duration = Duration::from_secs(90);
const NODE: &str = "/nodes/pve1/qemu";

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A call whose task is followed by calls alone, as a client does: a connection's thread does the work.
fn done(double: &Double, method: &str, path: &str, params: &[(&str, &str)]) {
    let answer = call(double, method, path, params);
    let path = format!("/nodes/pve1/tasks/{}/status", answer.data().as_str().unwrap());
    let status = || call(double, "GET", &path, &[]).data().clone();
    until("the task's end", || status()["status"] == "stopped");
    assert_eq!(status()["exitstatus"], "OK", "{method} {path}");
}

fn upload(double: &Double) {
    let mut disk = vec![0; 1 << 20];
    disk[..BOOT.len()].copy_from_slice(&BOOT);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let body = parts(&[("content", "import")], "boot.raw", &disk);
    let upload = upload_as(double, &double.token(), "/nodes/pve1/storage/local/upload", &body);
    assert_eq!(task(double, &upload).0, "OK");
}

/// Makes VM 101 of the upload and waits for its guest.
fn start(double: &Double, console: &Path) {
    drop(fs_err::remove_file(console));
    let settings = [
        ("vmid", "101"),
        ("pool", "k3s"),
        ("memory", "64"),
        ("cpu", "x86-64-v2-AES"),
        ("agent", "1"),
        ("net0", "virtio,bridge=vmbr0"),
        ("scsi0", "disks:0,import-from=local:import/boot.raw"),
    ];
    done(double, "POST", NODE, &settings);
    done(double, "POST", &format!("{NODE}/101/status/start"), &[]);
    until("the guest's word", || {
        fs_err::read_to_string(console).unwrap_or_default().contains("up\n")
    });
}

fn runs(double: &Double) -> bool {
    double.world(|world| world.vms[&101].run.is_some())
}

fn overlays(folder: &Path) -> usize {
    let names = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".overlay")).count()
}

#[test]
fn a_started_vm_is_a_machine_of_its_imported_disk() {
    let setup = Setup { pace: Pace::Real(10), ..Setup::default() };
    let double = Double::start(setup).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let qemu = Qemu::new(folder.path(), "tcg", "user,id=net0,restrict=on");
    let console = qemu.console(101);
    double.machine(qemu);
    upload(&double);
    start(&double, &console);
    // The connection that started it ended long ago.
    assert!(runs(&double));
    let ping = call(&double, "POST", &format!("{NODE}/101/agent/ping"), &[]);
    assert_eq!(ping.reason, "QEMU guest agent is not running", "this machine has no agent");

    done(&double, "POST", &format!("{NODE}/101/status/shutdown"), &[]);
    assert!(!runs(&double), "the button's task ends with the guest");
    assert_eq!(overlays(folder.path()), 1);

    done(&double, "DELETE", &format!("{NODE}/101"), &[]);
    start(&double, &console);
    assert_eq!(overlays(folder.path()), 2, "another VM of this number has a disk of its own");
    done(&double, "POST", &format!("{NODE}/101/status/stop"), &[]);
    assert!(!runs(&double));
}
