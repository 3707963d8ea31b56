//! The systemd units of the cluster's NFS exports. They are part of the image: a unit written at boot
//! would cost a reload of systemd, which runs all generators again.
//!
//! Plain mount units, and no automount, which hangs whoever looks early in a boot (traps B8).
//! Nothing requires them: K3s starts and stops without the server.

use crate::config::NfsFact;

/// Where the units lie, relative to the root.
const UNITS: &str = "usr/lib/systemd/system";

/// The export's unit files, `(path relative to the root, text)`.
pub fn files(fact: &NfsFact) -> [(String, String); 2] {
    let path = |kind| format!("{UNITS}/{}", unit(fact, kind));
    [(path("mount"), mount_unit(fact)), (path("timer"), timer_unit(fact))]
}

/// The export as mount(8) is told it, `SERVER:PATH`.
pub fn source(fact: &NfsFact) -> String {
    format!("{}:{}", fact.server, fact.export)
}

/// Options of the mount, with their reasons.
///
/// `nfsvers=4` lets mount.nfs begin with 4.2 and go down to what the server speaks, never to 3,
/// which would need the port mapper; `nfsvers=4.2` would refuse a server of 4.1. `hard`: a write
/// that a slow server has not answered is waited for and never lost. `timeo` (tenths of a second)
/// and `retrans`: "not responding" stands in the log after 15 s and 30 s, and not after minutes.
/// `retry=0`: one try, as the timer brings the next.
const OPTIONS: &str = "nfsvers=4,proto=tcp,hard,timeo=150,retrans=2,retry=0,noatime,_netdev";

/// Seconds that mounting and unmounting may take: a connection to a machine that is off is given
/// up after 3 s without an answer to ARP, and to one behind a router after 15 s.
const TIMEOUT: u32 = 30;

/// Seconds from a failed mount, or a lost one, to the next try: no restore waits much longer than
/// the server takes to come back, and a server that is gone for good costs a packet in that time.
const RETRY: u32 = 20;

/// Name of the export's unit of a `kind` (`mount`, `timer`): systemd wants it made of the mount
/// point, with `-` for `/` and `\x2d` for `-`.
pub fn unit(fact: &NfsFact, kind: &str) -> String {
    let escaped = fact.mount_point().replace('-', "\\x2d").replace('/', "-");
    format!("{escaped}.{kind}")
}

/// The export's mount unit. Without the default dependencies: with them remote-fs.target, and so
/// every login, would wait for the server when both are started at once. What they order at
/// shutdown stands here instead: unmounted while the network is still there, and by force.
fn mount_unit(fact: &NfsFact) -> String {
    let what = source(fact).replace('%', "%%");
    let place = fact.mount_point();
    format!(
        "# Of cluster.toml; started by the timer beside it.\n\
         [Unit]\n\
         Description=NFS export `{name}` of the cluster\n\
         DefaultDependencies=no\n\
         After=network.target network-online.target systemd-networkd.service\n\
         Conflicts=umount.target\n\
         # Stopped after it: the last snapshot before a planned stop goes here.\n\
         Before=umount.target firstboot-last-snapshot.service\n\
         \n\
         [Mount]\n\
         What={what}\n\
         Where=/{place}\n\
         Type=nfs\n\
         Options={OPTIONS}\n\
         TimeoutSec={TIMEOUT}\n\
         # A dead server must not hold up a shutdown.\n\
         LazyUnmount=yes\n\
         ForceUnmount=yes\n",
        name = fact.name,
    )
}

/// The timer that mounts the export, and mounts it again [`RETRY`] seconds after it failed or was
/// lost; while it is mounted the timer rests. systemd restarts services only, not mounts.
fn timer_unit(fact: &NfsFact) -> String {
    format!(
        "# Of cluster.toml; started by firstboot once the mount point is guarded.\n\
         [Unit]\n\
         Description=Mount the NFS export `{name}` as soon as its server answers\n\
         \n\
         [Timer]\n\
         Unit={mount}\n\
         OnActiveSec=0\n\
         OnUnitInactiveSec={RETRY}\n\
         AccuracySec=1\n",
        name = fact.name,
        mount = unit(fact, "mount"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact() -> NfsFact {
        let server = "192.0.2.9".parse().unwrap();
        NfsFact { name: "my-data".parse().unwrap(), server, export: "/50%".to_owned() }
    }

    #[test]
    fn the_units_are_named_as_systemd_wants_and_hold_one_line_per_key() {
        let [(mount, text), (timer, timer_text)] = files(&fact());
        assert_eq!(mount, r"usr/lib/systemd/system/srv-nfs-my\x2ddata.mount");
        assert_eq!(timer, r"usr/lib/systemd/system/srv-nfs-my\x2ddata.timer");
        assert!(text.contains("\nWhat=192.0.2.9:/50%%\nWhere=/srv/nfs/my-data\n"), "{text}");
        assert!(timer_text.contains("\nUnit=srv-nfs-my\\x2ddata.mount\n"));
    }

    #[test]
    fn systemd_reads_them_without_a_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let paths = files(&fact()).map(|(path, text)| {
            let path = dir.path().join(path);
            crate::files::ensure_file(&path, text.as_bytes(), 0o644).unwrap();
            path
        });
        let mut verify = std::process::Command::new("systemd-analyze");
        let Ok(output) = verify.args(["verify", "--man=no"]).args(paths).output() else {
            panic!("this test needs systemd-analyze")
        };
        let said = String::from_utf8(output.stderr).unwrap();
        let ours: Vec<_> = said.lines().filter(|l| l.contains("srv-nfs")).collect();
        assert!(output.status.success() && ours.is_empty(), "{said}");
    }
}
