//! Who may start a cluster (D11): decided at every boot of a server from what is on its disk, on NFS
//! and in its identity. An image never holds `cluster-init`.

use std::path::Path;

use anyhow::{Context, Result};
use node::config::Role;
use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::journal;
use crate::peers::{self, Peers};
use crate::snapshot::choose;
use crate::snapshot::place::{Reach, reach};
use crate::steps::secret::SERVER_TOKEN;

/// Set by a join secret with `bootstrap`, removed once its node is Ready: the one-time
/// [`Permission`] to make a new cluster, or to restore one of several servers.
pub const PERMISSION: &str = "var/lib/firstboot/may-initialise";
/// Written before a restore touches anything, removed when it stands.
pub const UNFINISHED: &str = "var/lib/firstboot/restoring";
/// K3s' embedded etcd, by the file that etcd writes first and needs always.
pub const DATABASE: &str = "var/lib/rancher/k3s/server/db/etcd/member/snap/db";

/// The server that this one joined or joins: a URL, for K3s' `server:`.
pub const PEER: &str = "var/lib/firstboot/peer";

/// The content of [`PERMISSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permission {
    /// No other permission has it: says on NFS whose the cluster is.
    pub nonce: String,
    /// Whether the cluster is to be recorded on NFS.
    pub recorded: bool,
    /// Not to make a new cluster, but to bring back one that has lost all of its several servers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restore: bool,
}

/// What lies on NFS for this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shelf {
    /// Nothing ever does: cluster.toml names no export.
    Nowhere,
    /// Not known now, for this reason.
    Unreachable(String),
    /// No snapshot.
    Empty,
    /// Snapshots, none of which may be restored; the newest's reason.
    Unfit(String),
    /// At least one that may be restored.
    Fits,
}

/// What the decision is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// A restore was begun and has not come to its end.
    pub unfinished: bool,
    /// There is an etcd database on this disk.
    pub database: bool,
    /// The one-time permission is here and not used up.
    pub permission: Option<Permission>,
    /// What the other servers say; asked for only where it counts.
    pub peers: Peers,
    /// Asked for only where it counts: with a database NFS has no part in the decision.
    pub shelf: Shelf,
}

/// How K3s' server is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From the database on this disk.
    Disk,
    /// As one more server of the cluster that answers at this URL.
    Join(String),
    /// From the newest snapshot that fits.
    Restore,
    /// As the first server of a new cluster.
    Initialise(Permission),
    /// Not yet, as NFS is away, for this reason; it is tried again by itself.
    Wait(String),
    /// Not yet, as no other server answers, for this reason; they are asked again by themselves.
    WaitForPeers(String),
    /// Not at all, for this reason.
    Stop(String),
}

impl Facts {
    /// Looks at this server.
    ///
    /// # Errors
    /// The disk or NFS cannot be asked; that must not read as "nothing there".
    pub fn of(boot: &Boot) -> Result<Self> {
        let exists = |path: &str| -> Result<bool> { Ok(fs_err::exists(boot.path(path))?) };
        let (unfinished, database) = (exists(UNFINISHED)?, exists(DATABASE)?);
        let settled = database && !unfinished;
        let peers = if settled { Peers::Unasked } else { peers(boot)? };
        let shelf = if settled { Shelf::Nowhere } else { shelf(boot)? };
        Ok(Self { unfinished, database, permission: permission(boot)?, peers, shelf })
    }
}

/// Whether there is a whole database on this disk, and not what a cut restore left.
///
/// # Errors
/// The disk cannot be asked; that must not read as "nothing there".
pub fn has_database(boot: &Boot) -> Result<bool> {
    let exists = |path: &str| -> Result<bool> { Ok(fs_err::exists(boot.path(path))?) };
    Ok(exists(DATABASE)? && !exists(UNFINISHED)?)
}

/// The permission, if it is there.
///
/// # Errors
/// The file cannot be read.
pub fn permission(boot: &Boot) -> Result<Option<Permission>> {
    let text = read_if_there(&boot.path(PERMISSION))?;
    text.map(|text| serde_json::from_str(&text).with_context(|| format!("/{PERMISSION}")))
        .transpose()
}

