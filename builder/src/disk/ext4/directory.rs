//! Folders: lists of names with the inode of each (kernel docs, `directory.rst`, "Linear
//! Directories"). The kernel reads them as they are and indexes those that grow later.

use super::Layout;
use super::bytes::write;
use super::checksum::Seed;
use super::geometry::BLOCK;
use super::place::{LOST, LOST_NAME, ROOT};
use crate::disk::tree::Kind;

/// Bytes of an entry before its name.
const HEAD: usize = 8;
/// The entry that ends a block and holds its checksum.
const TAIL: usize = 12;
/// Its kind, which no file has.
const TAIL_KIND: u64 = 0xde;
/// Bytes of a block for entries.
const ROOM: usize = BLOCK as usize - TAIL;
/// Kinds of files in an entry (feature `filetype`).
const FOLDER: u8 = 2;

struct Entry<'a> {
    name: &'a [u8],
    inode: u32,
    kind: u8,
}

/// Bytes of an entry: entries start at multiples of four.
fn entry_bytes(name: &[u8]) -> usize {
    (HEAD + name.len()).next_multiple_of(4)
}

/// How many blocks a folder with these names takes.
pub fn block_count<'a>(names: impl Iterator<Item = &'a [u8]>) -> u64 {
    let own: [&[u8]; 2] = [b".", b".."];
    let (mut blocks, mut used) = (1, 0);
    for name in own.into_iter().chain(names) {
        let bytes = entry_bytes(name);
        if used + bytes > ROOM {
            (blocks, used) = (blocks + 1, 0);
        }
        used += bytes;
    }
    blocks
}

/// The blocks of the folder with this inode.
pub fn blocks(layout: &Layout, inode: u32) -> Vec<u8> {
    let place = &layout.placed.places[inode as usize - 1];
    let mut entries = vec![
        Entry { name: b".", inode, kind: FOLDER },
        Entry { name: b"..", inode: place.parent, kind: FOLDER },
    ];
    if inode == ROOT {
        entries.push(Entry { name: LOST_NAME, inode: LOST, kind: FOLDER });
    }
    if let Some(Kind::Folder(names)) = place.node.map(|node| &layout.tree.node(node).kind) {
        entries.extend(names.iter().map(|(name, node)| Entry {
            name,
            inode: layout.placed.inodes[*node],
            kind: kind(&layout.tree.node(*node).kind),
        }));
    }
    encode(&entries, place.blocks(), layout.seed.inode(inode))
}

/// Packs `entries` into `count` blocks; what is left over is one unused entry a block.
fn encode(entries: &[Entry], count: u64, inode: Seed) -> Vec<u8> {
    let mut rest = entries.iter().peekable();
    let mut all = Vec::with_capacity((count * BLOCK) as usize);
    for _ in 0..count {
        let mut block = vec![0; BLOCK as usize];
        let (mut at, mut last) = (0, 0);
        while let Some(entry) = rest.next_if(|entry| at + entry_bytes(entry.name) <= ROOM) {
            put(&mut block[at..], entry);
            (last, at) = (at, at + entry_bytes(entry.name));
        }
        // The last entry owns the block to its end; in an empty block that is an unused one.
        write(&mut block[last..], &[(4, 2, (ROOM - last) as u64)]);
        write(&mut block[ROOM..], &[(4, 2, TAIL as u64), (7, 1, TAIL_KIND)]);
        let sum = inode.with(&block[..ROOM]).value();
        write(&mut block[ROOM..], &[(8, 4, sum.into())]);
        all.extend(block);
    }
    all
}

fn put(block: &mut [u8], entry: &Entry) {
    let name = entry.name;
    let head = [
        (0, 4, entry.inode.into()),
        (4, 2, entry_bytes(name) as u64),
        (6, 1, name.len() as u64),
        (7, 1, entry.kind.into()),
    ];
    write(block, &head);
    block[HEAD..HEAD + name.len()].copy_from_slice(name);
}

fn kind(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Folder(_) => FOLDER,
        Kind::Char(..) => 3,
        Kind::Block(..) => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| format!("{n:0>200}").into_bytes()).collect()
    }

    /// Reads a block by the rules of the format: name and inode of every used entry.
    fn read(block: &[u8]) -> Vec<(Vec<u8>, u32)> {
        let (mut at, mut found) = (0, Vec::new());
        while at < ROOM {
            let inode = u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            let length = usize::from(u16::from_le_bytes(block[at + 4..at + 6].try_into().unwrap()));
            let name = block[at + HEAD..at + HEAD + usize::from(block[at + 6])].to_vec();
            if inode != 0 {
                found.push((name, inode));
            }
            assert!(length.is_multiple_of(4) && length >= HEAD, "{length} at {at}");
            at += length;
        }
        assert_eq!(at, ROOM, "the last entry reaches the end");
        found
    }

    #[test]
    fn every_entry_is_found_again_and_each_block_is_checked() {
        let seed = Seed::of(&uuid::Uuid::nil()).inode(12);
        for count in [0, 1, 18, 19, 20, 500] {
            let names = names(count);
            let entries: Vec<Entry> =
                names.iter().map(|name| Entry { name, inode: 20, kind: 1 }).collect();
            let blocks = block_count(names.iter().map(Vec::as_slice));
            let bytes = encode(&entries, blocks, seed);
            let found: Vec<_> = bytes.chunks(BLOCK as usize).flat_map(read).collect();
            let expected: Vec<_> = names.iter().map(|name| (name.clone(), 20)).collect();
            assert_eq!(found, expected);
            for block in bytes.chunks(BLOCK as usize) {
                let sum = u32::from_le_bytes(block[4092..].try_into().unwrap());
                assert_eq!(sum, seed.with(&block[..ROOM]).value());
            }
        }
    }
}
