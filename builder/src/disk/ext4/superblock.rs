//! The superblock (kernel docs, `super.rst`), which says what the file system is.

use super::bytes::{high32, low32, write};
use super::checksum;
use super::geometry::{
    BLOCK, DESCRIPTOR, FLEX_GROUPS, GROUP_BLOCKS, GROUP_INODES, Geometry, INODE,
};
use super::group::Group;
use super::place::{JOURNAL, LOST, Placed};
use super::{Ext4Ids, LABEL, extent};

/// `has_journal`, `ext_attr`, `resize_inode`, `dir_index`.
const COMPATIBLE: u64 = 0x4 | 0x8 | 0x10 | 0x20;
/// `filetype`, `extents`, `64bit`, `flex_bg`: who does not know these must not read.
const INCOMPATIBLE: u64 = 0x2 | 0x40 | 0x80 | 0x200;
/// `sparse_super`, `large_file`, `huge_file`, `dir_nlink`, `extra_isize`, `metadata_csum`: who does
/// not know these must not write.
const READ_ONLY_COMPATIBLE: u64 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// Mount options `user_xattr` and `acl`.
const MOUNT_OPTIONS: u64 = 0x4 | 0x8;
/// One block in a hundred is kept for root, so that a full disk can be logged in to.
const RESERVED: u64 = 100;
/// Bytes of it, and where it stands in block 0.
const BYTES: usize = 1024;
/// Where its checksum stands.
const SUM: usize = 0x3fc;
/// Names of hashed folders count characters as signed (x86's habit).
const SIGNED_HASH: u64 = 1;

/// The first block of group `number`, with the superblock or its copy in it.
pub fn block(
    geometry: &Geometry,
    ids: &Ext4Ids,
    placed: &Placed,
    groups: &[Group],
    number: u64,
) -> Vec<u8> {
    let mut sb = [0; BYTES];
    counts(&mut sb, geometry, groups);
    features(&mut sb, ids);
    journal(&mut sb, placed);
    write(&mut sb, &[(0x5a, 2, number)]);
    let sum = checksum::START.with(&sb[..SUM]).value();
    write(&mut sb, &[(SUM, 4, sum.into())]);
    let mut block = vec![0; BLOCK as usize];
    // In group 0 the first KiB is left to boot loaders.
    let start = if number == 0 { BYTES } else { 0 };
    block[start..start + BYTES].copy_from_slice(&sb);
    block
}

fn counts(sb: &mut [u8], geometry: &Geometry, groups: &[Group]) {
    let blocks = geometry.blocks();
    let reserved = blocks / RESERVED;
    let free: u64 = groups.iter().map(|group| group.free_blocks).sum();
    let free_inodes: u64 = groups.iter().map(|group| group.free_inodes).sum();
    let size = u64::from((BLOCK / 1024).trailing_zeros());
    let fields = [
        (0x00, 4, geometry.inodes()),
        (0x04, 4, low32(blocks)),
        (0x08, 4, low32(reserved)),
        (0x0c, 4, low32(free)),
        (0x10, 4, free_inodes),
        (0x18, 4, size),         // bytes of a block, as a power of two over 1024
        (0x1c, 4, size),         // the same of a cluster
        (0x20, 4, GROUP_BLOCKS), // blocks of a group
        (0x24, 4, GROUP_BLOCKS), // clusters of a group
        (0x28, 4, GROUP_INODES),
        (0xce, 2, geometry.reserved_blocks),
        (0x150, 4, high32(blocks)),
        (0x154, 4, high32(reserved)),
        (0x158, 4, high32(free)),
    ];
    write(sb, &fields);
}

fn features(sb: &mut [u8], ids: &Ext4Ids) {
    let epoch = low32(ids.epoch.cast_unsigned());
    let flex = u64::from(FLEX_GROUPS.trailing_zeros());
    let fields = [
        (0x30, 4, epoch),  // last written
        (0x36, 2, 0xffff), // never checked because of many mounts
        (0x38, 2, 0xef53),
        (0x3a, 2, 1),     // clean
        (0x3c, 2, 1),     // after errors: go on
        (0x40, 4, epoch), // last checked
        (0x4c, 4, 1),     // revision with variable inode sizes
        (0x54, 4, LOST.into()),
        (0x58, 2, INODE),
        (0x5c, 4, COMPATIBLE),
        (0x60, 4, INCOMPATIBLE),
        (0x64, 4, READ_ONLY_COMPATIBLE),
        (0xfc, 1, 1), // hash of names: half MD4
        (0xfe, 2, DESCRIPTOR),
        (0x100, 4, MOUNT_OPTIONS),
        (0x108, 4, epoch), // made
        (0x15c, 2, 32),    // every inode has this many more bytes of fields
        (0x15e, 2, 32),
        (0x160, 4, SIGNED_HASH),
        (0x174, 1, flex),
        (0x175, 1, 1), // checksums are CRC-32C
    ];
    write(sb, &fields);
    sb[0x68..0x78].copy_from_slice(ids.uuid.as_bytes());
    sb[0x78..0x78 + LABEL.len()].copy_from_slice(LABEL.as_bytes());
    sb[0xec..0xfc].copy_from_slice(ids.hash_seed.as_bytes());
}

/// The journal's inode, and a copy of where it lies for when that inode is lost.
fn journal(sb: &mut [u8], placed: &Placed) {
    let runs = placed.runs(JOURNAL);
    let size: u64 = runs.iter().map(|run| run.count * BLOCK).sum();
    sb[0x10c..0x148].copy_from_slice(&extent::in_inode(runs, None));
    let fields = [
        (0xe0, 4, JOURNAL.into()),
        (0xfd, 1, 1), // the copy is one of an inode's block map
        (0x148, 4, high32(size)),
        (0x14c, 4, low32(size)),
    ];
    write(sb, &fields);
}
