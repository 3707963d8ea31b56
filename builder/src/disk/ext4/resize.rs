//! The resize inode (kernel docs, `special_inodes.rst`, inode 7): it owns the blocks behind the
//! descriptors in every copy, so that the file system can grow while it is mounted. It is the one
//! file with a map of the old kind: a block of numbers, each of a block of numbers.

use super::bytes::write;
use super::geometry::{BLOCK, Geometry, PER_BLOCK, first_block, has_copy};

/// Where the number of the map stands in the inode's block field: the twice indirect one.
pub const MAP_FIELD: usize = 13 * 4;
/// Its size: all that direct, indirect and twice indirect blocks can name.
pub const SIZE: u64 = (12 + PER_BLOCK + PER_BLOCK * PER_BLOCK) * BLOCK;

/// The first reserved block of a group.
fn first_reserved(geometry: &Geometry, group: u64) -> u64 {
    first_block(group) + 1 + geometry.descriptor_blocks
}

/// Groups with a copy, without group 0.
fn copies(geometry: &Geometry) -> impl Iterator<Item = u64> {
    (1..geometry.groups).filter(|group| has_copy(*group))
}

/// Blocks it owns, the map among them.
pub fn blocks(geometry: &Geometry) -> u64 {
    1 + geometry.reserved_blocks * (1 + copies(geometry).count() as u64)
}

/// The map: the reserved blocks of group 0, each where the descriptors it is reserved for count.
pub fn map(geometry: &Geometry) -> Vec<u8> {
    let mut block = vec![0; BLOCK as usize];
    for number in 0..geometry.reserved_blocks {
        let at = (geometry.descriptor_blocks + number) % PER_BLOCK * 4;
        write(&mut block, &[(at as usize, 4, first_reserved(geometry, 0) + number)]);
    }
    block
}

/// What the reserved blocks of group 0 hold: the number of the same block in each copy.
pub fn reserved(geometry: &Geometry) -> impl Iterator<Item = (u64, Vec<u8>)> {
    (0..geometry.reserved_blocks).map(|number| {
        let mut block = vec![0; BLOCK as usize];
        for (at, group) in copies(geometry).enumerate() {
            write(&mut block, &[(at * 4, 4, first_reserved(geometry, group) + number)]);
        }
        (first_reserved(geometry, 0) + number, block)
    })
}

#[cfg(test)]
mod tests {
    use super::super::geometry::GROUP_BYTES;
    use super::*;

    /// As debugfs shows mke2fs' resize inode of 1.5 GiB.
    #[test]
    fn every_copys_reserve_is_named() {
        let geometry = Geometry::new(12 * GROUP_BYTES).unwrap();
        assert_eq!(blocks(&geometry) * 8, 9176);
        assert_eq!(SIZE, 4_299_210_752);
        assert_eq!(map(&geometry)[..12], [0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        let (block, content) = reserved(&geometry).last().unwrap();
        assert_eq!(block, 192);
        let numbers = content.chunks(4).map(|n| u32::from_le_bytes(n.try_into().unwrap()));
        let named: Vec<u32> = numbers.take_while(|n| *n != 0).collect();
        assert_eq!(named, [32_960, 98_496, 164_032, 229_568, 295_104]);
    }
}
