//! Who may start a cluster (D11): decided at every boot of a server from what is on its disk, in
//! its image and in its identity. An image never holds `cluster-init`.

use anyhow::Result;
use node::config::Role;

use crate::boot::Boot;

/// Set by a join secret with `bootstrap`, removed once the new cluster's API has answered: the
/// one-time permission to make a new cluster.
pub const PERMISSION: &str = "var/lib/firstboot/may-initialise";

/// K3s' embedded etcd, by the file that etcd writes first and needs always.
const DATABASE: &str = "var/lib/rancher/k3s/server/db/etcd/member/snap/db";

/// What the decision is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// There is an etcd database on this disk.
    pub database: bool,
    /// The one-time permission to initialise is here and not used up.
    pub permission: bool,
    /// Servers in `cluster.toml`, this one included.
    pub servers: usize,
}

/// How K3s' server is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the database on this disk.
    Disk,
    /// As the first server of a new cluster.
    Initialise,
    /// Not at all, for this reason.
    Stop(&'static str),
}

impl Facts {
    /// Looks at this server.
    ///
    /// # Errors
    /// The disk cannot be asked; that must not read as "no database".
    pub fn of(boot: &Boot) -> Result<Self> {
        let exists = |path: &str| -> Result<bool> {
            let path = boot.path(path);
            path.try_exists()
                .map_err(|e| anyhow::anyhow!("failed to look at {}: {e}", path.display()))
        };
        let servers = boot.config.cluster.nodes.iter().filter(|n| n.role == Role::Server).count();
        Ok(Self { database: exists(DATABASE)?, permission: exists(PERMISSION)?, servers })
    }
}

/// The decision. Its order is D11's: an unfinished restore comes before the first line, a matching
/// snapshot between the third and the fourth, when restores are built in.
pub const fn decide(facts: Facts) -> Origin {
    match facts {
        // Power was lost while the cluster was made: K3s goes on where it was, with the same flag.
        Facts { database: true, permission: true, servers: 1 } => Origin::Initialise,
        Facts { database: true, .. } => Origin::Disk,
        Facts { servers: 2.., .. } => Origin::Stop(
            "cluster.toml has several servers and this one has no database: \
             joining peers is not built in yet",
        ),
        Facts { permission: true, .. } => Origin::Initialise,
        Facts { .. } => Origin::Stop(
            "this server has no database, and its join secret does not permit a new cluster",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let stop = |o: Origin| matches!(o, Origin::Stop(_));
        for (database, permission, servers, want) in [
            (true, false, 1, Origin::Disk),
            (true, true, 1, Origin::Initialise),
            (true, false, 3, Origin::Disk),
            (true, true, 3, Origin::Disk),
            (false, true, 1, Origin::Initialise),
        ] {
            let facts = Facts { database, permission, servers };
            assert_eq!(decide(facts), want, "{facts:?}");
        }
        for (permission, servers) in [(false, 1), (false, 3), (true, 3), (true, 2)] {
            let facts = Facts { database: false, permission, servers };
            assert!(stop(decide(facts)), "{facts:?}");
        }
    }

    #[test]
    fn never_a_new_cluster_without_permission_and_never_a_stop_with_a_database() {
        for bits in 0..4u8 {
            for servers in 1..5 {
                let (database, permission) = (bits & 1 == 1, bits & 2 == 2);
                let made = decide(Facts { database, permission, servers });
                assert!(made != Origin::Initialise || permission);
                assert!(!matches!(made, Origin::Stop(_)) || !database);
            }
        }
    }
}
