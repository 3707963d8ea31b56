//! Taking a snapshot and carrying it to NFS.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use node::command::Run as _;
use node::files;
use node::values::Digest;

use super::place::{Place, Reach, reach};
use super::sidecar::{ENDING, SCHEMA, Sidecar};
use super::{LOCAL, choose, copy, retention};
use crate::boot::Boot;

/// Start of our snapshots' names: K3s' own scheduled ones and their retention stay apart.
const NAME: &str = "firstboot";
/// How many of ours stay on the local disk.
const LOCAL_KEPT: &str = "3";
/// K3s gives itself 2 minutes for one; `timeout` counts in seconds.
const LIMIT: &str = "150";
/// The cluster's server CA, by which a restored cluster is known.
pub const CA: &str = "var/lib/rancher/k3s/server/tls/server-ca.crt";
/// Read by `node_exporter`'s textfile collector.
const METRICS: &str = "var/lib/node_exporter/textfile/firstboot_snapshot.prom";

/// Held while a snapshot is taken: the timer, a request and a planned stop may come together.
const LOCK: &str = "run/firstboot/snapshot.lock";

/// Takes one, carries it to NFS, reads it back, and removes what is more than should be kept.
///
/// # Errors
/// K3s does not run, NFS is not there, or what came to NFS is not what was taken.
pub fn save(boot: &Boot) -> Result<Sidecar> {
    let place = match reach(boot)? {
        Reach::There(place) => place,
        Reach::NotNow(why) => bail!("{why}"),
        Reach::Nowhere => bail!("cluster.toml has no `nfs` export to keep snapshots on"),
    };
    let _alone = alone(boot)?;
    let carried = take(boot).and_then(|local| carry(boot, &place, &local));
    // Also when NFS took nothing: a request is tried again every minute, and would fill this disk.
    let pruned = k3s(&["prune", "--name", NAME, "--snapshot-retention", LOCAL_KEPT]);
    let sidecar = carried?;
    let copies = prune(&place, &sidecar, &boot.config.k3s_version)?;
    publish(boot, &sidecar, copies)?;
    pruned.map(|()| sidecar)
}

/// The lock; it ends with the process at the latest.
fn alone(boot: &Boot) -> Result<fs::File> {
    let path = boot.path(LOCK);
    files::ensure_file(&path, b"", 0o600)?;
    let file = fs::File::open(path)?;
    file.file().lock().context("failed to wait for another snapshot to end")?;
    Ok(file)
}

fn k3s(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("timeout");
    command.args(["-k", "10", LIMIT, "k3s", "etcd-snapshot"]).args(arguments).run()
}

/// Lets K3s take one and returns it: the one that was not there before. The time in its name says
/// nothing, as the clock may have been ahead when an older one was taken.
fn take(boot: &Boot) -> Result<PathBuf> {
    let folder = boot.path(LOCAL);
    let before = ours(&folder)?;
    k3s(&["save", "--name", NAME])?;
    let after = ours(&folder)?;
    let new = after.into_iter().filter(|(name, mark)| before.get(name) != Some(mark));
    let (name, _) = new
        .max_by_key(|(_, (_, changed))| *changed)
        .context("K3s said that it took a snapshot, and there is no new one")?;
    Ok(folder.join(name))
}

/// Whole snapshots of ours on the local disk: inode and time of change by name.
fn ours(folder: &Path) -> Result<BTreeMap<String, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(e) => return Err(e.into()),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(NAME) && taken(&name).is_some() {
            let meta = entry.metadata()?;
            found.insert(name, (meta.ino(), meta.modified()?));
        }
    }
    Ok(found)
}

