//! Outputs of build stages: there only when complete, and made once however many builders run.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use node::files::sync_folder_of;
use node::values::Digest;
use serde::{Deserialize, Serialize};

use super::{Store, TempDir, lock_file};
use crate::ui::Ui;

/// The right to make one stage output; given back on drop.
#[derive(Debug)]
pub struct StageLock {
    _file: Flock<std::fs::File>,
}

/// What `meta.json` of a stage output says, for people and for "why did this run again".
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    pub stage: String,
    pub key: Digest,
    pub made: jiff::Timestamp,
    pub inputs: Vec<(String, String)>,
}

impl Store {
    /// Where the output of stage `name` for `key` lies, or would lie.
    pub fn stage(&self, name: &str, key: &Digest) -> PathBuf {
        self.root().join("stages").join(name).join(key.to_string())
    }

    /// Waits for the sole right to make this output. Look whether [`Store::stage`] exists only
    /// after it: another builder may just have made it.
    pub fn stage_lock(&self, name: &str, key: &Digest, ui: &Ui) -> Result<StageLock> {
        let path = self.root().join("locks").join(format!("{name}-{key}"));
        if let Some(file) = held(&path, FlockArg::LockExclusiveNonblock)? {
            return Ok(StageLock { _file: file });
        }
        ui.line(format!("{name}: another builder is making this; waiting for it"));
        loop {
            if let Some(file) = held(&path, FlockArg::LockExclusive)? {
                return Ok(StageLock { _file: file });
            }
        }
    }

    /// Makes `temp` the output of stage `name` for `key`: synced, then renamed. `inputs` are
    /// names and digests of what went in; they are written to its `meta.json`.
    pub fn commit_stage(
        &self,
        name: &str,
        key: &Digest,
        temp: TempDir,
        inputs: &[(String, String)],
    ) -> Result<PathBuf> {
        let made = jiff::Timestamp::now();
        let meta = Meta { stage: name.to_owned(), key: *key, made, inputs: inputs.to_vec() };
        fs::write(temp.path().join("meta.json"), serde_json::to_vec_pretty(&meta)?)?;
        sync_tree(temp.path())?;
        let target = self.stage(name, key);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::rename(temp.path(), &target) {
            Ok(()) => sync_folder_of(&target)?,
            // Somebody without the lock was faster. Equal keys mean equal outputs: take theirs.
            Err(_) if target.is_dir() => {}
            Err(e) => return Err(e).context(format!("failed to store the output of {name}")),
        }
        drop(temp);
        Ok(target)
    }
}

/// Locks the file at `path`; `None` when another holds it, or removed it while we waited.
fn held(path: &Path, how: FlockArg) -> Result<Option<Flock<std::fs::File>>> {
    let file = match lock_file(path, how) {
        Ok(file) => file,
        Err(e) if e.downcast_ref::<Errno>() == Some(&Errno::EWOULDBLOCK) => return Ok(None),
        Err(e) => return Err(e),
    };
    let same = fs::metadata(path).is_ok_and(|at| {
        file.metadata().is_ok_and(|ours| (at.dev(), at.ino()) == (ours.dev(), ours.ino()))
    });
    Ok(same.then_some(file))
}

/// Syncs every file and folder below `folder`, so that its rename never shows half of it.
///
/// # Errors
/// One cannot be opened or synced.
pub fn sync_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            fs::File::open(entry.path())?.sync_all()?;
        } else if !kind.is_symlink() {
            bail!("{} is neither file, folder nor link", entry.path().display());
        }
    }
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn make(store: &Store, key: &Digest, runs: &AtomicUsize) -> PathBuf {
        let _lock = store.stage_lock("base", key, &Ui::new(true)).unwrap();
        let output = store.stage("base", key);
        if output.is_dir() {
            return output;
        }
        runs.fetch_add(1, Ordering::SeqCst);
        let temp = store.temp_dir("base").unwrap();
        fs::create_dir(temp.path().join("sub")).unwrap();
        fs::write(temp.path().join("sub/root.tar"), "bytes").unwrap();
        store.commit_stage("base", key, temp, &[("lock".into(), "abc".into())]).unwrap()
    }

    #[test]
    fn two_builders_make_an_output_once() {
        let dir = tempfile::tempdir().unwrap();
        let key = Digest::of("key");
        let runs = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                // A store each: locks of one open file would not exclude each other.
                scope.spawn(|| make(&Store::open(Some(dir.path())).unwrap(), &key, &runs));
            }
        });
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        let store = Store::open(Some(dir.path())).unwrap();
        let output = store.stage("base", &key);
        assert_eq!(fs::read_to_string(output.join("sub/root.tar")).unwrap(), "bytes");
        let meta = fs::read_to_string(output.join("meta.json")).unwrap();
        let meta: Meta = serde_json::from_str(&meta).unwrap();
        assert_eq!((meta.key, meta.inputs[0].0.as_str()), (key, "lock"));
    }

    #[test]
    fn the_second_commit_of_a_key_takes_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let key = Digest::of("key");
        for content in ["first", "second"] {
            let temp = store.temp_dir("x").unwrap();
            fs::write(temp.path().join("f"), content).unwrap();
            let output = store.commit_stage("x", &key, temp, &[]).unwrap();
            assert_eq!(fs::read_to_string(output.join("f")).unwrap(), "first");
        }
        let left = fs::read_dir(dir.path().join("tmp")).unwrap().count();
        assert_eq!(left, 1, "only .lock");
    }
}
