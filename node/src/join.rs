//! The join secret as it travels to a node (D10): one JSON object behind a header line with its
//! length and digest, so that a half-written file is told from a wrong one.

use serde::{Deserialize, Serialize};

use crate::config::Role;
use crate::json;
use crate::token::Token;
use crate::values::{Digest, Hostname};

/// Folder on the node, a tmpfs, root, 0700, that the guest agent writes into.
pub const FOLDER: &str = "run/firstboot/join";
/// Name of the payload in it.
pub const FILE: &str = "payload";
/// Label of the drive that may hold the payload instead, as [`FILE`].
pub const DRIVE: &str = "FIRSTBOOT";
/// Fields that no message may show.
const SECRET: &[&str] = &["token", "agent_token", "snapshot_key"];
/// First word of the header line.
const MAGIC: &str = "firstboot-join-1";

/// What a node needs to start or join K3s.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The node it is meant for; any other refuses it.
    pub node: Hostname,
    /// The K3s token of the node's role.
    pub token: String,
    /// Agents' own token, given to servers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_token: Option<String>,
    /// The cluster's id, minted once: snapshots on NFS lie below it. Servers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Hostname>,
    /// Key of the snapshots' HMAC-SHA256, 64 hexadecimal digits. Servers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_key: Option<String>,
    /// One-time permission to start a new cluster (D11); servers only.
    #[serde(default)]
    pub bootstrap: Bootstrap,
}

/// Whether a server may start a new cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bootstrap {
    /// No: it restores a snapshot or stops.
    #[default]
    No,
    /// Once, if no server has a record of this cluster on NFS yet.
    Once,
    /// Once, without a record: whoever says so has just minted the cluster's id. For boot tests,
    /// which have no NFS.
    Unrecorded,
    /// Not a new one: once, to bring back a cluster of several servers from this server's newest
    /// snapshot after all of them are lost.
    Restore,
}

// A token must not reach a log by way of `{:?}`.
impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join")
            .field("node", &self.node)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

/// Why a payload is no join secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotJoin {
    /// It may still be on its way: shorter than its header says, or the header line has not ended.
    #[error("incomplete: {}", so_far(*.have, *.want))]
    Incomplete {
        /// Bytes there: of the content, or of the header while that is not whole.
        have: usize,
        /// Bytes of content that the header announces, once it is whole.
        want: Option<usize>,
    },
    /// Complete, but not what it should be.
    #[error("broken: {0}")]
    Broken(String),
}

fn so_far(have: usize, want: Option<usize>) -> String {
    match want {
        Some(want) => format!("{have} of {want} bytes behind the header"),
        None => format!("{have} bytes, and the header line has no end yet"),
    }
}

impl Join {
    /// The bytes to write: `firstboot-join-1 LENGTH SHA256\n` and the JSON.
    ///
    /// # Errors
    /// Never in practice: the type has no value that JSON cannot hold.
    pub fn encode(&self) -> serde_json::Result<Vec<u8>> {
        let body = serde_json::to_vec(self)?;
        let mut out = format!("{MAGIC} {} {}\n", body.len(), Digest::of(&body)).into_bytes();
        out.extend_from_slice(&body);
        Ok(out)
    }

