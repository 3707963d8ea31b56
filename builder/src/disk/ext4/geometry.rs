//! Where the fixed parts of a file system lie. Kernel docs: `blockgroup.rst`, `bitmaps.rst`.

use anyhow::{Result, ensure};

/// Bytes of a block: a page, as the kernel likes it best.
pub const BLOCK: u64 = 4096;
/// Blocks of a group: as many as a bitmap of one block has bits.
pub const GROUP_BLOCKS: u64 = BLOCK * 8;
/// Bytes of a group. File systems here are of whole groups, so that all are alike.
pub const GROUP_BYTES: u64 = GROUP_BLOCKS * BLOCK;
/// Bytes of an inode: room for times after 2038 and for small extended attributes.
pub const INODE: u64 = 256;
/// Inodes of a group: one for 16 KiB, mke2fs' usual ratio.
pub const GROUP_INODES: u64 = GROUP_BYTES / 16384;
/// Blocks of a group's inode table.
pub const TABLE_BLOCKS: u64 = GROUP_INODES * INODE / BLOCK;
/// Bytes of a group's descriptor with the feature `64bit`.
pub const DESCRIPTOR: u64 = 64;
/// Groups whose bitmaps and inode tables lie together (2^4, mke2fs' usual number).
pub const FLEX_GROUPS: u64 = 16;
/// Numbers in a block of numbers: the resize inode's map has one such level.
pub const PER_BLOCK: u64 = BLOCK / 4;
/// How much larger than it is made a file system may become: mke2fs reserves descriptors for this.
const GROWTH: u64 = 1024;

/// A file system's fixed parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of groups.
    pub groups: u64,
    /// Blocks that hold the descriptors.
    pub descriptor_blocks: u64,
    /// Blocks left free behind them for the descriptors of a grown file system.
    pub reserved_blocks: u64,
}

impl Geometry {
    /// Of a file system of `length` bytes.
    ///
    /// # Errors
    /// `length` is not of whole groups, or over 16 TiB.
    pub fn new(length: u64) -> Result<Self> {
        let groups = length / GROUP_BYTES;
        ensure!(
            groups > 0 && length.is_multiple_of(GROUP_BYTES) && groups <= 1 << 17,
            "a root file system of {length} bytes is not of whole groups of 128 MiB up to 16 TiB"
        );
        let per_block = BLOCK / DESCRIPTOR;
        let descriptor_blocks = groups.div_ceil(per_block);
        let largest = (groups * GROUP_BLOCKS * GROWTH).min(u64::from(u32::MAX));
        let wanted = largest.div_ceil(GROUP_BLOCKS).div_ceil(per_block);
        let reserved_blocks = wanted.saturating_sub(descriptor_blocks).min(PER_BLOCK);
        Ok(Self { groups, descriptor_blocks, reserved_blocks })
    }

    /// Blocks of the file system.
    pub fn blocks(&self) -> u64 {
        self.groups * GROUP_BLOCKS
    }

    /// Inodes of the file system.
    pub fn inodes(&self) -> u64 {
        self.groups * GROUP_INODES
    }

    /// Blocks at the start of a group that superblock, descriptors and their reserve take.
    pub fn head(&self, group: u64) -> u64 {
        if has_copy(group) { 1 + self.descriptor_blocks + self.reserved_blocks } else { 0 }
    }

    /// The first block of the bitmaps and tables of the 16 groups that `group` is one of, and how
    /// many groups they are.
    fn flex(&self, group: u64) -> (u64, u64) {
        let first = group / FLEX_GROUPS * FLEX_GROUPS;
        let count = FLEX_GROUPS.min(self.groups - first);
        (first_block(first) + self.head(first), count)
    }

    /// The block of a group's block bitmap.
    pub fn block_bitmap(&self, group: u64) -> u64 {
        self.flex(group).0 + group % FLEX_GROUPS
    }

    /// The block of a group's inode bitmap.
    pub fn inode_bitmap(&self, group: u64) -> u64 {
        let (start, count) = self.flex(group);
        start + count + group % FLEX_GROUPS
    }

    /// The first block of a group's inode table.
    pub fn inode_table(&self, group: u64) -> u64 {
        let (start, count) = self.flex(group);
        start + 2 * count + group % FLEX_GROUPS * TABLE_BLOCKS
    }

    /// Blocks at the start of a group that are taken by fixed parts.
    pub fn taken(&self, group: u64) -> u64 {
        let (_, count) = self.flex(group);
        let flex = if group.is_multiple_of(FLEX_GROUPS) { count * (2 + TABLE_BLOCKS) } else { 0 };
        self.head(group) + flex
    }
}

/// The first block of a group.
pub fn first_block(group: u64) -> u64 {
    group * GROUP_BLOCKS
}

/// Whether a group holds superblock and descriptors: groups 0 and 1, and the powers of 3, 5 and 7
/// (`sparse_super`).
pub fn has_copy(group: u64) -> bool {
    let power_of = |base: u64| {
        let mut power = base;
        while power < group {
            power *= base;
        }
        power == group
    };
    group <= 1 || [3, 5, 7].into_iter().any(power_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures mke2fs 1.47 gives 1.5 GiB (seen by dumpe2fs).
    #[test]
    fn the_parts_lie_where_mke2fs_puts_them() {
        let g = Geometry::new(12 * GROUP_BYTES).unwrap();
        assert_eq!((g.blocks(), g.inodes()), (393_216, 98_304));
        assert_eq!((g.descriptor_blocks, g.reserved_blocks), (1, 191));
        assert_eq!((g.block_bitmap(0), g.block_bitmap(6)), (193, 199));
        assert_eq!((g.inode_bitmap(0), g.inode_bitmap(11)), (205, 216));
        assert_eq!((g.inode_table(0), g.inode_table(7)), (217, 3801));
        assert_eq!((g.taken(0), g.taken(1), g.taken(2)), (217 + 12 * 512, 193, 0));
    }

    #[test]
    fn copies_lie_in_few_groups() {
        let found: Vec<u64> = (0..400).filter(|n| has_copy(*n)).collect();
        assert_eq!(found, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn large_ones_stay_within_the_resize_inode() {
        let g = Geometry::new(4096 * GROUP_BYTES).unwrap();
        assert_eq!((g.descriptor_blocks, g.reserved_blocks), (64, 1024));
        for odd in [0, GROUP_BYTES + 4096, GROUP_BYTES << 18] {
            assert!(Geometry::new(odd).is_err(), "{odd}");
        }
    }
}
