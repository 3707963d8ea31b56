//! The files of a root file system, as names and nodes: several names of one node are hard links,
//! and what is added later replaces what stood there, as it does when tars are unpacked in turn.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

use super::content::Data;

/// Mode of folders that are only there to hold an entry.
const PARENT_MODE: u16 = 0o755;
/// The longest name of a file Linux knows (`NAME_MAX`), in bytes.
const NAME_MAX: usize = 255;
/// The longest target of a symbolic link Linux knows (`PATH_MAX` with its end mark), in bytes.
const TARGET_MAX: usize = 4095;

/// Names of extended attributes, such as `security.capability`, and their values.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What every kind of file has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits, setuid and sticky among them: 0 to 0o7777.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

impl Meta {
    /// Of a file that belongs to root.
    pub fn of_root(mode: u16, mtime: i64) -> Self {
        Self { mode, mtime, ..Self::default() }
    }
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Data),
    /// A folder: its names, and the number of each one's node.
    Folder(BTreeMap<Vec<u8>, usize>),
    /// A symbolic link and what it holds.
    Symlink(Vec<u8>),
    /// A character device by its two numbers.
    Char(u32, u32),
    /// A block device by its two numbers.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// A file that has at least one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, time.
    pub meta: Meta,
    /// What it is.
    pub kind: Kind,
}

/// A tree of files. Node 0 is its root.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Time of folders that are made because something lies below them.
    epoch: i64,
}

impl Tree {
    /// An empty one; folders it has to make itself get the time `epoch`.
    pub fn new(epoch: i64) -> Self {
        let meta = Meta::of_root(PARENT_MODE, epoch);
        Self { nodes: vec![Node { meta, kind: Kind::Folder(BTreeMap::new()) }], epoch }
    }

    /// The node with this number.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// Numbers of all nodes end below this.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Adds a file at `path` (below the root, without a leading slash; empty for the root itself).
    /// A folder that is there already keeps what is in it.
    ///
    /// # Errors
    /// A name that is too long or no name; a file that would lie below one that is no folder, or
    /// take a folder's place.
    pub fn add(&mut self, path: &[u8], node: Node) -> Result<()> {
        if let Kind::Symlink(target) = &node.kind {
            let length = target.len();
            ensure!((1..=TARGET_MAX).contains(&length), "{} is a link to no path", shown(path));
        }
        let existing = self.find(path);
        let is_folder = |kind: &Kind| matches!(kind, Kind::Folder(_));
        if let Some(number) = existing.filter(|number| is_folder(&self.nodes[*number].kind)) {
            ensure!(is_folder(&node.kind), "{} is a folder and would be replaced", shown(path));
            self.nodes[number].meta = node.meta;
            return Ok(());
        }
        self.nodes.push(node);
        self.name(path, self.nodes.len() - 1)
    }

    /// Adds `path` as one more name of the file `target`.
    ///
    /// # Errors
    /// There is no `target`, it is a folder, or `path` is no place for a file.
    pub fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let Some(number) = self.find(target) else {
            bail!("{} is a link to {}, which is not there", shown(path), shown(target));
        };
        let is_folder = matches!(self.nodes[number].kind, Kind::Folder(_));
        ensure!(!is_folder, "{} is a hard link to a folder", shown(path));
        self.name(path, number)
    }

    /// The number of the node at `path`; links are not followed.
    pub fn find(&self, path: &[u8]) -> Option<usize> {
        parts(path).try_fold(0, |number, part| match &self.nodes[number].kind {
            Kind::Folder(names) => names.get(part).copied(),
            _ => None,
        })
    }

    /// The first path of the node with this number, to show it.
    pub fn path_of(&self, number: usize) -> Option<String> {
        let mut folders = vec![(String::new(), 0)];
        while let Some((path, folder)) = folders.pop() {
            if folder == number {
                return Some(path);
            }
            if let Kind::Folder(names) = &self.nodes[folder].kind {
                let shown = |name: &[u8]| format!("{path}/{}", String::from_utf8_lossy(name));
                folders.extend(names.iter().rev().map(|(name, node)| (shown(name), *node)));
            }
        }
        None
    }

    /// Gives node `number` the name `path`.
    fn name(&mut self, path: &[u8], number: usize) -> Result<()> {
        let mut folder = 0;
        let mut rest = parts(path).peekable();
        while let Some(part) = rest.next() {
            let odd = part == b"." || part == b".." || part.len() > NAME_MAX || part.contains(&0);
            ensure!(!odd, "{} is not a path for a file", shown(path));
            let next = self.nodes.len();
            let Kind::Folder(names) = &mut self.nodes[folder].kind else {
                bail!("{} lies below something that is not a folder", shown(path));
            };
            if rest.peek().is_none() {
                names.insert(part.to_vec(), number);
                return Ok(());
            }
            folder = *names.entry(part.to_vec()).or_insert(next);
            if folder == next {
                let meta = Meta::of_root(PARENT_MODE, self.epoch);
                self.nodes.push(Node { meta, kind: Kind::Folder(BTreeMap::new()) });
            }
        }
        bail!("the root of a tree can only be a folder");
    }
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
}

/// A path for an error message.
fn shown(path: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Node {
        let data = Data::from(text.as_bytes().to_vec());
        Node { meta: Meta::of_root(0o644, 1), kind: Kind::File(data) }
    }

    fn folder(mode: u16) -> Node {
        Node { meta: Meta::of_root(mode, 1), kind: Kind::Folder(BTreeMap::new()) }
    }

    #[test]
    fn later_files_replace_earlier_ones_and_folders_keep_their_content() {
        let mut tree = Tree::new(7);
        tree.add(b"a/b/c", file("1")).unwrap();
        tree.add(b"a/b/c", file("2")).unwrap();
        tree.add(b"a/b", folder(0o700)).unwrap();
        tree.link(b"d", b"a/b/c").unwrap();
        let at = |path: &[u8]| tree.node(tree.find(path).unwrap()).clone();
        assert_eq!(at(b"a/b/c"), file("2"));
        assert_eq!(tree.find(b"d"), tree.find(b"a/b/c"));
        assert_eq!((at(b"a").meta.mode, at(b"a").meta.mtime), (0o755, 7));
        assert_eq!(at(b"a/b").meta.mode, 0o700);
        assert_eq!(tree.path_of(tree.find(b"d").unwrap()), Some("/a/b/c".to_owned()));
        // A hard link's other name keeps the old file when one name is replaced.
        tree.add(b"d", file("3")).unwrap();
        assert_ne!(tree.find(b"d"), tree.find(b"a/b/c"));
    }

    #[test]
    fn what_has_no_place_is_refused() {
        let mut tree = Tree::new(0);
        tree.add(b"f", file("")).unwrap();
        tree.add(b"d", folder(0o755)).unwrap();
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert!(text(tree.add(b"f/x", file(""))).contains("below something"));
        assert!(text(tree.add(b"d", file(""))).contains("`d` is a folder"));
        assert!(text(tree.add(b"a/../b", file(""))).contains("not a path"));
        assert!(text(tree.add(&[b'x'; 256], file(""))).contains("not a path"));
        assert!(text(tree.add(b"", file(""))).contains("is a folder"));
        assert!(text(tree.link(b"y", b"nothing")).contains("not there"));
        assert!(text(tree.link(b"y", b"d")).contains("hard link to a folder"));
        let link = Node { meta: Meta::default(), kind: Kind::Symlink(vec![b'x'; 4096]) };
        assert!(text(tree.add(b"l", link)).contains("link to no path"));
    }
}
