//! The file systems themselves, seen by e2fsprogs: e2fsck finds nothing to mend, and debugfs shows
//! every file as it was given.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use fs_err as fs;
use proptest::prelude::*;
use tar::EntryType as T;

use super::seen::{EPOCH, Image, ids, number_after, paths, same, tool};
use super::*;
use crate::disk::archive;
use crate::disk::content::Data;
use crate::disk::tree::{Meta, Node, Xattrs};

fn node(kind: Kind, mode: u16) -> Node {
    Node { meta: Meta { mtime: EPOCH - 5, ..Meta::of_root(mode, 0) }, kind }
}

fn file(content: impl Into<Vec<u8>>) -> Node {
    node(Kind::File(content.into().into()), 0o644)
}

fn folder() -> Node {
    node(Kind::Folder(BTreeMap::new()), 0o755)
}

/// An access control list as programs see it: as systemd gives it the folder of the journal.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 8, 0, 5, 0, 4, 0,
    0, 0, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
];

/// A tar with every kind of entry, as GNU tar and mmdebstrap write them.
fn every_kind(path: &Path) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(70_000);
        header.set_gid(42);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    };
    let mut add = |name: &str, mut header: tar::Header, content: &[u8]| {
        tar.append_data(&mut header, name, content).unwrap();
    };
    add("./", header(T::Directory, 0o755, 0), b"");
    add("./usr/", header(T::Directory, 0o1777, 0), b"");
    add("./usr/bin/", header(T::Directory, 0o2755, 0), b"");
    add("./usr/bin/su", header(T::Regular, 0o4755, 5000), &[7; 5000]);
    add("./usr/empty", header(T::Regular, 0o600, 0), b"");
    add("./usr/größe mit leer", header(T::Regular, 0o644, 1), b"x");
    add(&format!("./usr/{}", "n".repeat(255)), header(T::Regular, 0o644, 3), b"abc");
    let mut device = header(T::Char, 0o666, 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    add("./null", device, b"");
    let mut device = header(T::Block, 0o660, 0);
    device.set_device_major(259).unwrap();
    device.set_device_minor(300).unwrap();
    add("./disk", device, b"");
    add("./pipe", header(T::Fifo, 0o600, 0), b"");
    let mut link = |kind, name: &str, target: &str| {
        tar.append_link(&mut header(kind, 0o777, 0), name, target).unwrap();
    };
    link(T::Symlink, "./bin", "usr/bin");
    link(T::Symlink, "./fifty-nine", &"a".repeat(59));
    link(T::Symlink, "./sixty", &"b/".repeat(30));
    link(T::Symlink, "./long", &"c/".repeat(1500));
    link(T::Link, "./usr/bin/sudo", "./usr/bin/su");
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let extensions = [("SCHILY.xattr.security.capability", capability)];
    tar.append_pax_extensions(extensions).unwrap();
    tar.append_data(&mut header(T::Regular, 0o755, 4), "./usr/bin/ping", &b"ping"[..]).unwrap();
    let lists = ["access", "default"].map(|kind| format!("SCHILY.xattr.system.posix_acl_{kind}"));
    tar.append_pax_extensions(lists.iter().map(|name| (name.as_str(), ACL))).unwrap();
    tar.append_data(&mut header(T::Directory, 0o755, 0), "./journal/", &b""[..]).unwrap();
    tar.finish().unwrap();
}

#[test]
fn a_tar_with_every_kind_of_entry_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("root.tar");
    every_kind(&tar);
    let mut tree = Tree::new(EPOCH);
    archive::add(&mut tree, &tar).unwrap();
    assert_eq!(paths(&tree).len(), 16);
    let image = Image::of(&tree, 1);
    same(&image, &tree);
    let said = image.ask(&["ea_get -x /usr/bin/ping security.capability".to_owned()]);
    assert!(said[0].contains("01 00 00 02 00 04"), "{said:?}");
    for list in ["access", "default"] {
        let ask = format!("ea_get -x /journal system.posix_acl_{list}");
        // debugfs shows numbers that say nothing as 0, the kernel as -1.
        let hex = |byte: &u8| format!("{:02x}", if *byte == 255 { 0 } else { *byte });
        let hex: Vec<String> = ACL.iter().map(hex).collect();
        let said = image.ask(&[ask]).concat();
        assert!(said.contains(&hex.join(" ")), "{said}");
    }
    let root = image.ask(&["stat /".to_owned()]);
    assert_eq!(number_after(&root[0], "User: "), "70000");
}

