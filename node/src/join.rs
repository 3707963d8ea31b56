//! The join secret as it travels to a node (D10): one JSON object behind a header line with its
//! length and digest, so that a half-written file is told from a wrong one.

use serde::{Deserialize, Serialize};

use crate::values::{Digest, Hostname};

/// Folder on the node, a tmpfs, root, 0700, that the guest agent writes into.
pub const FOLDER: &str = "run/firstboot/join";
/// Name of the payload in it.
pub const FILE: &str = "payload";
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
    /// One-time permission to start a new cluster (D11); servers only.
    #[serde(default)]
    pub bootstrap: bool,
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
    /// Shorter than its header says, or without a whole header: it may still be on its way.
    #[error("incomplete: {have} of {want} bytes")]
    Incomplete {
        /// Bytes there.
        have: usize,
        /// Bytes announced (0 while the header itself is not whole).
        want: usize,
    },
    /// Complete, but not what it should be.
    #[error("broken: {0}")]
    Broken(String),
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
        let Some(end) = data.iter().take(160).position(|b| *b == b'\n') else {
            return match data.len() {
                0..160 => Err(NotJoin::Incomplete { have: data.len(), want: 0 }),
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
            return Err(NotJoin::Incomplete { have: body.len(), want });
        }
        if body.len() > want || Digest::of(body) != digest {
            return Err(broken("its bytes do not have the announced digest"));
        }
        // serde's message could quote the token; say where, not what.
        serde_json::from_slice(body)
            .map_err(|e| NotJoin::Broken(format!("wrong content at column {}", e.column())))
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
            bootstrap: false,
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
    fn neither_debug_nor_an_error_shows_the_token() {
        assert!(!format!("{:?}", sample()).contains("s3cret"));
        let body = br#"{"node":"a","token":"s3cret-token","extra":1}"#;
        let mut data = format!("{MAGIC} {} {}\n", body.len(), Digest::of(body)).into_bytes();
        data.extend_from_slice(body);
        assert!(!Join::decode(&data).unwrap_err().to_string().contains("s3cret"));
    }
}
