//! What a group says of itself: bitmaps and descriptor (kernel docs, `group_descr.rst`,
//! `bitmaps.rst`). Every group's are written out; none is left for the kernel to make up.

use super::bytes::{high16, high32, low16, low32, write};
use super::checksum::Seed;
use super::geometry::{BLOCK, DESCRIPTOR, GROUP_BLOCKS, GROUP_INODES, Geometry, first_block};
use super::place::Placed;

/// Its inode table holds zeros where it holds nothing (`EXT4_BG_INODE_ZEROED`).
const ZEROED: u64 = 4;

/// One group.
#[derive(Debug)]
pub struct Group {
    /// Its number.
    pub number: u64,
    /// A bit for every block, set when it is used.
    pub block_bitmap: Vec<u8>,
    /// The same for the inodes; the rest of the block is set.
    pub inode_bitmap: Vec<u8>,
    /// Blocks that are not used.
    pub free_blocks: u64,
    /// Inodes that are not used.
    pub free_inodes: u64,
    /// Inodes that are folders.
    folders: u64,
}

/// All groups.
pub fn all(geometry: &Geometry, placed: &Placed) -> Vec<Group> {
    let count = placed.places.len() as u64;
    let group = |number| {
        let first = first_block(number);
        let filled = placed.end.saturating_sub(first).min(GROUP_BLOCKS);
        let used = filled.max(geometry.taken(number));
        let inodes = count.saturating_sub(number * GROUP_INODES).min(GROUP_INODES);
        let mut inode_bitmap = bitmap(inodes);
        inode_bitmap[GROUP_INODES as usize / 8..].fill(0xff);
        Group {
            number,
            block_bitmap: bitmap(used),
            inode_bitmap,
            free_blocks: GROUP_BLOCKS - used,
            free_inodes: GROUP_INODES - inodes,
            folders: folders(placed, number * GROUP_INODES, inodes),
        }
    };
    (0..geometry.groups).map(group).collect()
}

/// A block with the first `used` bits set.
fn bitmap(used: u64) -> Vec<u8> {
    let mut bits = vec![0; BLOCK as usize];
    bits[..used as usize / 8].fill(0xff);
    if !used.is_multiple_of(8) {
        bits[used as usize / 8] = (1 << (used % 8)) - 1;
    }
    bits
}

fn folders(placed: &Placed, first: u64, count: u64) -> u64 {
    let places = placed.places.iter().skip(first as usize).take(count as usize);
    places.filter(|place| place.parent != 0).count() as u64
}

/// The descriptors of all groups, as whole blocks.
pub fn descriptors(groups: &[Group], geometry: &Geometry, seed: Seed) -> Vec<u8> {
    let mut table: Vec<u8> =
        groups.iter().flat_map(|group| descriptor(group, geometry, seed)).collect();
    table.resize((geometry.descriptor_blocks * BLOCK) as usize, 0);
    table
}

fn descriptor(group: &Group, geometry: &Geometry, seed: Seed) -> Vec<u8> {
    let mut bytes = vec![0; DESCRIPTOR as usize];
    let sum = |bitmap: &[u8]| u64::from(seed.with(bitmap).value());
    let blocks = sum(&group.block_bitmap);
    let inodes = sum(&group.inode_bitmap[..GROUP_INODES as usize / 8]);
    let places = [
        geometry.block_bitmap(group.number),
        geometry.inode_bitmap(group.number),
        geometry.inode_table(group.number),
    ];
    for (at, place) in places.into_iter().enumerate() {
        write(&mut bytes, &[(at * 4, 4, low32(place)), (0x20 + at * 4, 4, high32(place))]);
    }
    let fields = [
        (0x0c, 2, low16(group.free_blocks)),
        (0x0e, 2, low16(group.free_inodes)),
        (0x10, 2, low16(group.folders)),
        (0x12, 2, ZEROED),
        (0x18, 2, low16(blocks)),
        (0x1a, 2, low16(inodes)),
        // Inodes are used from the first on, so all free ones are at the end.
        (0x1c, 2, low16(group.free_inodes)),
        (0x38, 2, high16(blocks)),
        (0x3a, 2, high16(inodes)),
    ];
    write(&mut bytes, &fields);
    let number = (group.number as u32).to_le_bytes();
    let own = u64::from(seed.with(&number).with(&bytes).value());
    write(&mut bytes, &[(0x1e, 2, low16(own))]);
    bytes
}