/// The time K3s put at the end of a name, in seconds since 1970; `None` for what is still written.
fn taken(name: &str) -> Option<i64> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// The snapshot first and its sidecar after it: whoever sees a sidecar may rely on its snapshot.
fn carry(boot: &Boot, place: &Place, local: &Path) -> Result<Sidecar> {
    let stays = || format!("the snapshot stays on this node's disk, as {}", local.display());
    place.takes_a_write(boot).with_context(stays)?;
    let taken = order(boot, place, local)?;
    let file = format!("{NAME}-{}-{taken}", boot.machine.hostname);
    let target = place.folder.join(&file);
    let (size, sha256) = copy::snapshot(local, &target)?;
    let back = copy::inspect(&target).context("what came to NFS is not what was sent")?;
    anyhow::ensure!(back == (size, sha256), "what came to NFS is not what was sent");
    let sidecar = Sidecar {
        schema: SCHEMA,
        cluster_id: place.id.clone(),
        node: boot.machine.hostname.parse()?,
        taken,
        size,
        sha256,
        ca_sha256: Digest::of(fs::read(boot.path(CA))?),
        token_mark: place.token_mark,
        k3s_version: boot.config.k3s_version.clone(),
        image_id: boot.config.image_id.clone(),
        file,
    };
    let beside = place.folder.join(format!("{}{ENDING}", sidecar.file));
    files::write_atomic(&beside, &sidecar.sign(&place.key)?, 0o600)?;
    Ok(sidecar)
}

/// The time of a snapshot, in seconds since 1970 by K3s' clock, but always later than those of the
/// ones on NFS: a clock that was ahead once must not keep its snapshots the newest for a year.
fn order(boot: &Boot, place: &Place, local: &Path) -> Result<i64> {
    let name = local.file_name().unwrap_or_default().to_string_lossy();
    let mut at = taken(&name).context("the snapshot's name has no time")?;
    if let Some(newest) = choose::look(place, &boot.config.k3s_version)?.fits.first() {
        at = at.max(newest.taken.saturating_add(1));
    }
    // One that may not be restored keeps its name as well.
    let name = |at: i64| format!("{NAME}-{}-{at}", boot.machine.hostname);
    while fs::exists(place.folder.join(name(at)))? {
        at = at.saturating_add(1);
    }
    Ok(at)
}

/// Removes the surplus, each sidecar before its snapshot, and returns how many stay. Runs only after
/// `newest` was read back whole, and never removes that one.
fn prune(place: &Place, newest: &Sidecar, k3s_version: &str) -> Result<usize> {
    files::sweep(&place.folder);
    remove_strays(place, newest)?;
    let shelf = choose::look(place, k3s_version)?;
    let taken: Vec<_> = shelf.fits.iter().map(|s| s.taken).collect();
    let surplus = retention::surplus(&taken);
    for file in surplus.iter().map(|at| &shelf.fits[*at].file).filter(|f| **f != newest.file) {
        files::ensure_absent(&place.folder.join(format!("{file}{ENDING}")))?;
        files::ensure_absent(&place.folder.join(file))?;
    }
    Ok(taken.len() - surplus.len())
}

/// Removes snapshots of this node that power was lost beside before their sidecar was there: none
/// can ever be restored, and each is as large as the database.
fn remove_strays(place: &Place, newest: &Sidecar) -> Result<()> {
    let prefix = format!("{NAME}-{}-", newest.node);
    for entry in fs::read_dir(&place.folder)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let number = file.strip_prefix(&prefix).and_then(|n| n.parse::<i64>().ok());
        let beside = place.folder.join(format!("{file}{ENDING}"));
        if number.is_some() && !fs::exists(beside)? {
            files::ensure_absent(&place.folder.join(file))?;
        }
    }
    Ok(())
}

