//! Which snapshots on NFS this server may restore: newest first, each refusal with its reason. Only
//! sidecars are read, so that a thousand snapshots take no time; a snapshot's own bytes are checked
//! when it is copied.

use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use fs_err as fs;
use serde::Serialize;

use super::place::Place;
use super::sidecar::{ENDING, LONGEST, Sidecar};
use crate::retry::within;

/// How long a look may take: a thousand sidecars need a second of a slow server.
const LIMIT: Duration = Duration::from_mins(1);

/// All that lies in this node's folder.
#[derive(Debug, Default)]
pub struct Shelf {
    /// What may be restored, newest first.
    pub fits: Vec<Sidecar>,
    /// Sidecars that may not, with the reason, by name.
    pub refused: Vec<Refused>,
}

/// One that may not be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Name of the sidecar.
    pub file: String,
    /// Why.
    pub reason: String,
}

/// Like [`look`], given up when NFS does not answer.
///
/// # Errors
/// As [`look`], or no answer in time.
pub fn look_within(place: &Place, k3s_version: &str) -> Result<Shelf> {
    let (place, version) = (place.clone(), k3s_version.to_owned());
    within(LIMIT, "NFS is mounted, but its server", move || look(&place, &version))
}

/// Reads all sidecars of this node. A folder that is not there yet is empty.
///
/// # Errors
/// The folder cannot be read.
pub fn look(place: &Place, k3s_version: &str) -> Result<Shelf> {
    let mut shelf = Shelf::default();
    let entries = match fs::read_dir(&place.folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(shelf),
        Err(e) => return Err(e.into()),
    };
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.starts_with('.') || !file.ends_with(ENDING) {
            continue;
        }
        let Some(text) = text(&entry.path())? else { continue };
        match read(place, &file, &text, k3s_version)? {
            Ok(sidecar) => shelf.fits.push(sidecar),
            Err(why) => shelf.refused.push(Refused { file, reason: format!("{why:#}") }),
        }
    }
    shelf.fits.sort_by_key(|s| std::cmp::Reverse((s.taken, s.file.clone())));
    shelf.refused.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(shelf)
}

