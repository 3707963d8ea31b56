//! The tokens and keys a cluster is born with. Whoever loses them cannot open a snapshot of it.

use anyhow::{Result, ensure};
use node::config::Role;
use node::join::{Bootstrap, Join};
use node::values::{Digest, Hostname};
use serde::{Deserialize, Serialize};

use super::random_text;

/// Characters of a minted token: 256 bits and more.
const TOKEN: usize = 44;
/// Hexadecimal digits of the snapshot key, as HMAC-SHA256 wants 32 bytes.
const SNAPSHOT_KEY: usize = 64;

/// Minted once by `builder cluster init`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escrow {
    /// Names the cluster on NFS; a new cluster has a new one.
    pub cluster_id: Hostname,
    /// The server token: opens the CA keys in every snapshot.
    pub server_token: String,
    /// The token agents join with; it makes no server.
    pub agent_token: String,
    /// Signs snapshots: 64 hexadecimal digits.
    pub snapshot_key: String,
    /// SHA-256 of the cluster's server CA, known once it has started; pins it for whoever joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_hash: Option<Digest>,
}

// None of it but the id may reach a log.
impl std::fmt::Debug for Escrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Escrow").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

impl Escrow {
    /// Mints everything for a new cluster of this short name.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn mint(name: &Hostname) -> Result<Self> {
        let unique = random_text(8)?.to_lowercase();
        // A label of DNS has 63 characters; the id is also a folder's name.
        let short: String = name.as_str().chars().take(40).collect();
        Ok(Self {
            cluster_id: format!("{short}-{unique}").parse()?,
            server_token: random_text(TOKEN)?,
            agent_token: random_text(TOKEN)?,
            snapshot_key: Digest::of(random_text(TOKEN)?).to_string(),
            ca_hash: None,
        })
    }

    /// Whether it can be what [`Escrow::mint`] made: somebody may have edited it.
    ///
    /// # Errors
    /// Says which field is not as it must be, and not what it holds.
    pub fn check(&self) -> Result<()> {
        let hex = self.snapshot_key.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(
            self.snapshot_key.len() == SNAPSHOT_KEY && hex,
            "cluster.snapshot_key must have {SNAPSHOT_KEY} hexadecimal digits"
        );
        for (name, token) in [("server", &self.server_token), ("agent", &self.agent_token)] {
            // K3s splits tokens at `::`; an empty one would let anybody join.
            let sound = token.len() >= 16 && token.bytes().all(|b| b.is_ascii_graphic());
            ensure!(
                sound && !token.contains("::"),
                "cluster.{name}_token must be a password of 16 or more characters without spaces \
                 or `::`"
            );
        }
        ensure!(
            self.server_token != self.agent_token,
            "cluster.agent_token must differ from cluster.server_token: an agent could become a server"
        );
        Ok(())
    }

    /// The join secret of one node. An agent gets `token` if it is given, such as a short-lived one,
    /// else the agents' own, with the CA pinned once it is known.
    pub fn join(
        &self,
        node: &Hostname,
        role: Role,
        token: Option<String>,
        bootstrap: Bootstrap,
    ) -> Join {
        let base = Join {
            node: node.clone(),
            token: String::new(),
            agent_token: None,
            cluster_id: None,
            snapshot_key: None,
            bootstrap: Bootstrap::No,
        };
        match role {
            Role::Agent => {
                Join { token: token.unwrap_or_else(|| self.agent_token_pinned()), ..base }
            }
            Role::Server => Join {
                token: self.server_token.clone(),
                agent_token: Some(self.agent_token.clone()),
                cluster_id: Some(self.cluster_id.clone()),
                snapshot_key: Some(self.snapshot_key.clone()),
                bootstrap,
                ..base
            },
        }
    }

    /// K3s' full form `K10<CA hash>::node:<password>`, or the password while the CA is not known.
    fn agent_token_pinned(&self) -> String {
        let password = &self.agent_token;
        self.ca_hash.map_or_else(|| password.clone(), |hash| format!("K10{hash}::node:{password}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted() -> Escrow {
        Escrow::mint(&"home".parse().unwrap()).unwrap()
    }

    #[test]
    fn what_is_minted_is_sound_and_never_the_same() {
        let (a, b) = (minted(), minted());
        a.check().unwrap();
        assert!(a.cluster_id.as_str().starts_with("home-"));
        assert_ne!(a, b);
        assert_ne!(a.server_token, a.agent_token);
        let long = "a".repeat(63).parse().unwrap();
        Escrow::mint(&long).unwrap();
    }

    #[test]
    fn an_agent_gets_nothing_that_only_a_server_may_have() {
        let mut escrow = minted();
        let name: Hostname = "k3s-worker-01".parse().unwrap();
        let join = escrow.join(&name, Role::Agent, None, Bootstrap::Once);
        assert_eq!(join.token, escrow.agent_token);
        assert_eq!(
            (join.agent_token, join.cluster_id, join.snapshot_key, join.bootstrap),
            (None, None, None, Bootstrap::No)
        );
        escrow.ca_hash = Some(Digest::of("ca"));
        let join = escrow.join(&name, Role::Agent, None, Bootstrap::No);
        assert_eq!(join.token, format!("K10{}::node:{}", Digest::of("ca"), escrow.agent_token));
        let join = escrow.join(&name, Role::Agent, Some("short".into()), Bootstrap::No);
        assert_eq!(join.token, "short");
    }

    #[test]
    fn a_server_gets_all_and_the_permission_it_was_given() {
        let escrow = minted();
        let join = escrow.join(&"m".parse().unwrap(), Role::Server, None, Bootstrap::Once);
        assert_eq!((join.token, join.bootstrap), (escrow.server_token.clone(), Bootstrap::Once));
        assert_eq!(join.agent_token, Some(escrow.agent_token));
        assert_eq!(join.snapshot_key, Some(escrow.snapshot_key));
    }

    type Damage = fn(&mut Escrow);

    #[test]
    fn every_damage_is_told_without_the_value() {
        let cases: [(&str, Damage); 4] = [
            ("cluster.snapshot_key must have 64", |e| e.snapshot_key = "abc".into()),
            ("cluster.agent_token must be a password", |e| e.agent_token = "a b".into()),
            ("cluster.server_token must be a password", |e| {
                e.server_token = "K10abc::server:longenough".into();
            }),
            ("an agent could become a server", |e| e.agent_token = e.server_token.clone()),
        ];
        for (want, damage) in cases {
            let mut escrow = minted();
            damage(&mut escrow);
            let text = escrow.check().unwrap_err().to_string();
            assert!(text.contains(want), "{text}");
            assert!(!text.contains(&escrow.server_token), "{text}");
        }
        assert!(!format!("{:?}", minted()).contains("token"));
    }
}
