//! How the tests see a file system: by e2fsprogs, which know nothing of the code that made it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::disk::content::Data;
use crate::disk::extents::{CLUSTER, is_zero};
use crate::disk::tree::Node;

pub(super) const EPOCH: i64 = 1_790_000_000;

pub(super) fn ids() -> Ext4Ids {
    Ext4Ids { uuid: Uuid::from_u128(0x1234 << 90), hash_seed: Uuid::from_u128(77), epoch: EPOCH }
}

/// Runs one of e2fsprogs' programs; what it says on stdout.
pub(super) fn tool(name: &str, args: &[&str]) -> String {
    let mut command = Command::new(Path::new("/usr/sbin").join(name));
    let output = command.args(args).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{name} {args:?}: {stdout}{stderr}");
    stdout
}

/// A file system in a file.
pub(super) struct Image {
    dir: TempDir,
    pub(super) path: PathBuf,
}

impl Image {
    pub(super) fn of(tree: &Tree, groups: u64) -> Self {
        let mut disk = Content::default();
        put(&mut disk, 0, groups * GROUP_BYTES, tree, &ids()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::from(fs::File::create(&path).unwrap());
        file.set_len(groups * GROUP_BYTES).unwrap();
        let (mut reader, mut buffer) = (disk.reader(), vec![0; CLUSTER as usize]);
        for cluster in disk.clusters() {
            reader.read(cluster * CLUSTER, &mut buffer).unwrap();
            if !is_zero(&buffer) {
                file.write_all_at(&buffer, cluster * CLUSTER).unwrap();
            }
        }
        let image = Self { dir, path };
        image.is_sound();
        image
    }

    pub(super) fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub(super) fn is_sound(&self) {
        let said = tool("e2fsck", &["-f", "-n", self.text()]);
        assert!(!said.contains('?'), "{said}");
    }

    /// What debugfs answers to each request.
    pub(super) fn ask(&self, requests: &[String]) -> Vec<String> {
        let script = self.dir.path().join("requests");
        fs::write(&script, requests.join("\n")).unwrap();
        let said = tool("debugfs", &["-f", script.to_str().unwrap(), self.text()]);
        let answers: Vec<_> = said.split("debugfs: ").skip(1).collect();
        assert_eq!(answers.len(), requests.len());
        answers.iter().map(|a| a.split_once('\n').unwrap_or((a, "")).1.to_owned()).collect()
    }

    /// All files copied out by debugfs, contents and targets of links among them.
    fn dumped(&self) -> PathBuf {
        let to = self.dir.path().join("dump");
        fs::create_dir(&to).unwrap();
        self.ask(&[format!("rdump / {}", to.display())]);
        to
    }
}

/// Every path of a tree with its node.
pub(super) fn paths(tree: &Tree) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![(String::new(), 0)];
    while let Some((path, number)) = folders.pop() {
        if let Kind::Folder(names) = &tree.node(number).kind {
            for (name, child) in names {
                let path = format!("{path}/{}", String::from_utf8_lossy(name));
                folders.push((path, *child));
            }
        }
        if !path.is_empty() {
            found.push((path, number));
        }
    }
    found
}

pub(super) fn number_after<'a>(text: &'a str, label: &str) -> &'a str {
    let Some((_, rest)) = text.split_once(label) else { panic!("no `{label}` in {text}") };
    rest.split_whitespace().next().unwrap_or_default()
}

/// Compares names, kinds, modes, owners, times, links and contents of the image with the tree.
pub(super) fn same(image: &Image, tree: &Tree) {
    let dump = image.dumped();
    let paths = paths(tree);
    let requests: Vec<String> = paths.iter().map(|(path, _)| format!("stat \"{path}\"")).collect();
    let mut names: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, number) in &paths {
        *names.entry(*number).or_default() += 1;
    }
    for ((path, number), said) in paths.iter().zip(image.ask(&requests)) {
        let Node { meta, kind } = tree.node(*number);
        let (word, links) = match kind {
            Kind::File(_) => ("regular", names[number]),
            Kind::Symlink(_) => ("symlink", names[number]),
            Kind::Char(..) => ("character", names[number]),
            Kind::Block(..) => ("block", names[number]),
            Kind::Fifo => ("FIFO", names[number]),
            Kind::Folder(children) => {
                let is_folder = |n: &&usize| matches!(tree.node(**n).kind, Kind::Folder(_));
                ("directory", 2 + children.values().filter(is_folder).count())
            }
        };
        assert_eq!(number_after(&said, "Type: "), word, "{path}");
        assert_eq!(number_after(&said, "Mode: "), format!("0{:03o}", meta.mode), "{path}");
        assert_eq!(number_after(&said, "User: "), meta.uid.to_string(), "{path}");
        assert_eq!(number_after(&said, "Group: "), meta.gid.to_string(), "{path}");
        assert_eq!(number_after(&said, "Links: "), links.to_string(), "{path}");
        let time = |label: &str| number_after(&said, label).split(':').next().unwrap().to_owned();
        assert_eq!(time("mtime: "), format!("{:#010x}", meta.mtime), "{path}");
        assert_eq!(time("crtime: "), format!("{EPOCH:#010x}"), "{path}");
        let copy = dump.join(&path[1..]);
        match kind {
            Kind::File(data) => {
                let expected = match data {
                    Data::Bytes(bytes) => bytes.to_vec(),
                    Data::File { path, offset, length } => {
                        let mut bytes = vec![0; *length as usize];
                        let file = File::from(fs::File::open(path.as_ref()).unwrap());
                        file.read_exact_at(&mut bytes, *offset).unwrap();
                        bytes
                    }
                };
                assert!(fs::read(copy).unwrap() == expected, "{path}");
            }
            Kind::Symlink(target) => {
                let found = fs::read_link(copy).unwrap();
                assert_eq!(found.as_os_str().as_encoded_bytes(), target, "{path}");
            }
            Kind::Char(major, minor) | Kind::Block(major, minor) => {
                let numbers = format!("{major:02}:{minor:02}");
                assert_eq!(number_after(&said, "Device major/minor number: "), numbers, "{path}");
            }
            Kind::Folder(_) | Kind::Fifo => {}
        }
    }
}