#[test]
fn a_tar_that_is_cut_or_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("root.tar");
    every_kind(&tar);
    let whole = fs::read(&tar).unwrap();
    for end in [600, 3000, 6000] {
        fs::write(&tar, &whole[..end]).unwrap();
        let error = archive::add(&mut Tree::new(0), &tar).unwrap_err();
        assert!(format!("{error:#}").contains("root.tar"), "{end}: {error:#}");
    }
}

#[test]
fn it_says_of_itself_what_mke2fs_would() {
    let image = Image::of(&Tree::new(EPOCH), 12);
    let said = tool("dumpe2fs", &["-h", image.text()]);
    for (label, value) in [
        (
            "Filesystem features:",
            "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg \
             sparse_super large_file huge_file dir_nlink extra_isize metadata_csum",
        ),
        ("Filesystem volume name:", LABEL),
        ("Filesystem state:", "clean"),
        ("Default mount options:", "user_xattr acl"),
        ("Block count:", "393216"),
        ("Reserved block count:", "3932"),
        ("Inode count:", "98304"),
        ("Reserved GDT blocks:", "191"),
        ("Journal superblock magic number invalid!", ""),
        ("Total journal size:", "64M"),
        ("Journal start:", "0"),
    ] {
        let found = said.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
        assert_eq!(found, Some(value).filter(|value| !value.is_empty()), "{label}");
    }
}

/// A disk of two flexible groups, a file in so many runs that they need a block of their own, a
/// folder of thousands of long names; and all of it grown as a node grows it.
#[test]
fn large_files_folders_and_disks_are_sound_and_grow() {
    let dir = tempfile::tempdir().unwrap();
    let big = dir.path().join("big");
    let source = File::from(fs::File::create(&big).unwrap());
    let length = 1_200_000_000;
    source.set_len(length).unwrap();
    let marks: Vec<u64> = (0..12).map(|n| n * 100_000_000 / BLOCK).collect();
    for block in &marks {
        source.write_all_at(&block.to_be_bytes(), block * BLOCK).unwrap();
    }
    let mut tree = Tree::new(EPOCH);
    let data = Data::File { path: big.as_path().into(), offset: 0, length };
    tree.add(b"big", node(Kind::File(data), 0o644)).unwrap();
    for number in 0..5000 {
        tree.add(format!("many/{number:0>120}").as_bytes(), file("x")).unwrap();
    }
    tree.add(b"after", file([3; 10_000])).unwrap();
    let image = Image::of(&tree, 20);
    let requests: Vec<String> = marks.iter().map(|block| format!("bmap /big {block}")).collect();
    let raw = File::from(fs::File::open(&image.path).unwrap());
    for (block, said) in marks.iter().zip(image.ask(&requests)) {
        let mut found = [0; 8];
        raw.read_exact_at(&mut found, said.trim().parse::<u64>().unwrap() * BLOCK).unwrap();
        assert_eq!(u64::from_be_bytes(found), *block);
    }
    let said = image.ask(&["stat /big".to_owned(), format!("stat /many/{:0>120}", 4999)]);
    assert!(said[0].contains("(ETB0)"), "a block of extents: {}", said[0]);
    assert_eq!(number_after(&said[1], "Size: "), "1");

    let grown = 100 * GROUP_BYTES;
    File::options().write(true).open(&image.path).unwrap().set_len(grown).unwrap();
    tool("resize2fs", &[image.text()]);
    image.is_sound();
    let said = tool("dumpe2fs", &["-h", image.text()]);
    assert_eq!(number_after(&said, "Block count:"), (grown / BLOCK).to_string());
}

