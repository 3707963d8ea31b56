//! Copying a snapshot so that no half one is ever seen, and telling a whole one from any other.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::values::Digest;
use node::{failpoint, files};
use sha2::{Digest as _, Sha256};

/// Bytes of the raw SHA-256 that etcd appends to a snapshot.
const TRAILER: u64 = 32;
/// A bbolt file is a multiple of this; etcdutl makes the same test (`snapshot restore`).
const PAGE: u64 = 512;
/// Bytes moved at once.
const PIECE: usize = 1 << 20;

/// Checks that `path` is a whole snapshot and returns its size and SHA-256.
///
/// # Errors
/// It cannot be read, or is cut or changed.
pub fn inspect(path: &Path) -> Result<(u64, Digest)> {
    let mut source = fs::File::open(path)?;
    // Else what was just written comes back out of this machine's memory, whatever the server has.
    // A file system that takes no advice reads all the same.
    let _ = rustix::fs::fadvise(source.file(), 0, None, rustix::fs::Advice::DontNeed);
    pour(source.file_mut(), &mut std::io::sink()).with_context(|| path.display().to_string())
}

/// Copies the snapshot `from` to `to` (temp, fsync, rename) and returns its size and SHA-256.
///
/// # Errors
/// `from` is no whole snapshot, or a file cannot be read or written; `to` is then as it was.
pub fn snapshot(from: &Path, to: &Path) -> Result<(u64, Digest)> {
    let temp = files::temp_beside(to);
    let result = copy_synced(from, &temp).and_then(|poured| {
        failpoint::reach();
        fs::rename(&temp, to)?;
        failpoint::reach();
        files::sync_folder_of(to)?;
        Ok(poured)
    });
    if result.is_err() {
        let _ = fs::remove_file(&temp); // the copy's error is the one to tell
    }
    result
}

fn copy_synced(from: &Path, temp: &Path) -> Result<(u64, Digest)> {
    use fs::os::unix::fs::OpenOptionsExt as _;
    let mut source = fs::File::open(from)?;
    let mut target = fs::OpenOptions::new();
    let mut target = target.write(true).create(true).truncate(true).mode(0o600).open(temp)?;
    let poured =
        pour(source.file_mut(), &mut target).with_context(|| from.display().to_string())?;
    target.sync_all()?;
    Ok(poured)
}

/// Copies to the end; the last 32 bytes must be the SHA-256 of all before them.
fn pour(source: &mut File, target: &mut impl Write) -> Result<(u64, Digest)> {
    let size = source.metadata()?.len();
    ensure!(size > TRAILER && size % PAGE == TRAILER, "{size} bytes is no length of a snapshot");
    let (mut whole, mut body) = (Sha256::new(), Sha256::new());
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    let mut trailer = Vec::with_capacity(TRAILER as usize);
    loop {
        let n = source.read(&mut piece)?;
        if n == 0 {
            break;
        }
        let bytes = &piece[..n];
        let split = (size - TRAILER).saturating_sub(at).min(n as u64) as usize;
        body.update(&bytes[..split]);
        trailer.extend_from_slice(&bytes[split..]);
        whole.update(bytes);
        target.write_all(bytes)?;
        at += n as u64;
    }
    ensure!(at == size, "it changed while it was read");
    let sum: [u8; 32] = body.finalize().into();
    ensure!(trailer == sum, "its bytes do not have the checksum that etcd appended");
    Ok((size, Digest::from_bytes(whole.finalize().into())))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Bytes that pass for a snapshot.
    pub fn whole(fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; 1024];
        let sum: [u8; 32] = Sha256::digest(&bytes).into();
        bytes.extend(sum);
        bytes
    }

    #[test]
    fn a_whole_one_is_copied_and_every_cut_or_changed_one_refused_without_litter() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let good = whole(7);
        fs::write(&from, &good).unwrap();
        let found = snapshot(&from, &to).unwrap();
        assert_eq!(found, (good.len() as u64, Digest::of(&good)));
        assert_eq!((fs::read(&to).unwrap(), inspect(&to).unwrap()), (good.clone(), found));
        fs::remove_file(&to).unwrap();
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&from, &bad).unwrap();
            assert!(snapshot(&from, &to).is_err(), "byte {at}");
            fs::write(&from, &good[..at]).unwrap();
            assert!(snapshot(&from, &to).is_err(), "cut at {at}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