/// The server that this one joined, if it did.
///
/// # Errors
/// The file cannot be read.
pub fn peer(boot: &Boot) -> Result<Option<String>> {
    Ok(read_if_there(&boot.path(PEER))?.map(|text| text.trim().to_owned()))
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs_err::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn peers(boot: &Boot) -> Result<Peers> {
    let servers = boot.config.cluster.nodes.iter().filter(|n| n.role == Role::Server).count();
    if servers < 2 {
        return Ok(Peers::Unasked);
    }
    let token = fs_err::read_to_string(boot.path(SERVER_TOKEN))?;
    let root = &boot.machine.root;
    let warn = |text: &str| journal::warn(root, "origin", text);
    Ok(peers::ask(&boot.config, &boot.machine.hostname, &token, warn))
}

fn shelf(boot: &Boot) -> Result<Shelf> {
    let place = match reach(boot)? {
        Reach::Nowhere => return Ok(Shelf::Nowhere),
        Reach::NotNow(why) => return Ok(Shelf::Unreachable(why)),
        Reach::There(place) => place,
    };
    let found = match choose::look_within(&place, &boot.config.k3s_version) {
        Ok(found) => found,
        // It may have a snapshot all the same: nothing is decided without knowing.
        Err(why) => return Ok(Shelf::Unreachable(format!("{why:#}"))),
    };
    Ok(match (found.fits.is_empty(), found.refused.last()) {
        (false, _) => Shelf::Fits,
        (true, None) => Shelf::Empty,
        (true, Some(last)) => Shelf::Unfit(format!(
            "none of {} snapshots on NFS may be restored; {}: {}",
            found.refused.len(),
            last.file,
            last.reason
        )),
    })
}

/// The decision, in D11's order.
pub fn decide(facts: &Facts) -> Origin {
    match facts {
        Facts { unfinished: true, .. } => again(facts),
        // With the permission still here power was lost while the cluster was made: K3s goes on
        // where it was, with the same flag.
        Facts { database: true, permission: Some(own), .. } if !own.restore => {
            Origin::Initialise(own.clone())
        }
        Facts { database: true, .. } => Origin::Disk,
        // Whatever lies on NFS or is permitted: a cluster that lives is joined and never doubled.
        Facts { peers: Peers::Ours(url), .. } => Origin::Join(url.clone()),
        Facts { peers: Peers::Strange(why), .. } => Origin::Stop(why.clone()),
        Facts { peers: Peers::Silent(why), permission: None, .. } => {
            Origin::WaitForPeers(format!("no other server answers: {why}"))
        }
        Facts { peers: Peers::Silent(_), permission: Some(own), shelf, .. } if !own.restore => {
            first(shelf, own)
        }
        Facts { shelf, permission, .. } => alone(shelf, permission.as_ref()),
    }
}

/// A restore was cut short.
fn again(facts: &Facts) -> Origin {
    if let Peers::Ours(what) | Peers::Strange(what) = &facts.peers {
        let text = "a restore was cut short here, and meanwhile another server runs";
        return Origin::Stop(format!("{text}: {what}"));
    }
    match &facts.shelf {
        Shelf::Fits => Origin::Restore,
        Shelf::Unreachable(why) => Origin::Wait(why.clone()),
        Shelf::Unfit(why) => Origin::Stop(format!("a restore was cut short, and now {why}")),
        Shelf::Empty | Shelf::Nowhere => {
            Origin::Stop("a restore was cut short, and its snapshots are gone".into())
        }
    }
}

/// The first of several servers may make the cluster, and nothing says that there was one.
fn first(shelf: &Shelf, own: &Permission) -> Origin {
    match shelf {
        Shelf::Unreachable(why) if own.recorded => Origin::Wait(why.clone()),
        Shelf::Fits | Shelf::Unfit(_) => Origin::Stop(
            "this cluster has snapshots on NFS, and the join secret permits only a new one".into(),
        ),
        _ => Origin::Initialise(own.clone()),
    }
}

/// The only server, or the one that is to bring back a cluster of several.
fn alone(shelf: &Shelf, permission: Option<&Permission>) -> Origin {
    match (shelf, permission) {
        (Shelf::Fits, _) => Origin::Restore,
        (Shelf::Unfit(why), _) => Origin::Stop(why.clone()),
        (Shelf::Unreachable(_), Some(own)) if !own.recorded => Origin::Initialise(own.clone()),
        (Shelf::Unreachable(why), _) => Origin::Wait(why.clone()),
        (_, Some(own)) if own.restore => {
            Origin::Stop("there is no snapshot of this server on NFS to restore".into())
        }
        (Shelf::Empty | Shelf::Nowhere, Some(own)) => Origin::Initialise(own.clone()),
        (Shelf::Empty | Shelf::Nowhere, None) => Origin::Stop(
            "this server has no database, there is no snapshot of it, and its join secret does \
             not permit a new cluster"
                .into(),
        ),
    }
}

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