/// A sidecar's bytes; `None` for what is no file, or is gone since the folder was read.
///
/// # Errors
/// It cannot be read now. That says nothing of the snapshot: to pass over the newest for it would
/// lose what an older one does not have.
fn text(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The sidecar `file`, or why it may not be restored.
///
/// # Errors
/// Its snapshot cannot be asked for its size.
fn read(place: &Place, file: &str, text: &[u8], k3s_version: &str) -> Result<Result<Sidecar>> {
    let believed = Sidecar::open(text, &place.id, &place.key).and_then(|sidecar| {
        // A copy under another name would count as one more snapshot, and retention would remove
        // the only real one.
        let own = format!("{}{ENDING}", sidecar.file);
        ensure!(file == own, "it is a copy of {own}");
        fits(&sidecar, place, k3s_version)?;
        Ok(sidecar)
    });
    let Ok(sidecar) = believed else { return Ok(believed) };
    match fs::metadata(place.folder.join(&sidecar.file)) {
        Ok(found) if found.len() == sidecar.size => Ok(Ok(sidecar)),
        Ok(found) => {
            Ok(Err(anyhow!("its snapshot has {} bytes, not {}", found.len(), sidecar.size)))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Err(anyhow!("no snapshot beside it"))),
        Err(e) => Err(e.into()),
    }
}

/// Whether a signed snapshot of this cluster is of this token and no newer K3s.
fn fits(sidecar: &Sidecar, place: &Place, k3s_version: &str) -> Result<()> {
    ensure!(
        sidecar.token_mark == place.token_mark,
        "it was taken under another server token than this node was given"
    );
    let (theirs, ours) = (minor(&sidecar.k3s_version)?, minor(k3s_version)?);
    ensure!(
        theirs <= ours,
        "it is of K3s {}, newer than this image's {k3s_version}",
        sidecar.k3s_version
    );
    Ok(())
}

/// Major and minor of a version such as `v1.36.4+k3s1`: a database is only ever read by the same
/// or a newer minor (k3s.md §4.3).
fn minor(version: &str) -> Result<(u32, u32)> {
    let parsed = version.strip_prefix('v').and_then(|v| {
        let mut parts = v.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    parsed.with_context(|| format!("`{version}` is no version of K3s"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::snapshot::copy::tests::whole;
    use crate::snapshot::place::tests::{place, server};
    use crate::snapshot::sidecar::Key;
    use crate::snapshot::sidecar::tests::{key, sidecar};
    use node::values::Digest;

    const VERSION: &str = "v1.36.4+k3s1";

    /// Puts a snapshot and its sidecar, signed by `key`, into the node's folder.
    pub fn put(place: &Place, mut sidecar: Sidecar, key: &Key) {
        let bytes = whole(sidecar.taken.to_le_bytes()[0]);
        fs::create_dir_all(&place.folder).unwrap();
        fs::write(place.folder.join(&sidecar.file), &bytes).unwrap();
        (sidecar.size, sidecar.sha256) = (bytes.len() as u64, Digest::of(&bytes));
        let name = format!("{}{ENDING}", sidecar.file);
        fs::write(place.folder.join(name), sidecar.sign(key).unwrap()).unwrap();
    }

    #[test]
    fn the_newest_that_fits_is_first_and_each_other_has_its_own_reason() {
        let (_dir, boot) = server(true);
        let place = place(&boot);
        assert!(look(&place, VERSION).unwrap().fits.is_empty());
        put(&place, sidecar(5), &key());
        put(&place, sidecar(9), &key());
        let other = |change: fn(&mut Sidecar)| {
            let mut made = sidecar(100);
            change(&mut made);
            made
        };
        put(
            &place,
            other(|s| (s.file, s.cluster_id) = ("a".into(), "away".parse().unwrap())),
            &key(),
        );
        put(&place, other(|s| (s.file, s.token_mark) = ("b".into(), Digest::of("y"))), &key());
        put(
            &place,
            other(|s| (s.file, s.k3s_version) = ("c".into(), "v1.37.0+k3s1".into())),
            &key(),
        );
        put(&place, other(|s| s.file = "d".into()), &Key::parse(&"cd".repeat(32)).unwrap());
        put(&place, other(|s| s.file = "e".into()), &key());
        fs::write(place.folder.join("e"), "short").unwrap();
        put(&place, other(|s| s.file = "f".into()), &key());
        fs::remove_file(place.folder.join("f")).unwrap();
        fs::write(place.folder.join("g.json"), "{").unwrap();
        let shelf = look(&place, VERSION).unwrap();
        let taken: Vec<_> = shelf.fits.iter().map(|s| s.taken).collect();
        assert_eq!(taken, [9, 5]);
        let wanted = [
            "it is of the cluster away, this is home-1",
            "it was taken under another server token",
            "it is of K3s v1.37.0+k3s1, newer than this image's v1.36.4+k3s1",
            "it is not signed with this cluster's snapshot key",
            "its snapshot has 5 bytes, not 1056",
            "no snapshot beside it",
            "it is no sidecar",
        ];
        for (refused, want) in shelf.refused.iter().zip(wanted) {
            assert!(refused.reason.starts_with(want), "{refused:?}");
        }
        assert_eq!(shelf.refused.len(), wanted.len());
    }

    #[test]
    fn a_sidecar_that_cannot_be_read_is_no_reason_to_take_an_older_snapshot() {
        let (_dir, boot) = server(true);
        let place = place(&boot);
        put(&place, sidecar(5), &key());
        // What a share that stumbles says (ELOOP here, ESTALE or EIO there).
        let newest = place.folder.join("firstboot-k3s-master-9.json");
        std::os::unix::fs::symlink(&newest, &newest).unwrap();
        assert!(look(&place, VERSION).is_err());
        fs::remove_file(&newest).unwrap();
        fs::create_dir(&newest).unwrap();
        assert_eq!(look(&place, VERSION).unwrap().fits.len(), 1, "a folder is no sidecar");
    }

    #[test]
    fn a_copied_sidecar_is_not_one_more_snapshot() {
        let (_dir, boot) = server(true);
        let place = place(&boot);
        put(&place, sidecar(5), &key());
        let name = "firstboot-k3s-master-5.json";
        fs::copy(place.folder.join(name), place.folder.join("copy.json")).unwrap();
        let shelf = look(&place, VERSION).unwrap();
        assert_eq!((shelf.fits.len(), shelf.refused.len()), (1, 1));
        assert_eq!(shelf.refused[0].reason, format!("it is a copy of {name}"));
    }

    #[test]
    fn an_older_minor_is_restored_and_a_version_that_is_none_is_not() {
        for (theirs, good) in [("v1.36.9+k3s2", true), ("v1.9.0+k3s1", true), ("1.36", false)] {
            let (_dir, boot) = server(true);
            let made = Sidecar { k3s_version: theirs.into(), ..sidecar(1) };
            assert_eq!(fits(&made, &place(&boot), VERSION).is_ok(), good, "{theirs}");
        }
    }
}
