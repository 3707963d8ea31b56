//! A drive with one small file on it, as ISO 9660: what the join secret travels on where the guest's
//! agent cannot be used. No Rock Ridge and no Joliet: Linux shows `PAYLOAD.;1` as `payload`.

use anyhow::{Result, ensure};

/// Size of a sector; everything starts at one.
const SECTOR: usize = 2048;
/// Where things lie, in sectors: the first sixteen belong to nobody.
const DESCRIPTOR: usize = 16;
const END: usize = 17;
const PATHS_LITTLE: usize = 18;
const PATHS_BIG: usize = 19;
const ROOT: usize = 20;
const FILE: usize = 21;
/// Bytes of a table of paths that has the root alone.
const PATHS: u32 = 10;
/// Bit of a record that stands for a folder.
const FOLDER: u8 = 2;
/// A day like any other: a time would tell one drive from the next for nothing.
const DATE: [u8; 7] = [126, 1, 1, 0, 0, 0, 0];

/// The bytes of a drive called `label` with `content` in the file `name`.
///
/// # Errors
/// Label or name have characters that this form does not have, or are too long.
pub fn image(label: &str, name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name = name.to_ascii_uppercase();
    ensure!(label.len() <= 32 && label.chars().all(plain), "`{label}` is no label of an ISO");
    ensure!(name.len() <= 8 && name.chars().all(plain), "`{name}` is no name on an ISO");
    let sectors = FILE + content.len().div_ceil(SECTOR).max(1);
    let mut disk = vec![0; sectors * SECTOR];
    put(&mut disk, DESCRIPTOR * SECTOR, &descriptor(label, sectors as u32));
    put(&mut disk, END * SECTOR, b"\xffCD001\x01");
    put(&mut disk, PATHS_LITTLE * SECTOR, &path(u32::to_le_bytes, u16::to_le_bytes));
    put(&mut disk, PATHS_BIG * SECTOR, &path(u32::to_be_bytes, u16::to_be_bytes));
    let folder = |name| record(name, ROOT, SECTOR, FOLDER);
    let file = record(format!("{name}.;1").as_bytes(), FILE, content.len(), 0);
    put(&mut disk, ROOT * SECTOR, &[folder(&[0]), folder(&[1]), file].concat());
    put(&mut disk, FILE * SECTOR, content);
    Ok(disk)
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The primary volume descriptor (ECMA-119 §8.4), with offsets as that counts them, less one.
fn descriptor(label: &str, sectors: u32) -> Vec<u8> {
    let mut d = vec![0; SECTOR];
    put(&mut d, 0, b"\x01CD001\x01");
    // Texts are filled with blanks; the last three are names of files.
    for (from, to) in [(8, 72), (190, 813)] {
        d[from..to].fill(b' ');
    }
    put(&mut d, 40, label.as_bytes());
    put(&mut d, 80, &both_long(sectors));
    for at in [120, 124] {
        put(&mut d, at, &both_short(1));
    }
    put(&mut d, 128, &both_short(SECTOR as u16));
    put(&mut d, 132, &both_long(PATHS));
    put(&mut d, 140, &(PATHS_LITTLE as u32).to_le_bytes());
    put(&mut d, 148, &(PATHS_BIG as u32).to_be_bytes());
    put(&mut d, 156, &record(&[0], ROOT, SECTOR, FOLDER));
    // Four dates that say nothing: digits of zero, and no time zone.
    for at in [813, 830, 847, 864] {
        d[at..at + 16].fill(b'0');
    }
    d[881] = 1;
    d
}

/// The root in a table of paths.
fn path(long: fn(u32) -> [u8; 4], short: fn(u16) -> [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &long(ROOT as u32), &short(1), &[0, 0]].concat()
}

/// One entry of a folder (§9.1).
fn record(name: &[u8], sector: usize, bytes: usize, flags: u8) -> Vec<u8> {
    let mut entry = vec![0, 0];
    entry.extend(both_long(sector as u32));
    entry.extend(both_long(bytes as u32));
    entry.extend(DATE);
    entry.extend([flags, 0, 0]);
    entry.extend(both_short(1));
    entry.push(name.len() as u8);
    entry.extend(name);
    if entry.len() % 2 == 1 {
        entry.push(0);
    }
    entry[0] = entry.len() as u8;
    entry
}

/// Numbers stand in both orders, the little one first.
fn both_long(n: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&n.to_le_bytes());
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn both_short(n: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&n.to_le_bytes());
    bytes[2..].copy_from_slice(&n.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a program says; `None` where it is not installed.
    fn said(program: &str, args: &[&str]) -> Option<String> {
        let output = Command::new(program).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// udev finds the drive by what libblkid reads, and blkid is in every Debian.
    #[test]
    fn others_read_its_label_and_its_file() {
        let content = vec![b'x'; 3000];
        let disk = image("FIRSTBOOT", "payload", &content).unwrap();
        assert_eq!(disk.len(), 23 * SECTOR);
        assert_eq!(&disk[FILE * SECTOR..FILE * SECTOR + 3000], &content);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), &disk).unwrap();
        let path = file.path().to_str().unwrap();
        let blkid = |what| said("/usr/sbin/blkid", &["-p", "-o", "value", "-s", what, path]);
        assert_eq!(blkid("LABEL").as_deref(), Some("FIRSTBOOT"));
        assert_eq!(blkid("TYPE").as_deref(), Some("iso9660"));
        if let Some(found) = said("bsdtar", &["-xOf", path]) {
            assert_eq!(found.as_bytes(), content);
        }
    }

    #[test]
    fn what_the_form_does_not_have_is_refused() {
        assert!(image("firstboot", "payload", b"").is_err());
        assert!(image("FIRSTBOOT", "a-long-name", b"").is_err());
    }
}
