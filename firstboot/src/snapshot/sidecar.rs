//! What stands beside each snapshot on NFS: whose it is and what it holds, signed with the cluster's
//! snapshot key. Whoever can make a server restore a file of theirs owns the cluster (k3s.md §4.2),
//! so nothing unsigned is ever looked into.

use anyhow::{Context, Result, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use node::image_id::ImageId;
use node::token::Token;
use node::values::{Digest, Hostname};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Version of the file's shape.
pub const SCHEMA: u32 = 1;
/// Ending of the file's name, behind the snapshot's own.
pub const ENDING: &str = ".json";
/// The longest sidecar read: ours have 700 bytes.
pub const LONGEST: u64 = 16 << 10;

/// The cluster's snapshot key. Never shown.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// The text is something else; it is not in the error.
    pub fn parse(text: &str) -> Result<Self> {
        let digest: Result<Digest, _> = text.trim().parse();
        let Ok(digest) = digest else { bail!("the snapshot key is not 64 hexadecimal digits") };
        Ok(Self(*digest.as_bytes()))
    }

    fn mac(&self, data: &[u8]) -> Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).context("HMAC takes any key")?;
        mac.update(data);
        Ok(mac)
    }

    /// What a token is known by beside a snapshot: says nothing of it without the key. The full and
    /// the short form of a token (`K10HASH::server:PASSWORD`, `PASSWORD`) are the same.
    ///
    /// # Errors
    /// Never in practice: HMAC takes any key.
    pub fn token_mark(&self, token: &str) -> Result<Digest> {
        let text = token.trim();
        let password = Token::parse(text).map_or(text, |token| token.password);
        let mac = self.mac(format!("token\0{password}").as_bytes())?;
        Ok(Digest::from_bytes(mac.finalize().into_bytes().into()))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

/// What is known of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The cluster it is of.
    pub cluster_id: Hostname,
    /// The server that took it.
    pub node: Hostname,
    /// Name of the snapshot's file, in the same folder.
    pub file: String,
    /// When it was taken, in seconds since 1970.
    pub taken: i64,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    /// SHA-256 of the cluster's server CA certificate.
    pub ca_sha256: Digest,
    /// The server token in force, by [`Key::token_mark`]: the keys in the snapshot are encrypted
    /// with it.
    pub token_mark: Digest,
    /// K3s' version, such as `v1.36.4+k3s1`.
    pub k3s_version: String,
    /// The image that ran.
    pub image_id: ImageId,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    snapshot: Sidecar,
    hmac: Digest,
}

impl Sidecar {
    /// The file's bytes.
    ///
    /// # Errors
    /// Never in practice: the type has no value that JSON cannot hold.
    pub fn sign(&self, key: &Key) -> Result<Vec<u8>> {
        let mac = key.mac(&serde_json::to_vec(self)?)?;
        let hmac = Digest::from_bytes(mac.finalize().into_bytes().into());
        let mut text = serde_json::to_vec_pretty(&Signed { snapshot: self.clone(), hmac })?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads what [`Sidecar::sign`] wrote for `cluster` with the same key, byte for byte.
    ///
    /// # Errors
    /// It is no sidecar, of another cluster or schema, or not signed with `key`.
    pub fn open(text: &[u8], cluster: &Hostname, key: &Key) -> Result<Self> {
        let signed: Signed = serde_json::from_slice(text).context("it is no sidecar")?;
        let theirs = &signed.snapshot.cluster_id;
        // Before the signature: another cluster has another key, and "not signed" would say less.
        ensure!(theirs == cluster, "it is of the cluster {theirs}, this is {cluster}");
        let mac = key.mac(&serde_json::to_vec(&signed.snapshot)?)?;
        // In constant time.
        if mac.verify_slice(signed.hmac.as_bytes()).is_err() {
            bail!("it is not signed with this cluster's snapshot key");
        }
        let snapshot = signed.snapshot;
        ensure!(snapshot.schema == SCHEMA, "its schema is {}, not {SCHEMA}", snapshot.schema);
        let plain = !snapshot.file.contains('/') && !snapshot.file.starts_with('.');
        ensure!(plain && !snapshot.file.is_empty(), "its file name is no plain name");
        // One text for each value: whatever changed it since was not firstboot.
        ensure!(snapshot.sign(key)? == text, "it was changed after it was written");
        Ok(snapshot)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn key() -> Key {
        Key::parse(&"ab".repeat(32)).unwrap()
    }

    pub fn sidecar(taken: i64) -> Sidecar {
        Sidecar {
            schema: SCHEMA,
            cluster_id: "home-1".parse().unwrap(),
            node: "k3s-master".parse().unwrap(),
            file: format!("firstboot-k3s-master-{taken}"),
            taken,
            size: 544,
            sha256: Digest::of("x"),
            ca_sha256: Digest::of("ca"),
            token_mark: key().token_mark("s3cret").unwrap(),
            k3s_version: "v1.36.4+k3s1".into(),
            image_id: "master-0123456789ab".parse().unwrap(),
        }
    }

    fn open(text: &[u8], key: &Key) -> Result<Sidecar> {
        Sidecar::open(text, &"home-1".parse().unwrap(), key)
    }

    #[test]
    fn what_is_signed_comes_back_and_every_cut_or_changed_byte_is_refused() {
        let text = sidecar(7).sign(&key()).unwrap();
        assert_eq!(open(&text, &key()).unwrap(), sidecar(7));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bad = text.clone();
                bad[at] ^= 1 << bit;
                assert!(open(&bad, &key()).is_err(), "bit {bit} of byte {at}");
            }
            assert!(open(&text[..at], &key()).is_err(), "cut at {at}");
        }
        let other = Key::parse(&"cd".repeat(32)).unwrap();
        let why = open(&text, &other).unwrap_err().to_string();
        assert_eq!(why, "it is not signed with this cluster's snapshot key");
        // One of another cluster, whole and signed by its own key, is told from a forged one.
        let foreign = Sidecar { cluster_id: "away".parse().unwrap(), ..sidecar(7) };
        let why = open(&foreign.sign(&other).unwrap(), &key()).unwrap_err().to_string();
        assert_eq!(why, "it is of the cluster away, this is home-1");
    }

    proptest! {
        #[test]
        fn no_bytes_are_believed_and_none_panic(data in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(open(&data, &key()).is_err());
        }

        #[test]
        fn bytes_put_in_the_place_of_any_others_are_refused(
            at in any::<prop::sample::Index>(),
            length in 0usize..40,
            new in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let text = sidecar(7).sign(&key()).unwrap();
            let from = at.index(text.len());
            let mut bad = text.clone();
            bad.splice(from..(from + length).min(text.len()), new);
            prop_assert_eq!(open(&bad, &key()).is_ok(), bad == text);
        }
    }

    #[test]
    fn a_signed_name_that_leaves_the_folder_is_refused() {
        for name in ["../x", ".x", ""] {
            let bad = Sidecar { file: name.into(), ..sidecar(7) };
            assert!(open(&bad.sign(&key()).unwrap(), &key()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_token_has_one_mark_in_both_forms_and_a_key_is_never_shown() {
        let mark = |token: &str| key().token_mark(token).unwrap();
        assert_eq!(mark("s3cret\n"), mark(&format!("K10{}::server:s3cret", "ab".repeat(32))));
        assert_ne!(mark("s3cret"), mark("other"));
        assert_eq!(format!("{:?}", key()), "Key(…)");
        assert!(!Key::parse("s3cret").unwrap_err().to_string().contains("s3cret"));
    }
}
