//! The cache folder: where downloads and stage outputs lie, named by content.
//!
//! ```text
//! sha256/ab/abcd…          downloaded and added files, read-only, named by their digest
//! stages/<stage>/<key>/    outputs of build stages; there only when complete, with meta.json
//! images/<image-id>.json   what the last build of an image used, for garbage collection
//! tmp/                     work in progress; swept at the next start when its owner is gone
//! locks/                   one lock file per stage key
//! use.lock                 held shared by every running builder, exclusively by gc
//! ```
//! Whatever has a final name is whole: it is written under `tmp/`, synced and renamed. A full
//! disk, Ctrl-C or `kill -9` therefore leave litter in `tmp/` only.

mod gc;
mod stage;
mod temp;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use fs_err as fs;
use nix::fcntl::{Flock, FlockArg};
use node::files::sync_folder_of;
use node::values::Digest;
use sha2::Digest as _;

pub use gc::{Entry, GcReport, Kind, Listing};
pub use stage::{StageLock, sync_tree};
pub use temp::{TempDir, remove_tree};

/// Overrides the place of the cache, for tests and for caches on another disk.
pub const CACHE_VARIABLE: &str = "BUILDER_CACHE";

/// Large enough that system calls cost nothing beside SHA-256, small beside our memory budget.
const COPY_BUFFER: usize = 256 * 1024;

/// The cache; cheap to clone and share between threads.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<PathBuf>,
    /// Held as long as any clone lives, so that no other process collects garbage meanwhile.
    in_use: Arc<Flock<std::fs::File>>,
}

impl Store {
    /// Opens the cache at `root`, else at `$BUILDER_CACHE`, else in the user's cache folder;
    /// makes its folders and sweeps what dead builders left.
    pub fn open(root: Option<&Path>) -> Result<Self> {
        let root = match root {
            Some(path) => std::path::absolute(path)?,
            None => default_root()?,
        };
        for folder in ["sha256", "stages", "images", "tmp", "locks"] {
            fs::create_dir_all(root.join(folder))
                .context("failed to make the cache folder; BUILDER_CACHE names another place")?;
        }
        let in_use = lock_file(&root.join("use.lock"), FlockArg::LockShared)?;
        temp::sweep(&root.join("tmp"))?;
        Ok(Self { root: Arc::new(root), in_use: Arc::new(in_use) })
    }

    /// The folder everything lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file with this digest lies, or would lie.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("sha256").join(&name[..2]).join(name)
    }

    /// Whether the file with this digest is here. It was checked when it came in.
    pub fn has(&self, digest: &Digest) -> bool {
        self.object(digest).is_file()
    }

    /// As [`Store::has`], for a file of `size` bytes, where that is known. One that was cut short
    /// later, by a full or failing disk, is removed.
    pub fn has_whole(&self, digest: &Digest, size: Option<u64>) -> bool {
        let path = self.object(digest);
        let Ok(meta) = fs::metadata(&path) else { return false };
        if size.is_none_or(|size| size == meta.len()) {
            return meta.is_file();
        }
        // Where it cannot be removed, it is replaced.
        let _ = fs::remove_file(&path);
        false
    }

    /// Copies `path` in; returns its digest and its size in bytes.
    pub fn add_file(&self, path: &Path) -> Result<(Digest, u64)> {
        let mut from = fs::File::open(path)?;
        // In a folder that is ours: a lone file would be litter to the sweep of another builder.
        let work = self.temp_dir("add")?;
        let temp = work.path().join("file");
        let mut to = fs::File::create(&temp)?;
        let (digest, size) = copy_hashed(&mut from, &mut to)
            .with_context(|| format!("failed to copy {} into the cache", path.display()))?;
        if !self.has(&digest) {
            to.sync_all()?;
            self.adopt(&temp, &digest)?;
        }
        Ok((digest, size))
    }

    /// Gives a complete, synced file under `tmp/` its final name.
    pub(crate) fn adopt(&self, temp: &Path, digest: &Digest) -> Result<PathBuf> {
        let object = self.object(digest);
        if let Some(folder) = object.parent() {
            fs::create_dir_all(folder)?;
        }
        // Objects are shared by hard links with the pools, so nobody may write to them.
        fs::set_permissions(temp, std::fs::Permissions::from_mode(0o444))?;
        fs::rename(temp, &object)?;
        sync_folder_of(&object)?;
        Ok(object)
    }

    /// A folder for work in progress, removed on drop (or at the next start, after a kill).
    pub fn temp_dir(&self, hint: &str) -> Result<TempDir> {
        TempDir::new(&self.root.join("tmp"), hint)
    }

    /// The unfinished download of `digest`; kept between runs so that it can be resumed.
    pub(crate) fn part(&self, digest: &Digest) -> PathBuf {
        self.root.join("tmp").join(format!("{digest}.part"))
    }
}

fn default_root() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(root) = set(CACHE_VARIABLE) {
        return Ok(std::path::absolute(root)?);
    }
    // The XDG rules: a relative value counts as not set.
    let cache = set("XDG_CACHE_HOME").filter(|p| p.is_absolute());
    let cache = cache.or_else(|| set("HOME").map(|home| home.join(".cache")));
    let cache = cache.context("neither HOME nor XDG_CACHE_HOME is set; set BUILDER_CACHE")?;
    Ok(cache.join("node-image-builder"))
}

/// Copies all of `from` to `to`, hashing on the way.
pub(crate) fn copy_hashed(from: &mut impl Read, to: &mut impl Write) -> Result<(Digest, u64)> {
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0; COPY_BUFFER];
    let mut size = 0;
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok((Digest::from_bytes(hash.finalize().into()), size));
        }
        hash.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        size += n as u64;
    }
}

/// SHA-256 and size of a file.
pub fn hash_file(path: &Path) -> Result<(Digest, u64)> {
    copy_hashed(&mut fs::File::open(path)?, &mut std::io::sink())
        .with_context(|| format!("failed to read {}", path.display()))
}

/// Opens (or makes) the lock file at `path` and locks it, waiting if `how` waits.
pub(crate) fn lock_file(path: &Path, how: FlockArg) -> Result<Flock<std::fs::File>> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    Flock::lock(file.into_parts().0, how)
        .map_err(|(_, errno)| anyhow!(errno).context(format!("failed to lock {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_added_file_lies_under_its_digest_and_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "content").unwrap();
        let (digest, size) = store.add_file(&file).unwrap();
        assert_eq!((digest, size), (Digest::of("content"), 7));
        let object = store.object(&digest);
        assert_eq!(fs::read_to_string(&object).unwrap(), "content");
        assert_eq!(fs::metadata(&object).unwrap().permissions().mode() & 0o777, 0o444);
        // A second time changes nothing and leaves no litter.
        store.add_file(&file).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 1, "only .lock");
    }

    #[test]
    fn a_cache_that_cannot_be_made_says_what_to_set() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let text = format!("{:#}", Store::open(Some(&file)).unwrap_err());
        assert!(text.contains("BUILDER_CACHE names another place"), "{text}");
    }
}
