//! The NFS exports: their mount points, guarded against writes while nothing is mounted there, and the
//! start of the image's units that mount them ([`node::nfs`]). Never waits for a server: systemd tries
//! again by itself, and a node without its NAS still joins (D13).

use std::io;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use node::config::NfsFact;
use node::nfs::unit;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{Done, Step};
use crate::boot::Boot;
use crate::nfs::mounted;
use crate::systemd;

/// The step.
pub const STEP: Step = Step {
    name: "nfs",
    // With a ledger a missing server would write it at every boot.
    lasting: false,
    fix: "compare [nfs] of cluster/cluster.toml with what `findmnt -t nfs,nfs4` and \
          `systemctl list-units 'srv-nfs-*'` show on the node",
    satisfied,
    apply,
};

/// Satisfied only when all is mounted too: a report that says nothing of a missing server would
/// hide it.
fn satisfied(boot: &Boot) -> Result<bool> {
    for fact in &boot.config.cluster.nfs {
        if !mounted(&boot.machine, fact)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn apply(boot: &mut Boot) -> Result<Done> {
    let mut says = Vec::new();
    let exports = &boot.config.cluster.nfs;
    for fact in exports {
        let is_mounted = mounted(&boot.machine, fact)?;
        // Once mounted the folder is the server's, and a look at it may hang.
        let guard = if is_mounted { None } else { guard(boot, fact)? };
        let state = if is_mounted { "mounted" } else { "not mounted yet, tried again by itself" };
        says.push(format!("{} ({}) {state}{}", fact.name, fact.server, guard.unwrap_or_default()));
    }
    let timers: Vec<_> = exports.iter().map(|fact| unit(fact, "timer")).collect();
    let started = start_missing(&timers)?;
    let detail = says.join("; ");
    Ok(if started { Done::changed(detail) } else { Done::unchanged(detail) })
}

/// Starts the timers that do not run yet, which is at every boot; whether there were any.
fn start_missing(timers: &[String]) -> Result<bool> {
    let mut missing = Vec::new();
    for timer in timers {
        if !systemd::is_active(timer)? {
            missing.push(timer.as_str());
        }
    }
    if !missing.is_empty() {
        systemd::start(&missing, false)?;
    }
    Ok(!missing.is_empty())
}

/// Makes the mount point, and makes it immutable: what is written there while the server is away
/// would fill the root disk and be hidden later. Returns what is to say when the file system has
/// no such flag, which is no reason to fail.
fn guard(boot: &Boot, fact: &NfsFact) -> Result<Option<String>> {
    let path = boot.path(fact.mount_point());
    fs_err::create_dir_all(&path)?;
    // A test's tree could not be removed again.
    if boot.machine.root.as_os_str() != "/" {
        return Ok(None);
    }
    let folder = fs_err::File::open(&path)?;
    match immutable(folder.file()) {
        Ok(()) => Ok(None),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            Ok(Some(format!(", its folder is not guarded against writes ({e})")))
        }
        // No ioctl of that kind (ENOTTY), as on overlayfs.
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOTTY) => {
            Ok(Some(format!(", its folder is not guarded against writes ({e})")))
        }
        Err(e) => Err(e).with_context(|| format!("failed to make {} immutable", path.display())),
    }
}

/// Sets the flag of `chattr +i`, if it is not set.
fn immutable(folder: impl AsFd) -> io::Result<()> {
    let flags = ioctl_getflags(&folder)?;
    if flags.contains(IFlags::IMMUTABLE) {
        return Ok(());
    }
    Ok(ioctl_setflags(&folder, flags | IFlags::IMMUTABLE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const MOUNTS: &str = "proc/self/mountinfo";
    const MOUNTED: &str = "90 21 0:50 / /srv/nfs/data rw shared:2 - nfs4 192.0.2.9:/k8s rw\n";

    fn with_export() -> (tempfile::TempDir, Boot) {
        let (dir, mut boot) = testing::agent();
        let fact = serde_json::json!({"name": "data", "server": "192.0.2.9", "export": "/k8s"});
        boot.config.cluster.nfs.push(serde_json::from_value(fact).unwrap());
        testing::put(&boot, MOUNTS, "");
        (dir, boot)
    }

    #[test]
    fn satisfied_needs_the_mount() {
        let (_dir, boot) = with_export();
        assert!(!satisfied(&boot).unwrap());
        testing::put(&boot, MOUNTS, MOUNTED);
        assert!(satisfied(&boot).unwrap());
    }

    #[test]
    fn a_cluster_without_exports_needs_nothing_of_the_system() {
        let (_dir, boot) = testing::agent();
        assert!(satisfied(&boot).unwrap(), "there is not even a table of mounts");
    }

    #[test]
    fn the_folder_is_made_and_a_test_tree_stays_removable() {
        let (_dir, boot) = with_export();
        assert_eq!(guard(&boot, &boot.config.cluster.nfs[0]).unwrap(), None);
        fs_err::remove_dir(boot.path("srv/nfs/data")).unwrap();
    }

    #[test]
    fn immutable_holds_back_a_write_where_the_file_system_can() {
        let dir = tempfile::tempdir().unwrap();
        let folder = fs_err::File::open(dir.path()).unwrap();
        if let Err(error) = immutable(folder.file()) {
            eprintln!("not looked at: {} cannot: {error}", dir.path().display());
            return;
        }
        immutable(folder.file()).unwrap();
        assert!(fs_err::write(dir.path().join("x"), "x").is_err());
        let flags = ioctl_getflags(folder.file()).unwrap();
        ioctl_setflags(folder.file(), flags - IFlags::IMMUTABLE).unwrap();
        fs_err::write(dir.path().join("x"), "x").unwrap();
    }
}
