//! Folders for work in progress, and the sweep of what killed builders left of them.
//!
//! The owner of a folder holds a lock on it, which the kernel drops with the process: the sweep
//! need not guess from process ids, which are reused and mean nothing in another container.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::fcntl::{Flock, FlockArg};
use node::command::Run;

use super::lock_file;

/// An unfinished download nobody resumed for so long is litter.
const PART_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// A folder under `tmp/`, removed on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    /// Tells the sweeps of other processes that the folder is in use.
    _owner: Flock<std::fs::File>,
}

impl TempDir {
    pub(super) fn new(tmp: &Path, hint: &str) -> Result<Self> {
        // No sweep may run between the making of the folder and its lock.
        let _no_sweep = lock_file(&tmp.join(".lock"), FlockArg::LockShared)?;
        let prefix = format!("{}-{hint}-", std::process::id());
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(tmp)
            .context("failed to make a work folder in the cache")?;
        let owner = Flock::lock(fs::File::open(dir.path())?.into_parts().0, FlockArg::LockShared)
            .map_err(|(_, errno)| errno)
            .context("failed to lock a work folder in the cache")?;
        Ok(Self { path: dir.keep(), _owner: owner })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Gone already when it became a stage. What cannot be removed now, the next start sweeps.
        if self.path.exists() {
            let _ = remove_tree(&self.path);
        }
    }
}

/// Removes everything under `tmp` that no living process holds.
pub(super) fn sweep(tmp: &Path) -> Result<()> {
    let Ok(_lock) = lock_file(&tmp.join(".lock"), FlockArg::LockExclusiveNonblock) else {
        return Ok(()); // another builder is starting right now; it sweeps as well as we would
    };
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name != ".lock") && is_litter(&path) {
            // What cannot be removed costs space, but stops no build.
            if let Err(error) = remove_tree(&path) {
                log::warn!("{error:#}");
            }
        }
    }
    Ok(())
}

/// Nobody holds its lock and, for an unfinished download, nobody came back for it.
fn is_litter(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    let Ok(meta) = file.metadata() else { return false };
    let age = meta.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
    if path.extension().is_some_and(|e| e == "part") && age.is_none_or(|age| age < PART_LIFETIME) {
        return false;
    }
    Flock::lock(file.into_parts().0, FlockArg::LockExclusiveNonblock).is_ok()
}

/// Removes a file or a folder with all in it, also what a rootless build left under mapped ids.
///
/// # Errors
/// Something in it cannot be removed, or is a mount: what lies behind one is not ours.
pub fn remove_tree(path: &Path) -> Result<()> {
    if let Some(mount) = mount_below(path, &fs::read_to_string("/proc/self/mountinfo")?) {
        bail!("{mount} is mounted below {}; unmount it, then try again", path.display());
    }
    let attempt = |path: &Path| match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    let absent = |e: &std::io::Error| e.kind() == std::io::ErrorKind::NotFound;
    match attempt(path) {
        Ok(()) => return Ok(()),
        Err(e) if absent(&e) => return Ok(()),
        Err(_) => open_up(path),
    }
    let Err(error) = attempt(path) else { return Ok(()) };
    // Files of mmdebstrap's unshare mode belong to our subordinate ids: only inside a user
    // namespace that maps them are they ours to remove.
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-auto", "--map-root-user", "rm", "-rf", "--"]).arg(path);
    unshare.run().map_err(|e| e.context(error)).context("failed to clean up the cache")
}

/// A mount point below `path`, by a process' `mountinfo` (proc(5): the fifth field).
fn mount_below(path: &Path, mountinfo: &str) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below = mounts.filter(|mount| Path::new(mount).starts_with(path));
    below.next().map(str::to_owned)
}

/// Gives us the rights on folders we own, which removing what is in them takes.
fn open_up(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if !meta.is_dir() {
        return;
    }
    // A failure here shows again, and is reported, when the removal is tried again.
    let _ = fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        open_up(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn nothing_is_removed_through_a_mount() {
        let info =
            "22 1 0:20 / /sys rw - sysfs sysfs rw\n30 1 0:5 / /tmp/x/dev rw - devtmpfs d rw\n";
        assert_eq!(mount_below(Path::new("/tmp/x"), info).as_deref(), Some("/tmp/x/dev"));
        assert_eq!(mount_below(Path::new("/tmp/x/d"), info), None);
        assert_eq!(mount_below(Path::new("/tmp/y"), info), None);
        let text = remove_tree(Path::new("/proc")).unwrap_err().to_string();
        assert!(text.contains("is mounted below"), "{text}");
    }

    #[test]
    fn a_work_folder_lives_while_held_and_is_swept_when_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let held = store.temp_dir("base").unwrap();
        let orphan = dir.path().join("tmp/99-base-x");
        fs::create_dir_all(orphan.join("closed")).unwrap();
        fs::write(orphan.join("closed/f"), "").unwrap();
        fs::set_permissions(orphan.join("closed"), PermissionsExt::from_mode(0o500)).unwrap();
        Store::open(Some(dir.path())).unwrap();
        assert!(held.path().is_dir());
        assert!(!orphan.exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn an_unfinished_download_stays_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let (young, old) = (dir.path().join("tmp/a.part"), dir.path().join("tmp/b.part"));
        fs::write(&young, "x").unwrap();
        fs::write(&old, "x").unwrap();
        let then = SystemTime::now() - PART_LIFETIME - Duration::from_mins(1);
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(then).unwrap();
        drop(store);
        Store::open(Some(dir.path())).unwrap();
        assert!(young.exists());
        assert!(!old.exists());
    }
}
