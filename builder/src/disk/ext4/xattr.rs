//! Extended attributes in the room behind an inode's fields (kernel docs, `attributes.rst`): 92
//! bytes, enough for the capabilities of a program, or for the two access control lists that systemd
//! gives the folder of the journal.

use std::borrow::Cow;

use anyhow::{Context, Result, bail, ensure};

use super::bytes::write;
use crate::disk::tree::Xattrs;

/// Marks the room as used.
const MAGIC: u64 = 0xea02_0000;
/// Bytes of an entry before its name.
const HEAD: usize = 16;
/// Prefixes of names, each kept as a number.
const PREFIXES: [(&[u8], u64); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
/// Access control lists: a number for the whole name, and a shorter form of the value.
const LISTS: [(&[u8], u64); 2] =
    [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];
/// Versions of a list as programs see it and as it stands on the disk (`posix_acl_xattr.h`, `acl.h`).
const SEEN: [u8; 4] = 2u32.to_le_bytes();
const ON_DISK: [u8; 4] = 1u32.to_le_bytes();
/// Kinds of entries that name a user or a group; only these keep a number on the disk.
const NAMED: [u8; 2] = [0x02, 0x08];

/// Fills `room` with `xattrs`: names from its start, values from its end.
///
/// # Errors
/// They do not fit, or one is of a kind that is not known here.
pub fn fill(room: &mut [u8], xattrs: &Xattrs) -> Result<()> {
    if xattrs.is_empty() {
        return Ok(());
    }
    write(room, &[(0, 4, MAGIC)]);
    let entries = &mut room[4..];
    let (mut at, mut end) = (0, entries.len());
    for (name, value) in xattrs {
        let (index, rest, value) = on_disk(name, value)?;
        end = end.saturating_sub(value.len()) / 4 * 4;
        let next = at + (HEAD + rest.len()).next_multiple_of(4);
        // Four zero bytes end the list of names.
        ensure!(next + 4 <= end, "extended attributes take more than the 92 bytes of an inode");
        let head = [
            (at, 1, rest.len() as u64),
            (at + 1, 1, index),
            (at + 2, 2, end as u64),
            (at + 8, 4, value.len() as u64),
        ];
        write(entries, &head);
        entries[at + HEAD..at + HEAD + rest.len()].copy_from_slice(rest);
        entries[end..end + value.len()].copy_from_slice(&value);
        at = next;
    }
    Ok(())
}

/// An attribute as it stands on the disk: the number of its prefix, the rest of its name, its value.
type Stored<'a> = (u64, &'a [u8], Cow<'a, [u8]>);

fn on_disk<'a>(name: &'a [u8], value: &'a [u8]) -> Result<Stored<'a>> {
    if let Some((_, index)) = LISTS.iter().find(|(list, _)| *list == name) {
        return Ok((*index, b"", list(value)?.into()));
    }
    for (prefix, index) in PREFIXES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Ok((index, rest, value.into()));
        }
    }
    bail!("the extended attribute `{}` is of an unknown kind", String::from_utf8_lossy(name))
}

/// An access control list without the numbers that say nothing.
fn list(value: &[u8]) -> Result<Vec<u8>> {
    let entries = value.strip_prefix(&SEEN).filter(|entries| entries.len().is_multiple_of(8));
    let mut list = ON_DISK.to_vec();
    for entry in entries.context("an access control list is damaged")?.chunks(8) {
        let named = entry[1] == 0 && NAMED.contains(&entry[0]);
        list.extend(&entry[..if named { 8 } else { 4 }]);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pairs: &[(&str, &[u8])]) -> Result<Vec<u8>> {
        let xattrs = pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.to_vec())).collect();
        let mut room = vec![0; 96];
        fill(&mut room, &xattrs).map(|()| room)
    }

    #[test]
    fn names_stand_at_the_start_and_values_at_the_end() {
        let room = filled(&[("security.capability", &[7; 20])]).unwrap();
        assert_eq!(room[..4], [0, 0, 2, 0xea]);
        assert_eq!(room[4..8], [10, 6, 72, 0]);
        assert_eq!(room[12..16], [20, 0, 0, 0]);
        assert_eq!(&room[20..30], b"capability");
        assert_eq!(room[76..], [7; 20]);
        assert_eq!(filled(&[]).unwrap(), [0; 96]);
    }

    #[test]
    fn what_does_not_fit_or_has_another_form_is_refused() {
        assert!(filled(&[("user.a", &[1; 67])]).is_ok(), "17 bytes of name, its end, the value");
        assert!(filled(&[("user.a", &[1; 69])]).is_err());
        assert!(filled(&[("user.a", &[1; 20]), ("user.b", &[2; 20])]).is_ok());
        assert!(filled(&[("system.posix_acl_access", &[1])]).is_err());
        assert!(filled(&[("system.other", &[1])]).is_err());
    }

    /// What systemd gives `/var/log/journal`: rwx, r-x, r-x for group 4, mask r-x, r-x.
    #[test]
    fn access_control_lists_are_shortened_and_two_fit() {
        let mut list = vec![2, 0, 0, 0];
        for (kind, mode, id) in [(1, 7, !0), (4, 5, !0), (8, 5, 4), (16, 5, !0), (32, 5, !0)] {
            list.extend([kind, 0, mode, 0]);
            list.extend(i32::to_le_bytes(id));
        }
        let names = ["system.posix_acl_access", "system.posix_acl_default"];
        let room = filled(&names.map(|name| (name, &list[..]))).unwrap();
        assert_eq!(room[4..8], [0, 2, 64, 0]);
        assert_eq!(room[20..24], [0, 3, 36, 0]);
        let short = [1, 0, 0, 0, 1, 0, 7, 0, 4, 0, 5, 0, 8, 0, 5, 0, 4, 0, 0, 0, 16, 0, 5, 0];
        assert_eq!(room[68..92], short);
        assert_eq!(room[40..64], short);
    }
}
