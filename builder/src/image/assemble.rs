//! The last stage: everything streamed into one ext4 file system on one disk, and that disk
//! written out as qcow2.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::values::{Digest, Size};
use std::os::unix::fs::FileExt;
use uuid::Uuid;

use super::base;
use super::loader::ESP_BYTES;
use super::tarball::{Content, Entry, Tarball};
use super::tools::Tools;
use crate::disk::gpt::{self, DiskIds};
use crate::disk::{ext4, grub, qcow2, tarcat};

/// Room for inode tables, journal and bitmaps beside the content, and a margin to boot with before
/// the disk has grown: a fifth of the content and 192 MiB.
const MARGIN: u64 = 192 << 20;
/// The disk's size is a multiple of this, so that small changes of content leave it alone.
const STEP: u64 = 256 << 20;

/// Everything that goes onto the disk.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The tools tree.
    pub tools: &'a Tools,
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

/// Makes `image.qcow2` in `dest`, with the raw disk beside it only for the while.
///
/// # Errors
/// The content does not fit a disk of `limit`, or a program or write fails.
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
    let path = dest.join("disk.raw");
    make_raw(parts, &path, size)?;
    let raw = fs::File::open(&path)?;
    let mut out = fs::File::create(dest.join("image.qcow2"))?;
    let written = qcow2::write(raw.file(), size, out.file_mut())?;
    out.sync_all()?;
    fs::remove_file(&path)?;
    Ok(Disk { written, virtual_bytes: size, content_bytes: content })
}

fn make_raw(parts: &Parts, path: &Path, size: u64) -> Result<()> {
    let disk = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    disk.set_len(size)?;
    let read = |name: &str| fs::read(parts.loader.join(name));
    let (boot, core) = grub::embed(&read("boot.img")?, &read("core.img")?)?;
    let ids = DiskIds {
        disk: id(parts.key, "disk"),
        partitions: ["bios", "esp", "root"].map(|name| id(parts.key, name)),
    };
    let root = gpt::write(disk.file(), size, ESP_BYTES, &ids, &boot)?;
    let put = |data: &[u8], lba| disk.file().write_all_at(data, lba * gpt::SECTOR);
    put(&core, gpt::CORE_LBA).context("failed to write GRUB's core image")?;
    put(&read("esp.img")?, gpt::ESP_LBA).context("failed to write the EFI system partition")?;

    let conf = path.with_file_name("mke2fs.conf");
    fs::write(&conf, ext4::MKE2FS_CONF)?;
    let ids = ext4::Ext4Ids {
        uuid: root_uuid(parts.key),
        hash_seed: id(parts.key, "hash seed"),
        epoch: parts.epoch,
    };
    let mke2fs = parts.tools.command("usr/sbin/mke2fs");
    ext4::make(mke2fs, &conf, path, root, &ids, |out| feed(parts, out))?;
    fs::remove_file(&conf)?;
    Ok(())
}

/// UUID of the root file system of the image with this key.
pub fn root_uuid(key: &Digest) -> Uuid {
    id(key, "root file system")
}

fn feed(parts: &Parts, mut out: &mut dyn Write) -> Result<()> {
    tarcat::append(&parts.base.join(base::TAR), &mut out)?;
    let mut rest = parts.payload.clone();
    for (path, entry) in parts.overlay.entries() {
        rest.add(path, entry.clone())?;
    }
    let buffered = std::io::BufWriter::with_capacity(1 << 20, out);
    rest.write(buffered, parts.epoch, &parts.facts.folders)
}
