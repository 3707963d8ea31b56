//! Whether an NFS export of the cluster is mounted. Asked of the kernel's table and never of the mount
//! itself: a `stat` on a dead server does not come back.

use anyhow::{Result, bail};
use node::config::NfsFact;
use node::nfs::source;

use crate::boot::Machine;

/// The kernel's table of mounts. Paths in it are the node's own, whatever root a test works on.
const MOUNTS: &str = "proc/self/mountinfo";

/// Whether `fact`'s export is mounted at its mount point. Does not touch the mount.
///
/// # Errors
/// The table cannot be read, or something else is mounted there.
pub fn mounted(machine: &Machine, fact: &NfsFact) -> Result<bool> {
    let table = fs_err::read_to_string(machine.path(MOUNTS))?;
    let place = format!("/{}", fact.mount_point());
    // The last line of a place is what lies on top.
    let Some(found) = table.lines().rev().filter_map(Mount::parse).find(|m| m.place == place)
    else {
        return Ok(false);
    };
    let want = source(fact);
    if !matches!(found.kind, "nfs" | "nfs4") || trimmed(&found.source) != trimmed(&want) {
        bail!("{place} holds {} ({}), and not {want}", found.source, found.kind);
    }
    Ok(true)
}

/// A source without the slashes at its end, which the kernel keeps or drops as it likes.
fn trimmed(source: &str) -> &str {
    source.trim_end_matches('/')
}

/// What one line of `mountinfo` says (`proc_pid_mountinfo(5)`).
struct Mount<'a> {
    place: String,
    kind: &'a str,
    source: String,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // Optional fields of any number stand before the lone dash.
        let (left, right) = line.split_once(" - ")?;
        let place = unescape(left.split(' ').nth(4)?);
        let mut words = right.split(' ');
        Some(Self { place, kind: words.next()?, source: unescape(words.next()?) })
    }
}

/// Undoes the kernel's `\040` for blanks, tabs, line ends and backslashes.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const ROOT: &str = "21 1 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n";

    fn fact() -> NfsFact {
        let server = "192.0.2.9".parse().unwrap();
        NfsFact { name: "data".parse().unwrap(), server, export: "/vol 1/k8s".to_owned() }
    }

    fn line(kind: &str, source: &str) -> String {
        format!("90 21 0:50 / /srv/nfs/data rw shared:2 master:1 - {kind} {source} rw,vers=4.2\n")
    }

    #[test]
    fn an_export_is_mounted_only_when_the_kernel_says_so_of_it() {
        let (_dir, boot) = testing::agent();
        let look = |table: &str| {
            testing::put(&boot, MOUNTS, table);
            mounted(&boot.machine, &fact())
        };
        assert!(!look(ROOT).unwrap());
        let ours = line("nfs4", "192.0.2.9:/vol\\0401/k8s");
        assert!(look(&format!("{ROOT}{ours}")).unwrap());
        assert!(look(&format!("{ROOT}{}", line("nfs4", "192.0.2.9:/vol\\0401/k8s/"))).unwrap());
        let text = look(&format!("{ours}{}", line("tmpfs", "none"))).unwrap_err().to_string();
        assert_eq!(text, "/srv/nfs/data holds none (tmpfs), and not 192.0.2.9:/vol 1/k8s");
        let other = line("nfs4", "192.0.2.8:/vol\\0401/k8s");
        assert!(look(&other).unwrap_err().to_string().contains("192.0.2.8"));
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error_and_not_unmounted() {
        let (_dir, boot) = testing::agent();
        assert!(mounted(&boot.machine, &fact()).is_err());
    }

    #[test]
    fn what_the_kernel_escapes_is_read_back() {
        for (text, want) in
            [("a\\040b", "a b"), ("\\134x", "\\x"), ("\\9", "\\9"), ("é\\011", "é\t")]
        {
            assert_eq!(unescape(text), want);
        }
    }
}
