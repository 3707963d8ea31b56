//! Inodes (kernel docs, `inodes.rst`).

use anyhow::{Context, Result};

use super::Layout;
use super::bytes::{high16, high32, low16, low32, write};
use super::extent::{IN_INODE, in_inode};
use super::geometry::{BLOCK, INODE};
use super::place::{JOURNAL, LOST, Place, RESIZE, SHORT_LINK};
use super::{resize, xattr};
use crate::disk::tree::{Kind, Meta};

/// Bits of the mode that say what a file is (`stat.h`).
const REGULAR: u16 = 0o100_000;
const FOLDER: u16 = 0o040_000;
/// Its blocks are named by extents.
const EXTENTS: u64 = 0x8_0000;
/// Bytes of the fields behind the 128 of ext2.
const EXTRA: u64 = 32;
/// Where the extended attributes start.
const XATTRS: usize = 128 + EXTRA as usize;
/// Where the two halves of the checksum stand.
const SUM_LOW: usize = 0x7c;
const SUM_HIGH: usize = 0x82;
/// More links than this are not counted (`dir_nlink`).
const MOST_LINKS: u32 = 65_000;
/// Blocks are counted in sectors of 512 bytes.
const SECTORS: u64 = BLOCK / 512;

/// The fields that differ by the kind of a file.
struct Body {
    kind: u16,
    size: u64,
    sectors: u64,
    flags: u64,
    map: [u8; IN_INODE],
}

/// All inodes from number 1 to the last that is used.
///
/// # Errors
/// A file has extended attributes that do not fit.
pub fn table(layout: &Layout) -> Result<Vec<u8>> {
    let mut table = Vec::with_capacity(layout.placed.places.len() * INODE as usize);
    for (number, place) in layout.placed.places.iter().enumerate() {
        let number = number as u32 + 1;
        let inode = encode(layout, number, place).with_context(|| {
            let path = place.node.and_then(|node| layout.tree.path_of(node));
            format!("failed to make the inode of `{}`", path.unwrap_or_default())
        });
        table.extend(inode?);
    }
    Ok(table)
}

fn encode(layout: &Layout, number: u32, place: &Place) -> Result<Vec<u8>> {
    let mut inode = vec![0; INODE as usize];
    let epoch = layout.ids.epoch;
    let own = |mode| Meta::of_root(mode, epoch);
    let (meta, body) = match (place.node, number) {
        (Some(node), _) => {
            let node = layout.tree.node(node);
            (node.meta.clone(), body(&node.kind, place))
        }
        (None, RESIZE) => (own(0o600), resize_body(layout)),
        (None, JOURNAL) => (own(0o600), mapped(REGULAR, place.blocks() * BLOCK, place)),
        (None, LOST) => (own(0o700), mapped(FOLDER, place.blocks() * BLOCK, place)),
        _ => return Ok(inode), // reserved and not used
    };
    fields(&mut inode, &meta, &body, place.links);
    times(&mut inode, meta.mtime, epoch);
    xattr::fill(&mut inode[XATTRS..], &meta.xattrs)?;
    let sum = u64::from(layout.seed.inode(number).with(&inode).value());
    write(&mut inode, &[(SUM_LOW, 2, low16(sum)), (SUM_HIGH, 2, high16(sum))]);
    Ok(inode)
}

fn fields(inode: &mut [u8], meta: &Meta, body: &Body, links: u32) {
    let (uid, gid) = (u64::from(meta.uid), u64::from(meta.gid));
    let links = if links > MOST_LINKS { 1 } else { links };
    let fields = [
        (0x00, 2, (body.kind | meta.mode).into()),
        (0x02, 2, low16(uid)),
        (0x04, 4, low32(body.size)),
        (0x18, 2, low16(gid)),
        (0x1a, 2, links.into()),
        (0x1c, 4, low32(body.sectors)),
        (0x20, 4, body.flags),
        (0x6c, 4, high32(body.size)),
        (0x74, 2, low16(high32(body.sectors))),
        (0x78, 2, high16(uid)),
        (0x7a, 2, high16(gid)),
        (0x80, 2, EXTRA),
    ];
    write(inode, &fields);
    inode[0x28..0x28 + IN_INODE].copy_from_slice(&body.map);
}

