//! A tar as a tree: only its headers are read, the data stays where it lies.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use tar::EntryType;

use super::content::Data;
use super::tree::{Kind, Meta, Node, Tree, Xattrs};

/// What GNU tar writes before the name of an extended attribute.
const XATTR: &str = "SCHILY.xattr.";

/// Adds everything in the tar at `path` to `tree`.
///
/// # Errors
/// The file cannot be read, is no tar or ends early, or holds what a file system cannot.
pub fn add(tree: &mut Tree, path: &Path) -> Result<()> {
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let path: Arc<Path> = path.into();
    let damaged = || format!("{} is damaged", path.display());
    // Unbuffered: from one header to the next it jumps over the data.
    let mut tar = tar::Archive::new(file);
    for entry in tar.entries_with_seek()? {
        let mut entry = entry.with_context(damaged)?;
        let end = entry.raw_file_position() + entry.size();
        if end > size {
            bail!("{} ends inside an entry", path.display());
        }
        add_entry(tree, &mut entry, &path).with_context(damaged)?;
    }
    Ok(())
}

fn add_entry<R: Read>(tree: &mut Tree, entry: &mut tar::Entry<R>, tar: &Arc<Path>) -> Result<()> {
    let name = entry.path_bytes().into_owned();
    let path = plain(&name);
    let link = entry.link_name_bytes().unwrap_or_default().into_owned();
    let xattrs = xattrs(entry)?;
    let header = entry.header();
    let device = || -> Result<(u32, u32)> {
        Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
    };
    let data = || Data::File {
        path: tar.clone(),
        offset: entry.raw_file_position(),
        length: entry.size(),
    };
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => Kind::File(data()),
        EntryType::Directory => Kind::Folder(BTreeMap::new()),
        EntryType::Symlink => Kind::Symlink(link),
        EntryType::Char => device().map(|(major, minor)| Kind::Char(major, minor))?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block(major, minor))?,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Link => return tree.link(path, plain(&link)),
        other => bail!("`{}` is of the unknown kind {other:?}", String::from_utf8_lossy(path)),
    };
    let meta = Meta {
        mode: (header.mode()? & 0o7777) as u16,
        uid: u32::try_from(header.uid()?)?,
        gid: u32::try_from(header.gid()?)?,
        mtime: header.mtime()?.cast_signed(),
        xattrs,
    };
    tree.add(path, Node { meta, kind })
}

fn xattrs<R: Read>(entry: &mut tar::Entry<R>) -> Result<Xattrs> {
    let mut found = Xattrs::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key()?.strip_prefix(XATTR) {
            found.insert(name.as_bytes().to_vec(), extension.value_bytes().to_vec());
        }
    }
    Ok(found)
}

/// `./etc/` → `etc`.
fn plain(name: &[u8]) -> &[u8] {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if name == b"." { b"" } else { name }
}
