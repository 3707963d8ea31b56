//! Where the blocks of a file lie (kernel docs, `ifork.rst`, "Extent Tree"): up to four runs in
//! the inode itself, more in one block that the inode points to.

use super::bytes::{high32, low16, low32, write};
use super::checksum::Seed;
use super::geometry::BLOCK;

/// Marks the head of a node of the tree.
const MAGIC: u64 = 0xf30a;
/// Bytes of the head and of every entry.
const ENTRY: usize = 12;
/// Bytes in an inode for it.
pub const IN_INODE: usize = 60;
/// Entries that fit an inode.
pub const INODE_RUNS: usize = IN_INODE / ENTRY - 1;
/// Entries that fit a block, with its checksum behind them.
pub const BLOCK_RUNS: usize = (BLOCK as usize - 4) / ENTRY - 1;
/// Blocks of the longest run: more would mean "not written yet".
pub const RUN_BLOCKS: u64 = 32768;

/// Blocks that lie one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub start: u64,
    /// How many.
    pub count: u64,
}

/// The part of an inode that says where `runs` are: in it, or in the block `leaf`.
pub fn in_inode(runs: &[Run], leaf: Option<u64>) -> [u8; IN_INODE] {
    let mut node = [0; IN_INODE];
    match leaf {
        None => fill(&mut node, runs, INODE_RUNS),
        Some(block) => {
            head(&mut node, 1, INODE_RUNS, 1);
            // The only entry: from block 0 of the file on, look there.
            let place = [(ENTRY + 4, 4, low32(block)), (ENTRY + 8, 2, low16(high32(block)))];
            write(&mut node, &place);
        }
    }
    node
}

/// The block that holds `runs`; `inode` is the seed of the inode it belongs to.
pub fn leaf(runs: &[Run], inode: Seed) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    fill(&mut block, runs, BLOCK_RUNS);
    let end = ENTRY * (BLOCK_RUNS + 1);
    let sum = inode.with(&block[..end]).value();
    write(&mut block, &[(end, 4, sum.into())]);
    block
}

fn head(node: &mut [u8], entries: usize, most: usize, depth: u64) {
    let entries = [(0, 2, MAGIC), (2, 2, entries as u64), (4, 2, most as u64), (6, 2, depth)];
    write(node, &entries);
}

fn fill(node: &mut [u8], runs: &[Run], most: usize) {
    head(node, runs.len(), most, 0);
    let mut block = 0;
    for (run, entry) in runs.iter().zip(node[ENTRY..].chunks_mut(ENTRY)) {
        let start = [(6, 2, low16(high32(run.start))), (8, 4, low32(run.start))];
        write(entry, &[(0, 4, block), (4, 2, run.count)]);
        write(entry, &start);
        block += run.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_in_the_inode_with_the_block_of_the_file_they_start_at() {
        let runs = [Run { start: 100, count: 32768 }, Run { start: 0x1_0000_0005, count: 2 }];
        let node = in_inode(&runs, None);
        assert_eq!(node[..8], [0x0a, 0xf3, 2, 0, 4, 0, 0, 0]);
        assert_eq!(node[12..24], [0, 0, 0, 0, 0, 0x80, 0, 0, 100, 0, 0, 0]);
        assert_eq!(node[24..36], [0, 0x80, 0, 0, 2, 0, 1, 0, 5, 0, 0, 0]);
    }

    #[test]
    fn many_runs_stand_in_a_block_with_a_checksum() {
        let runs: Vec<Run> = (0..340).map(|n| Run { start: n * 10, count: 5 }).collect();
        assert_eq!(BLOCK_RUNS, runs.len());
        let seed = Seed::of(&uuid::Uuid::nil()).inode(12);
        let block = leaf(&runs, seed);
        assert_eq!(block[4..8], [84, 1, 0, 0], "340, depth 0");
        let sum = u32::from_le_bytes(block[4092..].try_into().unwrap());
        assert_eq!(sum, seed.with(&block[..4092]).value());
        let node = in_inode(&runs, Some(77));
        assert_eq!(node[..8], [0x0a, 0xf3, 1, 0, 4, 0, 1, 0]);
        assert_eq!(node[12..24], [0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0]);
    }
}
