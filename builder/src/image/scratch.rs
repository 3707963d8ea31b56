//! The folder that mmdebstrap works in: in memory where there is room, and gone with this process,
//! however that ends.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::os::unix::process::CommandExt as _;

use crate::store::remove_tree;

const PREFIX: &str = "node-image-builder.";
/// Free bytes of memory-backed scratch space that must be left beside what is asked for; under it
/// the disk is used instead.
const SPARE: u64 = 1 << 30;
/// Waits for the end of its standard input, which this process holds, then removes the folder: for
/// ten seconds, as an mmdebstrap that was told to stop may still be writing there. Files of its
/// mapped users can only be removed as those.
const JANITOR: &str = r#"read -r never
for i in 0 1 2 3 4 5 6 7 8 9; do
  rm -rf -- "$0" && exit
  unshare --user --map-auto --map-root-user rm -rf -- "$0" && exit
  sleep 1
done"#;

/// A folder that mmdebstrap's mapped users can reach too, so not below the cache in a private
/// home. Named by process, so that a later build can remove what a power cut left.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// Makes it, for content of about `need` bytes, and removes what dead builders left beside it.
    ///
    /// # Errors
    /// The folder cannot be made, or no program could run in it.
    pub fn new(need: u64) -> Result<Self> {
        let parent = parent(need);
        ensure!(
            runs_programs(&parent),
            "the scratch folder {} is mounted noexec, but the programs of the image run there; set \
             TMPDIR to a folder where programs may run",
            parent.display()
        );
        sweep(&parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        // A process group of its own: Ctrl-C reaches all of ours.
        let mut janitor = Command::new("sh");
        janitor.args(["-c", JANITOR]).arg(&path).current_dir("/").process_group(0);
        janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let janitor = janitor.spawn().context("failed to start `sh`")?;
        let this = Self { path, janitor };
        match fs::create_dir(&this.path) {
            // Another container's process has our number, or had it.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => remove_tree(&this.path)?,
            other => return other.map(|()| this).map_err(Into::into),
        }
        fs::create_dir(&this.path)?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait(); // litter at worst: the next build sweeps it
    }
}

fn parent(need: u64) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = free_bytes(memory).min(available_memory());
    match std::env::var_os("TMPDIR") {
        Some(chosen) => PathBuf::from(chosen),
        None if free > need + SPARE && runs_programs(memory) => memory.to_owned(),
        None => std::env::temp_dir(),
    }
}

fn free_bytes(folder: &Path) -> u64 {
    statvfs(folder).map_or(0, |s| s.blocks_available() * s.fragment_size())
}

/// Whether the folder's mount lets programs run: hardened hosts have /dev/shm and /tmp without.
fn runs_programs(folder: &Path) -> bool {
    statvfs(folder).map_or(true, |s| !s.flags().contains(FsFlags::ST_NOEXEC))
}

/// Bytes that programs can have without swapping: a tmpfs may be larger than that.
fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy().strip_prefix(PREFIX).and_then(|p| p.parse::<i32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = remove_tree(&entry.path()); // another user's litter is not ours to remove
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_there_while_held_and_gone_after() {
        let scratch = Scratch::new(1 << 20).unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("f"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn what_does_not_fit_the_memory_goes_to_the_disk() {
        assert!(available_memory() > 0);
        if std::env::var_os("TMPDIR").is_none() {
            assert_eq!(parent(u64::MAX / 2), std::env::temp_dir());
        }
    }

    #[test]
    fn what_a_dead_process_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        // Process ids end at 2^22.
        let dead = dir.path().join(format!("{PREFIX}{}", i32::MAX));
        let alive = dir.path().join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(dead.join("pool")).unwrap();
        fs::create_dir(&alive).unwrap();
        sweep(dir.path());
        assert!(!dead.exists() && alive.exists());
    }
}
