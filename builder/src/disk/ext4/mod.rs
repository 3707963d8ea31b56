//! The root file system: ext4, laid out whole before a byte of it is written, so that it streams
//! straight onto the disk. No root, no mount, no other program, the same bytes on every host.
//!
//! The format is that of the Linux kernel's `Documentation/filesystems/ext4/` (named "kernel docs"
//! below), with the features Debian's `mke2fs` gives an ext4 but for two that older e2fsprogs and
//! GRUB could not read (`metadata_csum_seed`, `orphan_file`). Order on the disk:
//!
//! ```text
//! group 0    superblock, descriptors, room for more descriptors (resize), then for 16 groups
//!            together: block bitmaps, inode bitmaps, inode tables (flex_bg)
//! then       the resize inode's map, folders, the journal (all zeros but its first block), files
//! groups 1,  copies of superblock and descriptors at their start (sparse_super)
//! 3, 5, 7, …
//! ```
//! Numbers and places follow from the tree alone: inodes and blocks are given out in the order of
//! the paths, one after the other, and each file lies in one run where no copy is in its way.

mod bytes;
mod checksum;
mod directory;
mod extent;
mod geometry;
mod group;
mod inode;
mod journal;
mod place;
mod resize;
#[cfg(test)]
mod seen;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

use anyhow::{Context, Result};
use uuid::Uuid;

use super::content::Content;
use super::tree::{Kind, Tree};
use checksum::Seed;
pub use geometry::{BLOCK, GROUP_BYTES};
use geometry::{Geometry, TABLE_BLOCKS, first_block};
use place::{JOURNAL, Placed};

/// Label of the root file system; the kernel finds it by UUID, GRUB by this.
pub const LABEL: &str = "node-root";

/// What makes two file systems of the same content equal byte for byte.
#[derive(Debug, Clone, Copy)]
pub struct Ext4Ids {
    /// UUID of the file system.
    pub uuid: Uuid,
    /// Seed of the directory hashes.
    pub hash_seed: Uuid,
    /// Seconds since 1970 for every time stamp that is not a file's own.
    pub epoch: i64,
}

/// A file system being laid out.
struct Layout<'a> {
    tree: &'a Tree,
    ids: &'a Ext4Ids,
    geometry: Geometry,
    seed: Seed,
    placed: Placed,
    /// Where the file system starts on the disk, in bytes.
    offset: u64,
}

/// Puts a file system with the files of `tree` on `disk`: `length` bytes (a multiple of
/// [`GROUP_BYTES`]) from `offset`.
///
/// # Errors
/// The tree does not fit, or holds what ext4 cannot (the file is named).
pub fn put(disk: &mut Content, offset: u64, length: u64, tree: &Tree, ids: &Ext4Ids) -> Result<()> {
    let geometry = Geometry::new(length)?;
    let placed = place::place(tree, &geometry).context("failed to lay out the root file system")?;
    let seed = Seed::of(&ids.uuid);
    let layout = Layout { tree, ids, geometry, seed, placed, offset };
    layout.groups(disk)?;
    layout.tables(disk)?;
    layout.files(disk)?;
    layout.put(disk, layout.placed.resize_map, &resize::map(&layout.geometry))?;
    let first = layout.placed.runs(JOURNAL)[0].start;
    layout.put(disk, first, &journal::superblock(&ids.uuid))
}

impl Layout<'_> {
    fn put(&self, disk: &mut Content, block: u64, bytes: &[u8]) -> Result<()> {
        disk.put_sparse(self.offset + block * BLOCK, bytes)
    }

    /// Superblock, descriptors, bitmaps, and what is kept of them elsewhere.
    fn groups(&self, disk: &mut Content) -> Result<()> {
        let groups = group::all(&self.geometry, &self.placed);
        for group in &groups {
            let number = group.number;
            self.put(disk, self.geometry.block_bitmap(number), &group.block_bitmap)?;
            self.put(disk, self.geometry.inode_bitmap(number), &group.inode_bitmap)?;
        }
        let descriptors = group::descriptors(&groups, &self.geometry, self.seed);
        for number in (0..self.geometry.groups).filter(|n| geometry::has_copy(*n)) {
            let start = first_block(number);
            let block = superblock::block(&self.geometry, self.ids, &self.placed, &groups, number);
            self.put(disk, start, &block)?;
            self.put(disk, start + 1, &descriptors)?;
        }
        for (number, block) in resize::reserved(&self.geometry) {
            self.put(disk, number, &block)?;
        }
        Ok(())
    }

    /// The inode tables, as far as inodes are used.
    fn tables(&self, disk: &mut Content) -> Result<()> {
        let table = inode::table(self)?;
        let bytes = (TABLE_BLOCKS * BLOCK) as usize;
        for (number, part) in table.chunks(bytes).enumerate() {
            self.put(disk, self.geometry.inode_table(number as u64), part)?;
        }
        Ok(())
    }

    /// Folders, contents, targets of long links, and the blocks that say where long files lie.
    fn files(&self, disk: &mut Content) -> Result<()> {
        for (number, place) in self.placed.places.iter().enumerate() {
            let inode = self.seed.inode(number as u32 + 1);
            if let Some(block) = place.extent_block {
                self.put(disk, block, &extent::leaf(&place.runs, inode))?;
            }
            if place.parent != 0 {
                let blocks = directory::blocks(self, number as u32 + 1);
                self.put_runs(disk, number, &blocks.into())?;
            }
            match place.node.map(|node| &self.tree.node(node).kind) {
                Some(Kind::File(data)) => self.put_runs(disk, number, data)?,
                Some(Kind::Symlink(target)) if !place.runs.is_empty() => {
                    self.put(disk, place.runs[0].start, target)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts `data` into the runs of blocks of the inode with index `number`.
    fn put_runs(
        &self,
        disk: &mut Content,
        number: usize,
        data: &super::content::Data,
    ) -> Result<()> {
        let mut done = 0;
        for run in &self.placed.places[number].runs {
            let bytes = run.count * BLOCK;
            disk.put(self.offset + run.start * BLOCK, data.part(done, bytes))?;
            done += bytes;
        }
        Ok(())
    }
}
