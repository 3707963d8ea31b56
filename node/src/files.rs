//! Files that are never half there: write beside the target, sync, rename, sync the folder.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fs_err as fs;

use crate::failpoint;
use fs_err::os::unix::fs::OpenOptionsExt;

/// Whether an `ensure_*` call found its work already done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// The file now differs from what it was.
    Yes,
    /// It already was as wanted; nothing was written.
    No,
}

impl Changed {
    /// `Yes` when either is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Yes { self } else { other }
    }
}

/// Puts `content` at `path` with `mode`, whole or not at all, even through a power cut.
///
/// # Errors
/// Any failure to write, sync or rename, naming the path; the old file then still stands.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    failpoint::reach();
    sweep_beside(path);
    let temp = temp_beside(path);
    let result = write_and_rename(&temp, path, content, mode);
    if result.is_err() {
        // The error to report is the write's; a temp file that cannot be removed is only litter.
        let _ = fs::remove_file(&temp);
    }
    result
}

fn write_and_rename(temp: &Path, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(temp)?;
    // The mode given to open is cut by the umask.
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    failpoint::reach();
    fs::rename(temp, path)?;
    sync_folder_of(path)?;
    failpoint::reach();
    Ok(())
}

/// Removes what writers of `path` left that a power cut ended: it may hold a secret, and nobody else
/// would. A process of our own name may still be writing; any other that has its number is not.
fn sweep_beside(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sweep_of(folder, |target| target == name);
}

/// Removes what writers of any file in `folder` left that ended without a chance to clean up.
pub fn sweep(folder: &Path) {
    sweep_of(folder, |_| true);
}

fn sweep_of(folder: &Path, is_wanted: impl Fn(&str) -> bool) {
    let own = program_of(std::process::id());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let middle = found.strip_prefix('.').and_then(|f| f.strip_suffix(".tmp"));
        let Some((target, pid)) = middle.and_then(|m| m.rsplit_once('.')) else { continue };
        if is_wanted(target) && pid.parse().is_ok_and(|pid: u32| program_of(pid) != own) {
            let _ = fs::remove_file(entry.path()); // another user's litter is not ours to remove
        }
    }
}

/// Name of a running program; `None` when nothing has that number.
fn program_of(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok()
}

/// Like [`write_atomic`], but leaves a file alone that already has this content and mode.
///
/// # Errors
/// Any failure to read the old file (other than its absence) or to write the new one.
pub fn ensure_file(path: &Path, content: &[u8], mode: u32) -> Result<Changed> {
    if is_same(path, content, mode)? {
        return Ok(Changed::No);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    write_atomic(path, content, mode)?;
    Ok(Changed::Yes)
}

fn is_same(path: &Path, content: &[u8], mode: u32) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o7777 == mode => {
            Ok(fs::read(path)? == content)
        }
        Ok(_) => Ok(false),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Removes a file; one that is not there counts as done.
///
/// # Errors
/// Any failure but the file's absence.
pub fn ensure_absent(path: &Path) -> Result<Changed> {
    failpoint::reach();
    match fs::remove_file(path) {
        Ok(()) => {
            failpoint::reach();
            sync_folder_of(path).map(|()| Changed::Yes)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Changed::No),
        Err(e) => Err(e.into()),
    }
}

/// Makes a rename in the folder of `path` survive a power cut.
///
/// # Errors
/// A folder that cannot be opened or synced.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?
        .sync_all()
        .with_context(|| format!("failed to sync {}", folder.display()))
}

/// A name in the same folder (so that rename cannot cross file systems), unique to this process.
pub fn temp_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_ensure_changes_nothing_and_a_mode_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(ensure_file(&path, b"x", 0o600).unwrap(), Changed::Yes);
        assert_eq!(ensure_file(&path, b"x", 0o600).unwrap(), Changed::No);
        assert_eq!(ensure_file(&path, b"x", 0o644).unwrap(), Changed::Yes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(ensure_absent(&path).unwrap(), Changed::Yes);
        assert_eq!(ensure_absent(&path).unwrap(), Changed::No);
    }

    #[test]
    fn what_a_power_cut_left_goes_with_the_next_write_and_a_living_writers_stays() {
        let dir = tempfile::tempdir().unwrap();
        let beside = |pid: u32| dir.path().join(format!(".b.{pid}.tmp"));
        // Process ids end at 2^22; 1 is not this test.
        for pid in [u32::MAX, 1, std::process::id()] {
            fs::write(beside(pid), "half").unwrap();
        }
        fs::write(dir.path().join(".bb.1.tmp"), "another file's").unwrap();
        write_atomic(&dir.path().join("b"), b"x", 0o600).unwrap();
        assert!(!beside(u32::MAX).exists() && !beside(1).exists());
        assert!(dir.path().join(".bb.1.tmp").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        fs::create_dir(&path).unwrap(); // a folder in the way makes the rename fail
        assert!(write_atomic(&path, b"x", 0o644).is_err());
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["target"]);
    }
}
