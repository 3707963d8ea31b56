//! The last stage: everything laid out on one disk, and that disk written out as qcow2 in one pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::values::{Digest, Size};
use uuid::Uuid;

use super::base;
use super::loader::ESP_BYTES;
use super::tarball::{Content, Entry, Tarball};
use crate::disk::content::{self, Data};
use crate::disk::gpt::{self, DiskIds};
use crate::disk::tree::{Kind, Meta, Node, Tree};
use crate::disk::{archive, ext4, grub, qcow2};

/// Room for inode tables, journal and bitmaps beside the content, and a margin to boot with before
/// the disk has grown: a fifth of the content and 192 MiB.
const MARGIN: u64 = 192 << 20;
/// The disk's size is a multiple of this, so that small changes of content leave it alone.
const STEP: u64 = 256 << 20;

/// Between two early syncs of the file being written.
const SYNC_PAUSE: Duration = Duration::from_millis(100);

/// Everything that goes onto the disk.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Stage output with the base's tar.
    pub base: &'a Path,
    /// What the base says of itself.
    pub facts: &'a base::Facts,
    /// K3s and what else is large.
    pub payload: &'a Tarball,
    /// The overlay.
    pub overlay: &'a Tarball,
    /// Stage output with the boot loader's files.
    pub loader: &'a Path,
    /// Key of the image: all ids come from it.
    pub key: &'a Digest,
    /// Time stamp of every file, in seconds since 1970.
    pub epoch: i64,
}

/// A finished disk.
#[derive(Debug)]
pub struct Disk {
    /// Digests and size of the qcow2 file.
    pub written: qcow2::Written,
    /// Bytes the guest sees.
    pub virtual_bytes: u64,
    /// Bytes all files take, in blocks of 4 KiB.
    pub content_bytes: u64,
}

/// An id that `key` gives for `purpose`: UUID version 5, so equal keys give equal disks.
pub fn id(key: &Digest, purpose: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{key} {purpose}").as_bytes())
}

/// Bytes the files of `tarball` take on disk, in blocks of 4 KiB.
///
/// # Errors
/// A file cannot be looked at.
pub fn content_bytes(tarball: &Tarball) -> Result<u64> {
    let size = |entry: &Entry| -> Result<u64> {
        Ok(match entry {
            Entry::File(Content::Bytes(bytes), _) => bytes.len() as u64,
            Entry::File(Content::File(path), _) => fs::metadata(path)?.len(),
            Entry::Link(_) | Entry::Folder(_) => 0,
        }
        .next_multiple_of(4096))
    };
    tarball.entries().values().map(size).sum()
}

/// Makes `image.qcow2` in `dest`.
///
/// # Errors
/// The content does not fit a disk of `limit`, or a file cannot be read or written.
pub fn make(parts: &Parts, limit: Size, dest: &Path) -> Result<Disk> {
    let own = content_bytes(parts.payload)? + content_bytes(parts.overlay)?;
    let content = parts.facts.bytes + own;
    let root = (content + content / 5 + MARGIN).next_multiple_of(STEP);
    let size = gpt::disk_size(ESP_BYTES, root);
    ensure!(
        size <= limit.bytes(),
        "the image needs a disk of {}, but the profile gives its VMs {limit}; raise `vm.disk`",
        Size::from_bytes(size.next_multiple_of(STEP))
    );
    let disk = lay_out(parts, size)?;
    let mut out = fs::File::create(dest.join("image.qcow2"))?;
    let early = out.try_clone()?;
    let written = syncing(early.file(), || qcow2::write(&disk, size, &mut out))?;
    out.sync_all()?;
    Ok(Disk { written, virtual_bytes: size, content_bytes: content })
}

/// Runs `work` while what it writes to `file` goes to the disk already, so that little is left to
/// wait for at its end.
fn syncing<T>(file: &std::fs::File, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (done, is_done) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while is_done.recv_timeout(SYNC_PAUSE) == Err(RecvTimeoutError::Timeout) {
                let _ = file.sync_data(); // the last sync, which must succeed, is the caller's
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn lay_out(parts: &Parts, size: u64) -> Result<content::Content> {
    let read = |name: &str| fs::read(parts.loader.join(name));
    let (boot, core) = grub::embed(&read("boot.img")?, &read("core.img")?)?;
    let ids = DiskIds {
        disk: id(parts.key, "disk"),
        partitions: ["bios", "esp", "root"].map(|name| id(parts.key, name)),
    };
    let mut disk = content::Content::default();
    let root = gpt::put(&mut disk, size, ESP_BYTES, &ids, &boot)?;
    disk.put(gpt::CORE_LBA * gpt::SECTOR, core)?;
    disk.put_sparse(gpt::ESP_LBA * gpt::SECTOR, &read("esp.img")?)?;
    let ids = ext4::Ext4Ids {
        uuid: root_uuid(parts.key),
        hash_seed: id(parts.key, "hash seed"),
        epoch: parts.epoch,
    };
    ext4::put(&mut disk, root.offset, root.length, &tree(parts)?, &ids)?;
    Ok(disk)
}

/// UUID of the root file system of the image with this key.
pub fn root_uuid(key: &Digest) -> Uuid {
    id(key, "root file system")
}

/// All files: the base, over it the payload, over that the overlay.
fn tree(parts: &Parts) -> Result<Tree> {
    let mut tree = Tree::new(parts.epoch);
    archive::add(&mut tree, &parts.base.join(base::TAR))?;
    for (path, entry) in parts.payload.entries().iter().chain(parts.overlay.entries()) {
        let node = node(entry, parts.epoch)?;
        tree.add(path.as_bytes(), node).context("failed to add to the base")?;
    }
    Ok(tree)
}

fn node(entry: &Entry, epoch: i64) -> Result<Node> {
    let (mode, kind) = match entry {
        Entry::File(content, mode) => (*mode, Kind::File(data(content)?)),
        Entry::Link(target) => (0o777, Kind::Symlink(target.clone().into_bytes())),
        Entry::Folder(mode) => (*mode, Kind::Folder(BTreeMap::new())),
    };
    Ok(Node { meta: Meta::of_root((mode & 0o7777) as u16, epoch), kind })
}

fn data(content: &Content) -> Result<Data> {
    Ok(match content {
        Content::Bytes(bytes) => bytes.clone().into(),
        Content::File(path) => {
            let length = fs::metadata(path)?.len();
            Data::File { path: path.as_path().into(), offset: 0, length }
        }
    })
}
