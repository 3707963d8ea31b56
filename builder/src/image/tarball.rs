//! A tar whose bytes depend on its entries alone: sorted, owned by root, one time stamp, every
//! folder listed before what lies in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of the build host, streamed.
    File(PathBuf),
}

/// One entry, named by its path below `/`, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A regular file with its permission bits.
    File(Content, u32),
    /// A symbolic link and what it holds.
    Link(String),
    /// A folder with its permission bits.
    Folder(u32),
}

/// Folders that are links into `/usr` in every image: an entry below one would replace the link.
const MERGED: [&str; 5] = ["bin", "sbin", "lib", "lib32", "lib64"];

/// Mode of folders that are only there to hold an entry.
const PARENT_MODE: u32 = 0o755;

/// The entries of a tar in the making; a later entry of the same path replaces the earlier.
#[derive(Debug, Clone, Default)]
pub struct Tarball {
    entries: BTreeMap<String, Entry>,
}

impl Tarball {
    /// Adds an entry.
    ///
    /// # Errors
    /// A path that is absolute, leaves the root by `..`, or lies below a merged-usr link; a link
    /// that leaves the root.
    pub fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        check_path(path)?;
        if let Entry::Link(target) = &entry {
            check_link(path, target)?;
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }

    /// Adds a file with content and mode.
    ///
    /// # Errors
    /// As [`Tarball::add`].
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Result<()> {
        self.add(path, Entry::File(Content::Bytes(content.into()), mode))
    }

    /// The entries by path.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Writes the tar, every time stamp `epoch` (seconds since 1970).
    ///
    /// # Errors
    /// A content file cannot be read, or `out` not written.
    pub fn write(&self, out: impl Write, epoch: i64) -> Result<()> {
        let mut tar = tar::Builder::new(out);
        let mut known = BTreeSet::new();
        for (path, entry) in &self.entries {
            for parent in parents(path) {
                if !self.entries.contains_key(parent) && known.insert(parent.to_owned()) {
                    append(&mut tar, parent, &Entry::Folder(PARENT_MODE), epoch)?;
                }
            }
            append(&mut tar, path, entry, epoch)?;
        }
        tar.into_inner().context("failed to end a tar")?.flush().context("failed to write a tar")
    }
}

/// `a/b/c` → `a`, `a/b`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(i, _)| &path[..i])
}

fn check_path(path: &str) -> Result<()> {
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.split('/').any(odd) {
        bail!("`{path}` is not a plain path below the image's root");
    }
    let first = path.split('/').next().unwrap_or_default();
    ensure!(!MERGED.contains(&first), "`{path}` lies below a link: write `usr/{path}`");
    Ok(())
}

/// A link that climbs out would lead elsewhere on this host than on the node. Absolute ones are the
/// node's own paths.
fn check_link(path: &str, target: &str) -> Result<()> {
    let mut depth = path.matches('/').count();
    for part in target.split('/').take_while(|_| !target.starts_with('/')) {
        match part {
            ".." if depth == 0 => {
                bail!("`{path}` is a link out of the image's root: {target}");
            }
            ".." => depth -= 1,
            "" | "." => {}
            _ => depth += 1,
        }
    }
    Ok(())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    entry: &Entry,
    epoch: i64,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(u64::try_from(epoch).context("a time before 1970")?);
    header.set_uid(0);
    header.set_gid(0);
    let name = path;
    let done = match entry {
        Entry::Folder(mode) => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_size(0);
            tar.append_data(&mut header, format!("{name}/"), std::io::empty())
        }
        Entry::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, name, target)
        }
        Entry::File(content, mode) => {
            header.set_mode(*mode);
            return append_file(tar, header, name, content);
        }
    };
    done.with_context(|| format!("failed to add {path} to a tar"))
}

fn append_file<W: Write>(
    tar: &mut tar::Builder<W>,
    mut header: tar::Header,
    name: &str,
    content: &Content,
) -> Result<()> {
    let context = || format!("failed to add {name} to a tar");
    match content {
        Content::Bytes(bytes) => {
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, &bytes[..]).with_context(context)
        }
        Content::File(path) => {
            let file = fs::File::open(path)?;
            header.set_size(file.metadata()?.len());
            tar.append_data(&mut header, name, file).with_context(context)
        }
    }
}

/// `./etc/` → `etc`.
pub fn plain_name(name: &str) -> &str {
    name.trim_start_matches("./").trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(tarball: &Tarball) -> Vec<u8> {
        let mut out = Vec::new();
        tarball.write(&mut out, 1_700_000_000).unwrap();
        out
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut tar = tar::Archive::new(tar);
        let path = |e: std::io::Result<tar::Entry<&[u8]>>| {
            e.unwrap().path().unwrap().to_string_lossy().into_owned()
        };
        tar.entries().unwrap().map(path).collect()
    }

    #[test]
    fn order_of_adding_does_not_matter_and_folders_come_first() {
        let (mut a, mut b) = (Tarball::default(), Tarball::default());
        a.file("usr/lib/x", "1", 0o644).unwrap();
        a.add("etc/y", Entry::Link("../usr/lib/x".into())).unwrap();
        b.add("etc/y", Entry::Link("../usr/lib/x".into())).unwrap();
        b.file("usr/lib/x", "1", 0o644).unwrap();
        assert_eq!(bytes(&a), bytes(&b));
        assert_eq!(names(&bytes(&a)), ["etc/", "etc/y", "usr/", "usr/lib/", "usr/lib/x"]);
    }

    #[test]
    fn paths_that_leave_the_root_or_break_the_merge_are_refused() {
        for path in ["/etc/x", "a/../b", "./a", "a//b", "lib/systemd/x", "bin/sh"] {
            assert!(Tarball::default().file(path, "", 0o644).is_err(), "{path}");
        }
    }

    #[test]
    fn links_out_of_the_root_are_refused() {
        let link = |to: &str| Tarball::default().add("etc/a/b", Entry::Link(to.into()));
        for inside in ["/usr/bin/x", "../../usr", "x/../..", "../../usr/../etc", "."] {
            assert!(link(inside).is_ok(), "{inside}");
        }
        for outside in ["../../../etc/shadow", "x/../../../..", "../../usr/../../x"] {
            let text = link(outside).unwrap_err().to_string();
            assert!(text.contains("`etc/a/b` is a link out of the image's root"), "{text}");
        }
    }

    #[test]
    fn long_names_and_big_modes_survive() {
        let mut tarball = Tarball::default();
        let long = format!("usr/{}/f", "x".repeat(180));
        tarball.file(&long, "abc", 0o4755).unwrap();
        assert!(names(&bytes(&tarball)).iter().any(|n| plain_name(n) == long));
    }
}