/// Says when the last good one was taken.
fn publish(boot: &Boot, sidecar: &Sidecar, copies: usize) -> Result<()> {
    let text = format!(
        "# HELP firstboot_snapshot_last_success_timestamp_seconds When the newest etcd snapshot on NFS was taken.\n\
         # TYPE firstboot_snapshot_last_success_timestamp_seconds gauge\n\
         firstboot_snapshot_last_success_timestamp_seconds {}\n\
         # HELP firstboot_snapshot_size_bytes Its size.\n\
         # TYPE firstboot_snapshot_size_bytes gauge\n\
         firstboot_snapshot_size_bytes {}\n\
         # HELP firstboot_snapshot_copies Etcd snapshots on NFS that this server could restore.\n\
         # TYPE firstboot_snapshot_copies gauge\n\
         firstboot_snapshot_copies {copies}\n",
        sidecar.taken, sidecar.size
    );
    files::ensure_file(&boot.path(METRICS), text.as_bytes(), 0o644).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::choose::look;
    use crate::snapshot::copy::tests::whole;
    use crate::snapshot::place::tests::{place, server};
    use crate::testing;
    use proptest::prelude::*;

    const VERSION: &str = "v1.36.4+k3s1";

    fn put(boot: &Boot, at: i64) -> PathBuf {
        let path = boot.path(LOCAL).join(format!("firstboot-k3s-master-{at}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, whole(at.to_le_bytes()[0])).unwrap();
        path
    }

    #[test]
    fn one_is_carried_with_its_facts_and_what_is_no_whole_one_of_ours_is_not_seen() {
        let (_dir, boot) = server(true);
        testing::put(&boot, CA, "ca");
        let path = put(&boot, 10);
        fs::write(boot.path(LOCAL).join("firstboot-k3s-master-11.part"), "").unwrap();
        fs::write(boot.path(LOCAL).join("etcd-snapshot-k3s-master-12"), "").unwrap();
        let names: Vec<_> = ours(&boot.path(LOCAL)).unwrap().into_keys().collect();
        assert_eq!(names, ["firstboot-k3s-master-10"]);
        let place = place(&boot);
        let sidecar = carry(&boot, &place, &path).unwrap();
        assert_eq!((sidecar.taken, sidecar.ca_sha256), (10, Digest::of("ca")));
        assert_eq!(look(&place, VERSION).unwrap().fits, std::slice::from_ref(&sidecar));
        publish(&boot, &sidecar, 1).unwrap();
        let text = testing::get(&boot, METRICS).unwrap();
        assert!(text.contains("\nfirstboot_snapshot_last_success_timestamp_seconds 10\n"));
        assert!(text.ends_with("\nfirstboot_snapshot_copies 1\n"), "{text}");
    }

    /// As a hard mount whose server died: a planned stop waits for this, and must go on (traps B7).
    #[test]
    fn a_share_that_hangs_is_given_up_and_the_snapshot_stays_here() {
        let (_dir, boot) = server(true);
        testing::put(&boot, CA, "ca");
        let (place, local) = (place(&boot), put(&boot, 10));
        fs::create_dir_all(&place.folder).unwrap();
        // Whoever opens it for writing waits for a reader.
        let mut pipe = Command::new("mkfifo");
        pipe.arg(place.folder.join(".probe")).run().unwrap();
        let text = format!("{:#}", carry(&boot, &place, &local).unwrap_err());
        let want = "NFS is mounted, but its server does not answer (waited 2.0 s)";
        assert!(
            text.starts_with("the snapshot stays on this node's disk, as ") && text.ends_with(want)
        );
        assert!(local.exists());
    }

    #[test]
    fn pruning_leaves_the_newest_and_everything_that_is_not_ours() {
        let (_dir, boot) = server(true);
        testing::put(&boot, CA, "ca");
        let place = place(&boot);
        let saved = (100..120).map(|at| carry(&boot, &place, &put(&boot, at)).unwrap()).last();
        let strangers =
            ["notes.txt", "foreign.json", "firstboot-other-1", "firstboot-k3s-master-x"];
        for name in strangers {
            fs::write(place.folder.join(name), "{}").unwrap();
        }
        fs::write(place.folder.join("firstboot-k3s-master-77"), "power was lost here").unwrap();
        assert_eq!(prune(&place, &saved.unwrap(), VERSION).unwrap(), 8);
        let left = look(&place, VERSION).unwrap();
        let taken: Vec<_> = left.fits.iter().map(|s| s.taken).collect();
        assert_eq!(taken, [119, 118, 117, 116, 115, 114, 113, 112]);
        // Eight with their sidecars, and the strangers.
        assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 16 + strangers.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn whatever_the_clock_does_the_one_just_saved_stays_and_is_the_newest(
            clock in prop::collection::vec(0i64..90, 1..16)
        ) {
            let (_dir, boot) = server(true);
            testing::put(&boot, CA, "ca");
            let place = place(&boot);
            for day in clock {
                let local = put(&boot, 1_800_000_000 + day * 24 * 60 * 60);
                let saved = carry(&boot, &place, &local).unwrap();
                let copies = prune(&place, &saved, VERSION).unwrap();
                let shelf = look(&place, VERSION).unwrap();
                prop_assert_eq!(&shelf.fits[0], &saved);
                prop_assert_eq!((shelf.fits.len(), shelf.refused.len()), (copies, 0));
                prop_assert!(copy::inspect(&place.folder.join(&saved.file)).is_ok());
            }
        }
    }
}
