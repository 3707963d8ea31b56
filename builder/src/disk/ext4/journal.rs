//! The head of an empty journal (kernel docs, `journal.rst`). What follows is zeros: nothing to
//! play back. Unlike all else here, its numbers are big-endian.

use uuid::Uuid;

use super::geometry::BLOCK;
use super::place::JOURNAL_BLOCKS;

/// Marks every block the journal itself writes.
const MAGIC: u32 = 0xc03b_3998;
/// A superblock of the second version.
const SUPERBLOCK: u32 = 4;

/// The journal's first block; the kernel turns on checksums when it mounts.
pub fn superblock(uuid: &Uuid) -> Vec<u8> {
    let numbers = [
        MAGIC,
        SUPERBLOCK,
        0, // of no transaction
        BLOCK as u32,
        JOURNAL_BLOCKS as u32,
        1, // its first block that holds a transaction
        1, // the number of the first transaction
        0, // no transaction is there: the file system is clean
        0,
        0, // no features
        0,
        0,
    ];
    let mut block: Vec<u8> = numbers.into_iter().flat_map(u32::to_be_bytes).collect();
    block.extend(uuid.as_bytes());
    block.extend(1u32.to_be_bytes()); // one file system uses it
    block.resize(BLOCK as usize, 0);
    block
}