/// Read, changed and modified when the file says; made when the file system was.
fn times(inode: &mut [u8], mtime: i64, epoch: i64) {
    let bits = |time: i64| {
        let low = time as i32; // its low half, as the kernel reads it
        (low32(time.cast_unsigned()), low32(((time - i64::from(low)) >> 32).cast_unsigned()) & 3)
    };
    let ((file, file_extra), (made, made_extra)) = (bits(mtime), bits(epoch));
    for at in [0x08, 0x0c, 0x10] {
        write(inode, &[(at, 4, file)]);
    }
    for at in [0x84, 0x88, 0x8c] {
        write(inode, &[(at, 4, file_extra)]);
    }
    write(inode, &[(0x90, 4, made), (0x94, 4, made_extra)]);
}

fn body(kind: &Kind, place: &Place) -> Body {
    match kind {
        Kind::File(data) => mapped(REGULAR, data.length(), place),
        Kind::Folder(_) => mapped(FOLDER, place.blocks() * BLOCK, place),
        Kind::Symlink(target) if target.len() > SHORT_LINK => {
            mapped(0o120_000, target.len() as u64, place)
        }
        Kind::Symlink(target) => {
            let mut map = [0; IN_INODE];
            map[..target.len()].copy_from_slice(target);
            plain(0o120_000, target.len() as u64, map)
        }
        Kind::Char(major, minor) => plain(0o020_000, 0, device(*major, *minor)),
        Kind::Block(major, minor) => plain(0o060_000, 0, device(*major, *minor)),
        Kind::Fifo => plain(0o010_000, 0, [0; IN_INODE]),
    }
}

fn plain(kind: u16, size: u64, map: [u8; IN_INODE]) -> Body {
    Body { kind, size, sectors: 0, flags: 0, map }
}

/// A file whose blocks are named by extents.
fn mapped(kind: u16, size: u64, place: &Place) -> Body {
    let blocks = place.blocks() + u64::from(place.extent_block.is_some());
    let map = in_inode(&place.runs, place.extent_block);
    Body { kind, size, sectors: blocks * SECTORS, flags: EXTENTS, map }
}

/// The one inode with a map of the old kind.
fn resize_body(layout: &Layout) -> Body {
    let mut map = [0; IN_INODE];
    write(&mut map, &[(resize::MAP_FIELD, 4, layout.placed.resize_map)]);
    let sectors = resize::blocks(&layout.geometry) * SECTORS;
    Body { kind: REGULAR, size: resize::SIZE, sectors, flags: 0, map }
}

/// Numbers of a device, in the form the kernel writes (`old_encode_dev`, `new_encode_dev`).
fn device(major: u32, minor: u32) -> [u8; IN_INODE] {
    let mut map = [0; IN_INODE];
    if major < 256 && minor < 256 {
        write(&mut map, &[(0, 4, (major << 8 | minor).into())]);
    } else {
        let new = minor & 0xff | major << 8 | (minor & !0xff) << 12;
        write(&mut map, &[(4, 4, new.into())]);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_after_2038_have_two_more_bits() {
        let mut inode = [0; 256];
        times(&mut inode, 0x1_8000_0001, -1);
        assert_eq!(inode[0x10..0x14], [1, 0, 0, 0x80]);
        assert_eq!(inode[0x88], 2, "the low half is negative and counts from 2^32");
        assert_eq!((inode[0x90..0x94].to_vec(), inode[0x94]), (vec![0xff; 4], 0));
    }

    #[test]
    fn devices_have_the_old_form_while_they_fit_it() {
        assert_eq!(device(4, 64)[..8], [64, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(device(259, 0x12345)[..8], [0, 0, 0, 0, 0x45, 3, 0x31, 0x12]);
    }
}