#[test]
fn equal_trees_give_equal_disks_in_any_order_of_adding() {
    let names = ["b/x", "a", "b/c/d", "z"];
    let disk = |order: &[usize]| {
        let mut tree = Tree::new(EPOCH);
        for index in order {
            tree.add(names[*index].as_bytes(), file(names[*index])).unwrap();
        }
        let mut disk = Content::default();
        put(&mut disk, 1 << 20, GROUP_BYTES, &tree, &ids()).unwrap();
        disk
    };
    assert_eq!(disk(&[0, 1, 2, 3]), disk(&[3, 2, 1, 0]));
    assert_ne!(disk(&[0, 1, 2, 3]), disk(&[0, 1, 2]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let failure = |tree: &Tree| {
        let error = put(&mut Content::default(), 0, GROUP_BYTES, tree, &ids()).unwrap_err();
        format!("{error:#}")
    };
    let mut tree = Tree::new(0);
    let data = Data::File { path: Path::new("/dev/zero").into(), offset: 0, length: 90 << 20 };
    tree.add(b"big", node(Kind::File(data), 0o644)).unwrap();
    assert!(failure(&tree).contains("more than the 1 groups"), "{}", failure(&tree));
    let mut tree = Tree::new(0);
    for number in 0..8200 {
        tree.add(number.to_string().as_bytes(), file("")).unwrap();
    }
    assert!(failure(&tree).contains("8211 files are more than the 8192 inodes"));
    let mut tree = Tree::new(0);
    tree.add(b"lost+found/x", file("")).unwrap();
    assert!(failure(&tree).contains("lost+found"));
    let mut tree = Tree::new(0);
    let xattrs = Xattrs::from([(b"user.a".to_vec(), vec![0; 100])]);
    let meta = Meta { xattrs, ..Meta::default() };
    tree.add(b"etc/f", Node { meta, kind: Kind::Fifo }).unwrap();
    assert!(failure(&tree).contains("etc/f") && failure(&tree).contains("92 bytes"));
}

fn random_node() -> impl Strategy<Value = Node> {
    let bytes = prop_oneof![Just(0), Just(4096), 1..300usize, 4000..30_000usize]
        .prop_map(|length| Kind::File(vec![length as u8; length].into()));
    let target = prop_oneof![1..60usize, 58..62usize, 1000..4000usize]
        .prop_map(|length| Kind::Symlink(vec![b't'; length]));
    let device = (0..600u32, 0..70_000u32).prop_map(|(major, minor)| Kind::Char(major, minor));
    let kind = prop_oneof![4 => bytes, 2 => target, 1 => device, 1 => Just(Kind::Fifo)];
    let owner = || prop_oneof![Just(0), 1..100_000u32];
    (kind, 0..0o10000u16, owner(), owner(), 0..EPOCH).prop_map(|(kind, mode, uid, gid, mtime)| {
        Node { meta: Meta { mode, uid, gid, mtime, xattrs: Xattrs::new() }, kind }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 40, failure_persistence: None, ..<_>::default() })]
    #[test]
    fn random_trees_come_back(
        files in prop::collection::vec(
            (prop::collection::vec("[a-c]|d{255}|[e-z0-9._-]{2,40}", 1..9), random_node()),
            0..120,
        ),
        links in prop::collection::vec((0..120usize, "L[a-z]{1,200}"), 0..10),
    ) {
        let mut tree = Tree::new(EPOCH);
        tree.add(b"folder", folder()).unwrap();
        for (parts, node) in &files {
            // Some lie below a file, or take a folder's place: those are refused.
            let _ = tree.add(parts.join("/").as_bytes(), node.clone());
        }
        for (index, name) in &links {
            if let Some((parts, _)) = files.get(*index) {
                let _ = tree.link(name.as_bytes(), parts.join("/").as_bytes());
            }
        }
        same(&Image::of(&tree, 1), &tree);
    }
}
