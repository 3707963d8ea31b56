//! The state folder: journals, rollouts and bad images, one JSON file each, never half there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::fcntl::{Flock, FlockArg};

/// A folder of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drawer {
    /// Operations on one node.
    Journal,
    /// Rollouts.
    Rollout,
    /// Images that proved bad.
    Quarantine,
}

impl Drawer {
    /// Name of the folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Rollout => "rollout",
            Self::Quarantine => "quarantine",
        }
    }
}

/// Where files are kept. A file is whole or not there, through any power cut.
pub trait Shelf {
    /// Puts a file in place of what was there.
    ///
    /// # Errors
    /// It could not be written; the old one then still stands.
    fn put(&self, drawer: Drawer, name: &str, content: &[u8]) -> Result<()>;
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    fn get(&self, drawer: Drawer, name: &str) -> Result<Option<Vec<u8>>>;
    /// Names in a drawer, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn names(&self, drawer: Drawer) -> Result<Vec<String>>;
}

/// The folder on disk, held by one builder at a time.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The kernel drops it with the process, however that ends.
    owner: Option<Flock<std::fs::File>>,
}

impl Folder {
    /// To change things: nobody else may meanwhile.
    ///
    /// # Errors
    /// Another builder is at work, or the folder cannot be made.
    pub fn own(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        let path = root.join(".lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let owner = match Flock::lock(file.into_parts().0, FlockArg::LockExclusiveNonblock) {
            Ok(owner) => owner,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another builder works on the nodes of this cluster: it holds {}; wait for it to end",
                path.display()
            ),
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("failed to lock {}", path.display()));
            }
        };
        for drawer in [Drawer::Journal, Drawer::Rollout, Drawer::Quarantine] {
            let folder = root.join(drawer.folder());
            fs::create_dir_all(&folder)?;
            node::files::sweep(&folder);
        }
        Ok(Self { root: root.to_owned(), owner: Some(owner) })
    }

    /// To read only, also while another builder works.
    pub fn read_only(root: &Path) -> Self {
        Self { root: root.to_owned(), owner: None }
    }

    fn path(&self, drawer: Drawer, name: &str) -> PathBuf {
        self.root.join(drawer.folder()).join(format!("{name}.json"))
    }
}

impl Shelf for Folder {
    fn put(&self, drawer: Drawer, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path(drawer, name);
        if self.owner.is_none() {
            bail!("{} was opened to be read only", path.display());
        }
        node::files::write_atomic(&path, content, 0o644)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    fn get(&self, drawer: Drawer, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(drawer, name)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn names(&self, drawer: Drawer) -> Result<Vec<String>> {
        let folder = self.root.join(drawer.folder());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Files that are being written begin with a dot.
            let bare = name.strip_suffix(".json").filter(|name| !name.starts_with('.'));
            names.extend(bare.map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }
}

/// In memory, for simulations of thousands of operations.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Files>);

type Files = BTreeMap<(Drawer, String), Vec<u8>>;

impl Memory {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf for Memory {
    fn put(&self, drawer: Drawer, name: &str, content: &[u8]) -> Result<()> {
        self.files().insert((drawer, name.to_owned()), content.to_owned());
        Ok(())
    }

    fn get(&self, drawer: Drawer, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.files().get(&(drawer, name.to_owned())).cloned())
    }

    fn names(&self, drawer: Drawer) -> Result<Vec<String>> {
        let all = self.files();
        Ok(all.keys().filter(|(d, _)| *d == drawer).map(|(_, name)| name.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_readers_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::own(dir.path()).unwrap();
        first.put(Drawer::Journal, "b", b"{}").unwrap();
        first.put(Drawer::Journal, "a", b"{}").unwrap();
        let text = Folder::own(dir.path()).unwrap_err().to_string();
        assert!(text.starts_with("another builder works on the nodes"), "{text}");
        let reader = Folder::read_only(dir.path());
        assert_eq!(reader.names(Drawer::Journal).unwrap(), ["a", "b"]);
        assert_eq!(reader.get(Drawer::Journal, "c").unwrap(), None);
        assert!(reader.put(Drawer::Journal, "c", b"{}").is_err());
        drop(first);
        Folder::own(dir.path()).unwrap();
    }

    #[test]
    fn what_a_killed_writer_left_is_no_journal_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        drop(Folder::own(dir.path()).unwrap());
        let litter = dir.path().join("journal/.x.json.4294967295.tmp");
        fs::write(&litter, "{").unwrap();
        assert!(Folder::read_only(dir.path()).names(Drawer::Journal).unwrap().is_empty());
        drop(Folder::own(dir.path()).unwrap());
        assert!(!litter.exists());
    }
}
