//! Where a cluster's snapshots lie on NFS, and its record: `k3s-snapshots/CLUSTER-ID/NODE/` on the
//! first export of cluster.toml, by name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use node::config::Birth;
use node::values::{Digest, Hostname};
use node::{failpoint, files};
use serde::{Deserialize, Serialize};

use super::sidecar::Key;
use crate::boot::Boot;
use crate::nfs;
use crate::retry::within;
use crate::steps::secret::{CLUSTER_ID, SERVER_TOKEN, SNAPSHOT_KEY};

/// Made and removed to see whether the server takes a write.
const PROBE: &str = ".probe";
/// How long one small file may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Folder of all clusters on an export.
const TOP: &str = "k3s-snapshots";
/// The record that says a cluster was started, and by whom.
const RECORD: &str = "cluster.json";

/// A reachable place.
#[derive(Debug, Clone)]
pub struct Place {
    /// Of the whole cluster.
    pub cluster: PathBuf,
    /// Of this node.
    pub folder: PathBuf,
    /// The cluster's id.
    pub id: Hostname,
    /// What signs and checks sidecars.
    pub key: Key,
    /// Mark of this server's token.
    pub token_mark: Digest,
}

/// Whether there is a place.
#[derive(Debug)]
pub enum Reach {
    /// cluster.toml has no NFS export: snapshots stay on the local disk.
    Nowhere,
    /// There is one, and it cannot be had now, for this reason.
    NotNow(String),
    /// Here.
    There(Place),
}

/// Looks for the place; never touches an export that is not mounted.
///
/// # Errors
/// The node's own secrets or the kernel's table cannot be read.
pub fn reach(boot: &Boot) -> Result<Reach> {
    let Some(fact) = boot.config.cluster.nfs.first() else { return Ok(Reach::Nowhere) };
    if !nfs::mounted(&boot.machine, fact)? {
        let text = format!("NFS {}:{} is not mounted", fact.server, fact.export);
        return Ok(Reach::NotNow(text));
    }
    let read = |path: &str| fs_err::read_to_string(boot.path(path)).context("a secret is missing");
    let id: Hostname = read(CLUSTER_ID)?.trim().parse()?;
    let key = Key::parse(&read(SNAPSHOT_KEY)?)?;
    let cluster = boot.path(fact.mount_point()).join(TOP).join(id.as_str());
    Ok(Reach::There(Place {
        folder: cluster.join(&boot.machine.hostname),
        token_mark: key.token_mark(&read(SERVER_TOKEN)?)?,
        cluster,
        id,
        key,
    }))
}

/// The record of a cluster on NFS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    cluster_id: Hostname,
    node: String,
    /// Of the permission it was made with: the same server may go on after a power cut.
    nonce: String,
    /// What the cluster was born with; nothing in a record that is older than this field.
    #[serde(default)]
    birth: Birth,
}

/// Whether a claim holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The cluster is ours to start.
    Ours,
    /// It was started before, by this node.
    Taken(String),
}

