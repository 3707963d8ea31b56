//! The second drive that may carry the join secret (D10): an ISO with a label of our own. Looked for
//! by the link that udev makes for it, so that a VM without one never waits; udev also starts the
//! host stage when one is put in later (90-firstboot.rules).

use std::io::Read as _;
use std::process::Command;

use anyhow::{Context, Result};
use node::command::Run as _;
use node::join::{DRIVE, FILE};

use crate::boot::Machine;

/// Folder of udev's links, relative to the root.
const LINKS: &str = "dev/disk/by-label";
/// Where it is mounted for a moment: in the folder that only root enters.
const PLACE: &str = "run/firstboot/join/drive";
/// Seconds that mounting may take: a drive whose medium cannot be read is tried for long.
const LIMIT: &str = "20";
/// The longest payload read: a join secret has a few hundred bytes.
const LONGEST: u64 = 64 << 10;

/// Whether there is such a drive.
pub fn is_there(machine: &Machine) -> bool {
    machine.path(LINKS).join(DRIVE).symlink_metadata().is_ok()
}

/// Reads the payload on it, if there is such a drive.
///
/// # Errors
/// The drive cannot be read, or has no payload.
pub fn read(machine: &Machine) -> Result<Option<Vec<u8>>> {
    if !is_there(machine) {
        return Ok(None);
    }
    let place = machine.path(PLACE);
    fs_err::create_dir_all(&place)?;
    let device = machine.path(LINKS).join(DRIVE);
    let what = "failed to read the join secret on the drive FIRSTBOOT";
    let mut mount = Command::new("timeout");
    mount.args(["-k", "5", LIMIT, "mount", "-t", "iso9660", "-o", "ro,nosuid,nodev,noexec"]);
    mount.arg(device).arg(&place).run().context(what)?;
    let mut data = Vec::new();
    let read = fs_err::File::open(place.join(FILE))
        .and_then(|file| file.take(LONGEST).read_to_end(&mut data));
    let unmounted = Command::new("umount").arg(&place).run();
    read.context(what)?;
    unmounted.map(|()| Some(data))
}