    /// Reads what [`Join::encode`] wrote.
    ///
    /// # Errors
    /// [`NotJoin::Incomplete`] while bytes are missing, else [`NotJoin::Broken`] with the reason.
    pub fn decode(data: &[u8]) -> Result<Self, NotJoin> {
        let broken = |text: &str| NotJoin::Broken(text.to_owned());
        // Written from its beginning on: what begins otherwise will not become one.
        if data.iter().zip(MAGIC.bytes()).any(|(is, want)| *is != want) {
            return Err(broken("does not start with `firstboot-join-1`"));
        }
        let Some(end) = data.iter().take(160).position(|b| *b == b'\n') else {
            return match data.len() {
                0..160 => Err(NotJoin::Incomplete { have: data.len(), want: None }),
                _ => Err(broken("has no header line")),
            };
        };
        let header = std::str::from_utf8(&data[..end]).map_err(|_| broken("header is not text"))?;
        let body = &data[end + 1..];
        let mut words = header.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(broken("does not start with `firstboot-join-1`"));
        }
        let want: usize =
            words.next().and_then(|w| w.parse().ok()).ok_or_else(|| broken("has no length"))?;
        let digest: Digest =
            words.next().and_then(|w| w.parse().ok()).ok_or_else(|| broken("has no digest"))?;
        if body.len() < want {
            return Err(NotJoin::Incomplete { have: body.len(), want: Some(want) });
        }
        if body.len() > want || Digest::of(body) != digest {
            return Err(broken("its bytes do not have the announced digest"));
        }
        let join: Self = json::read(body, SECRET).map_err(NotJoin::Broken)?;
        join.check().map_err(NotJoin::Broken)?;
        Ok(join)
    }

    /// What holds for every node.
    fn check(&self) -> Result<(), String> {
        let tokens = [("token", Some(&self.token)), ("agent_token", self.agent_token.as_ref())];
        for (field, token) in tokens {
            let Some(token) = token else { continue };
            Token::parse(token).map_err(|rule| format!("`{field}` is a token {rule}"))?;
        }
        match self.snapshot_key.as_ref().map(|key| key.parse::<Digest>()) {
            Some(Err(_)) => Err("`snapshot_key` is not 64 lower-case hexadecimal digits".into()),
            _ => Ok(()),
        }
    }

    /// Whether it is what a node of this role gets.
    ///
    /// # Errors
    /// The field that does not fit, and why, as words that follow "the join secret".
    pub fn check_role(&self, role: Role) -> Result<(), String> {
        let user = Token::parse(&self.token).map_or("", |token| token.user);
        let servers_only = [
            ("token", user == "server"),
            ("agent_token", self.agent_token.is_some()),
            ("cluster_id", self.cluster_id.is_some()),
            ("snapshot_key", self.snapshot_key.is_some()),
            ("bootstrap", self.bootstrap != Bootstrap::No),
        ];
        let needed = [
            ("cluster_id", self.cluster_id.is_none()),
            ("snapshot_key", self.snapshot_key.is_none()),
        ];
        match role {
            Role::Agent => match servers_only.iter().find(|(_, given)| *given) {
                Some((field, _)) => Err(format!(
                    "has a `{field}` that only a server may have, and this is an agent"
                )),
                None => Ok(()),
            },
            Role::Server => match needed.iter().find(|(_, missing)| *missing) {
                Some((field, _)) => Err(format!("lacks `{field}`, which every server needs")),
                None if user == "node" => {
                    Err("has a `token` of an agent, and this is a server".to_owned())
                }
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Join {
        Join {
            node: "k3s-worker-01".parse().unwrap(),
            token: "s3cret-token".into(),
            agent_token: None,
            cluster_id: None,
            snapshot_key: None,
            bootstrap: Bootstrap::No,
        }
    }

    #[test]
    fn every_cut_is_incomplete_and_every_flipped_byte_is_broken() {
        let whole = sample().encode().unwrap();
        assert_eq!(Join::decode(&whole).unwrap(), sample());
        for cut in 0..whole.len() {
            assert!(
                matches!(Join::decode(&whole[..cut]), Err(NotJoin::Incomplete { .. })),
                "{cut}"
            );
        }
        let header = whole.iter().position(|b| *b == b'\n').unwrap();
        for at in header + 1..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(matches!(Join::decode(&bad), Err(NotJoin::Broken(_))), "{at}");
        }
    }

    #[test]
    fn what_is_on_its_way_says_how_far_it_came_and_what_never_was_one_says_so() {
        let whole = sample().encode().unwrap();
        let header = whole.iter().position(|b| *b == b'\n').unwrap();
        let said = |data: &[u8]| Join::decode(data).unwrap_err().to_string();
        assert_eq!(said(b""), "incomplete: 0 bytes, and the header line has no end yet");
        assert_eq!(said(&whole[..36]), "incomplete: 36 bytes, and the header line has no end yet");
        let length = whole.len() - header - 1;
        let want = format!("incomplete: 5 of {length} bytes behind the header");
        assert_eq!(said(&whole[..header + 6]), want);
        // With or without its line's end.
        for wrong in ["s3cret", "s3cret\n", "firstboot-join-2 9 ", "firstboot-join-10 9 x\n"] {
            let want = "broken: does not start with `firstboot-join-1`";
            assert_eq!(said(wrong.as_bytes()), want, "{wrong}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_the_token() {
        assert!(!format!("{:?}", sample()).contains("s3cret"));
        let body = br#"{"node":"a","token":"s3cret-token","extra":1}"#;
        let mut data = format!("{MAGIC} {} {}\n", body.len(), Digest::of(body)).into_bytes();
        data.extend_from_slice(body);
        let text = Join::decode(&data).unwrap_err().to_string();
        assert!(!text.contains("s3cret") && text.contains("unknown field `extra`"), "{text}");
    }

    #[test]
    fn a_role_gets_what_is_its_own() {
        let full = |user| format!("K10{}::{user}:s3cret", "ab".repeat(32));
        let agent = |change: fn(&mut Join)| {
            let mut join = sample();
            change(&mut join);
            join.check_role(Role::Agent)
        };
        assert_eq!(agent(|_| ()), Ok(()));
        for (field, change) in [
            ("agent_token", (|j| j.agent_token = Some("x".into())) as fn(&mut Join)),
            ("cluster_id", |j| j.cluster_id = "x".parse().ok()),
            ("snapshot_key", |j| j.snapshot_key = Some("x".into())),
            ("bootstrap", |j| j.bootstrap = Bootstrap::Restore),
        ] {
            assert!(agent(change).unwrap_err().starts_with(&format!("has a `{field}` that only")));
        }
        let of = |token: String| Join { token, ..sample() };
        assert!(of(full("node")).check_role(Role::Agent).is_ok());
        assert!(of(full("server")).check_role(Role::Agent).is_err());
        let mut server = of(full("node"));
        assert_eq!(
            server.check_role(Role::Server).unwrap_err(),
            "lacks `cluster_id`, which every server needs"
        );
        server.cluster_id = "home-1".parse().ok();
        server.snapshot_key = Some("ab".repeat(32));
        assert!(server.check_role(Role::Server).unwrap_err().contains("`token` of an agent"));
        server.token = full("server");
        assert_eq!(server.check_role(Role::Server), Ok(()));
    }
}