impl Place {
    /// Claims the cluster by making its record, which only one can: a hard link of a whole file
    /// either is made or finds the name taken, on NFS too.
    ///
    /// # Errors
    /// The export cannot be written or read.
    pub fn claim(&self, node: &str, nonce: &str, birth: &Birth) -> Result<Claim> {
        fs_err::create_dir_all(&self.cluster)?;
        let path = self.cluster.join(RECORD);
        let (cluster_id, birth) = (self.id.clone(), birth.clone());
        let ours = Record { cluster_id, node: node.into(), nonce: nonce.to_owned(), birth };
        let fresh = self.cluster.join(format!(".{RECORD}.{nonce}"));
        files::write_atomic(&fresh, &serde_json::to_vec_pretty(&ours)?, 0o600)?;
        failpoint::reach();
        let linked = fs_err::hard_link(&fresh, &path);
        failpoint::reach();
        files::ensure_absent(&fresh)?;
        match linked {
            Ok(()) => files::sync_folder_of(&path).map(|()| Claim::Ours),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let record = read_record(&path)?;
                let same = (&record.node, &record.nonce) == (&ours.node, &ours.nonce);
                Ok(if same { Claim::Ours } else { Claim::Taken(record.node) })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Makes this node's folder and sees that the server takes a write, in at most 20 s: on a hard
    /// mount, one to a dead server comes back when the server does, and a planned stop cannot wait.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub fn takes_a_write(&self, boot: &Boot) -> Result<()> {
        let folder = self.folder.clone();
        // Tests cut waits short; a sound disk of a busy machine still gets this long.
        let limit = boot.machine.limit(LIMIT).max(Duration::from_secs(2));
        within(limit, "NFS is mounted, but its server", move || {
            fs_err::create_dir_all(&folder)?;
            fs_err::write(folder.join(PROBE), b"")?;
            Ok(fs_err::remove_file(folder.join(PROBE))?)
        })
    }

    /// What the cluster was born with, as its record says; nothing when there is none.
    ///
    /// # Errors
    /// The record cannot be read, or NFS does not answer in time.
    pub fn birth(&self) -> Result<Birth> {
        let path = self.cluster.join(RECORD);
        within(LIMIT, "NFS is mounted, but its server", move || {
            Ok(if fs_err::exists(&path)? { read_record(&path)?.birth } else { Birth::new() })
        })
    }
}

fn read_record(path: &Path) -> Result<Record> {
    let text = fs_err::read(path)?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} is no cluster record", path.display()))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::snapshot::sidecar::tests::key;
    use crate::testing;
    use node::config::NfsFact;
    use tempfile::TempDir;

    /// A server with its secrets and, if `mounted`, its NFS.
    pub fn server(mounted: bool) -> (TempDir, Boot) {
        let (dir, mut boot) = testing::server();
        boot.config.cluster.nfs = vec![NfsFact {
            name: "data".parse().unwrap(),
            server: "192.0.2.9".parse().unwrap(),
            export: "/vol".into(),
        }];
        let line = "90 21 0:50 / /srv/nfs/data rw - nfs4 192.0.2.9:/vol rw\n";
        testing::put(&boot, "proc/self/mountinfo", if mounted { line } else { "" });
        testing::put(&boot, CLUSTER_ID, "home-1\n");
        testing::put(&boot, SNAPSHOT_KEY, &"ab".repeat(32));
        testing::put(&boot, SERVER_TOKEN, "s3cret\n");
        (dir, boot)
    }

    pub fn place(boot: &Boot) -> Place {
        match reach(boot).unwrap() {
            Reach::There(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_place_is_below_the_mount_of_this_cluster_and_node() {
        let (_dir, boot) = server(true);
        let place = place(&boot);
        let want = boot.path("srv/nfs/data/k3s-snapshots/home-1/k3s-master");
        assert_eq!(place.folder, want);
        assert_eq!(place.token_mark, key().token_mark("s3cret").unwrap());
        let (_dir, boot) = server(false);
        assert!(matches!(reach(&boot).unwrap(), Reach::NotNow(why) if why.contains("/vol")));
        let (_dir, boot) = testing::server();
        assert!(matches!(reach(&boot).unwrap(), Reach::Nowhere));
    }

    #[test]
    fn a_cluster_is_claimed_once_and_its_claimer_may_go_on() {
        let (_dir, boot) = server(true);
        let place = place(&boot);
        let birth = Birth::from([("cluster-cidr".into(), "10.42.0.0/16".into())]);
        assert_eq!(place.birth().unwrap(), Birth::new());
        assert_eq!(place.claim("k3s-master", "n1", &birth).unwrap(), Claim::Ours);
        assert_eq!(place.claim("k3s-master", "n1", &birth).unwrap(), Claim::Ours);
        let taken = Claim::Taken("k3s-master".into());
        assert_eq!(place.claim("k3s-master", "n2", &birth).unwrap(), taken);
        assert_eq!(place.birth().unwrap(), birth);
        // One of before the field says nothing.
        let old = r#"{"cluster_id":"home-1","node":"k3s-master","nonce":"n1"}"#;
        fs_err::write(place.cluster.join(RECORD), old).unwrap();
        assert_eq!(place.birth().unwrap(), Birth::new());
        let names: Vec<_> =
            fs_err::read_dir(&place.cluster).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [RECORD]);
    }
}
