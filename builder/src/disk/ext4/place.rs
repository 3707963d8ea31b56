//! Which inode each file gets, and which blocks: numbers are given out one after the other, so that
//! what is used lies together and the tree alone decides.

use anyhow::{Result, bail, ensure};

use super::directory;
use super::extent::{BLOCK_RUNS, INODE_RUNS, RUN_BLOCKS, Run};
use super::geometry::{BLOCK, GROUP_BLOCKS, Geometry, first_block};
use crate::disk::tree::{Kind, Tree};

/// Inodes with a meaning of their own (kernel docs, `special_inodes.rst`).
pub const ROOT: u32 = 2;
/// Keeps blocks for more descriptors.
pub const RESIZE: u32 = 7;
/// The journal.
pub const JOURNAL: u32 = 8;
/// `lost+found`, the first inode that is free to use.
pub const LOST: u32 = 11;
/// Where e2fsck puts what it finds.
pub const LOST_NAME: &[u8] = b"lost+found";
/// Blocks of `lost+found`: e2fsck wants room there without looking for any.
const LOST_BLOCKS: u64 = 4;
/// Blocks of the journal, 64 MiB: what mke2fs gives a disk of 2 to 16 GiB. It does not grow with
/// the disk, so the 32 MiB of a disk as small as an image's would be little.
pub const JOURNAL_BLOCKS: u64 = (64 << 20) / BLOCK;
/// The longest symbolic link that stands in its inode, in bytes.
pub const SHORT_LINK: usize = 59;

/// What one inode has.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The number of its node in the tree; none for the file system's own.
    pub node: Option<usize>,
    /// How many names it has; for a folder also its own `.` and the `..` of its folders.
    pub links: u32,
    /// For a folder: the inode of the folder it lies in; 0 for all else.
    pub parent: u32,
    /// Its blocks.
    pub runs: Vec<Run>,
    /// The block that names them when they are more than fit the inode.
    pub extent_block: Option<u64>,
}

impl Place {
    /// Blocks that hold its content.
    pub fn blocks(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }
}

/// Everything placed.
#[derive(Debug)]
pub struct Placed {
    /// By inode number, from inode 1.
    pub places: Vec<Place>,
    /// The inode of each node of the tree; 0 for nodes without a name.
    pub inodes: Vec<u32>,
    /// The block with the resize inode's map.
    pub resize_map: u64,
    /// The first block that nothing but fixed parts lies behind.
    pub end: u64,
}

impl Placed {
    /// The blocks of an inode.
    pub fn runs(&self, inode: u32) -> &[Run] {
        &self.places[inode as usize - 1].runs
    }
}

/// Places the files of `tree`.
///
/// # Errors
/// There are more inodes or blocks than the file system has.
pub fn place(tree: &Tree, geometry: &Geometry) -> Result<Placed> {
    let mut walk = Walk::new(tree)?;
    walk.folder(0, ROOT);
    let Walk { mut places, inodes, .. } = walk;
    ensure!(
        places.len() as u64 <= geometry.inodes(),
        "{} files are more than the {} inodes of the file system",
        places.len(),
        geometry.inodes()
    );
    let mut free = Free { geometry, next: 0 };
    let resize_map = free.take(1)?[0].start;
    for (number, place) in places.iter_mut().enumerate() {
        let names = place.node.map(|node| &tree.node(node).kind);
        if let Some(Kind::Folder(names)) = names {
            let own = (number as u32 + 1 == ROOT).then_some(LOST_NAME);
            let names = names.keys().map(Vec::as_slice).chain(own);
            place.runs = free.take(directory::block_count(names))?;
        }
    }
    places[LOST as usize - 1].runs = free.take(LOST_BLOCKS)?;
    places[JOURNAL as usize - 1].runs = free.take(JOURNAL_BLOCKS)?;
    for place in &mut places {
        let bytes = match place.node.map(|node| &tree.node(node).kind) {
            Some(Kind::File(data)) => data.length(),
            Some(Kind::Symlink(target)) if target.len() > SHORT_LINK => target.len() as u64,
            _ => continue,
        };
        place.runs = free.take(bytes.div_ceil(BLOCK))?;
    }
    for place in places.iter_mut().filter(|place| place.runs.len() > INODE_RUNS) {
        ensure!(place.runs.len() <= BLOCK_RUNS, "a file lies in {} pieces", place.runs.len());
        place.extent_block = Some(free.take(1)?[0].start);
    }
    Ok(Placed { places, inodes, resize_map, end: free.next })
}

/// Gives out inodes in the order of the paths.
struct Walk<'a> {
    tree: &'a Tree,
    places: Vec<Place>,
    inodes: Vec<u32>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree) -> Result<Self> {
        ensure!(tree.find(LOST_NAME).is_none(), "`lost+found` is the file system's own folder");
        let mut places = vec![Place::default(); LOST as usize];
        let mut inodes = vec![0; tree.len()];
        places[ROOT as usize - 1] =
            Place { node: Some(0), parent: ROOT, links: 3, ..Place::default() };
        places[LOST as usize - 1] = Place { parent: ROOT, links: 2, ..Place::default() };
        for own in [RESIZE, JOURNAL] {
            places[own as usize - 1].links = 1;
        }
        inodes[0] = ROOT;
        Ok(Self { tree, places, inodes })
    }

    fn folder(&mut self, node: usize, inode: u32) {
        let Kind::Folder(names) = &self.tree.node(node).kind else { return };
        for child in names.values() {
            let known = self.inodes[*child];
            if known != 0 {
                self.places[known as usize - 1].links += 1;
                continue;
            }
            let is_folder = matches!(self.tree.node(*child).kind, Kind::Folder(_));
            let links = if is_folder { 2 } else { 1 };
            let parent = if is_folder { inode } else { 0 };
            let place = Place { node: Some(*child), parent, links, ..Place::default() };
            self.places.push(place);
            self.inodes[*child] = self.places.len() as u32;
            if is_folder {
                self.places[inode as usize - 1].links += 1;
                self.folder(*child, self.inodes[*child]);
            }
        }
    }
}

/// The blocks that are still free: everything from `next` on but for the fixed parts.
struct Free<'a> {
    geometry: &'a Geometry,
    next: u64,
}

impl Free<'_> {
    fn take(&mut self, mut count: u64) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        while count > 0 {
            let group = self.next / GROUP_BLOCKS;
            if group == self.geometry.groups {
                bail!("the files take more than the {group} groups of 128 MiB of the file system");
            }
            let start = first_block(group) + self.geometry.taken(group);
            self.next = self.next.max(start);
            let end = first_block(group + 1);
            let here = count.min(end - self.next);
            match runs.last_mut() {
                Some(last)
                    if last.start + last.count == self.next && last.count + here <= RUN_BLOCKS =>
                {
                    last.count += here;
                }
                _ if here > 0 => runs.push(Run { start: self.next, count: here }),
                _ => {}
            }
            self.next += here;
            count -= here;
        }
        Ok(runs)
    }
}
