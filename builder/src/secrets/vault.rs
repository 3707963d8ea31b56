//! The encrypted file: opened, changed in memory, and put back whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::files;
use serde::{Deserialize, Serialize};

use super::key::{self, Key};
use super::{Escrow, FILE};

/// Version of the content's shape.
const SCHEMA: u32 = 1;

/// Values of one Kubernetes Secret by key.
pub type Values = BTreeMap<String, String>;

/// What stands in the file.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// [`SCHEMA`].
    schema: u32,
    /// The cluster's own; `None` before `builder cluster init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Escrow>,
    /// The bundle's Secrets, by `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret: BTreeMap<String, Values>,
}

// Names only: the values must not reach a log.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("cluster", &self.cluster)
            .field("secret", &self.secret.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Content {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { schema: SCHEMA, ..Self::default() }
    }

    /// Reads and checks the text.
    ///
    /// # Errors
    /// Where it is wrong; never what it holds there, as that may be a secret.
    pub fn parse(text: &str) -> Result<Self> {
        let content: Self = toml::from_str(text).map_err(|error| place(text, &error))?;
        ensure!(
            content.schema == SCHEMA,
            "schema is {}, this builder reads {SCHEMA}",
            content.schema
        );
        content.cluster.as_ref().map_or(Ok(()), Escrow::check)?;
        Ok(content)
    }

    /// The text as it is encrypted.
    ///
    /// # Errors
    /// Never in practice: the type has no value that TOML cannot hold.
    pub fn to_text(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }
}

/// The error of the parser without the line it quotes.
fn place(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    let kind = match error.message() {
        m if m.starts_with("unknown field") || m.starts_with("missing field") => m,
        m if m.starts_with("duplicate key") => "duplicate key",
        m if m.starts_with("invalid type") => "wrong type: all values are texts in quotes",
        _ => "not valid TOML",
    };
    anyhow::anyhow!("line {line}: {kind}")
}

/// The file and its key.
#[derive(Debug)]
pub struct Vault {
    /// Where the encrypted file lies.
    pub path: PathBuf,
    /// What opens it.
    pub key: Key,
}

impl Vault {
    /// That of the project at `root`, with the operator's key.
    ///
    /// # Errors
    /// There is no key; it says how to make one.
    pub fn of(root: &Path) -> Result<Self> {
        let path = key::path()?;
        let key = Key::read(&path)?.with_context(|| {
            format!(
                "there is no age key at {}; make one with `builder secrets init`, or name yours in {}",
                path.display(),
                key::VARIABLE
            )
        })?;
        Ok(Self { path: root.join(FILE), key })
    }

    /// Opens the file; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be decrypted with this key, or its content is not as it must be.
    pub fn open(&self) -> Result<Option<Content>> {
        let sealed = match fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            sealed => sealed?,
        };
        let file = self.path.display();
        let plain = self.key.decrypt(&sealed).with_context(|| {
            format!("failed to decrypt {file} with the key in {}", self.key.path.display())
        })?;
        let text = String::from_utf8(plain).with_context(|| format!("{file} holds no text"))?;
        Ok(Some(Content::parse(&text).with_context(|| format!("{file}, decrypted"))?))
    }

    /// Encrypts `content` in the file's place.
    ///
    /// # Errors
    /// It cannot be written; the old file then still stands.
    pub fn save(&self, content: &Content) -> Result<()> {
        let text = content.to_text()?;
        Content::parse(&text).context("failed to read back what would be written")?;
        let sealed = self.key.encrypt(text.as_bytes()).context("failed to encrypt")?;
        files::write_atomic(&self.path, &sealed, 0o600)
    }

    /// The cluster's escrow.
    ///
    /// # Errors
    /// The file cannot be opened, or holds none; it says how to make one.
    pub fn escrow(&self) -> Result<Escrow> {
        let content = self.open()?;
        content.and_then(|c| c.cluster).with_context(|| {
            format!("{} has no cluster yet; run `builder cluster init`", self.path.display())
        })
    }

    /// Adds the hash of the server CA to the escrow, once it is known.
    ///
    /// # Errors
    /// There is no escrow, or it has another hash: the API that answered is another cluster's.
    pub fn record_ca(&self, hash: node::values::Digest) -> Result<()> {
        let mut content = self.open()?.unwrap_or_else(Content::new);
        let file = self.path.display();
        let cluster = content
            .cluster
            .as_mut()
            .with_context(|| format!("{file} has no cluster yet; run `builder cluster init`"))?;
        match cluster.ca_hash {
            Some(known) if known == hash => return Ok(()),
            Some(known) => anyhow::bail!(
                "the API answers with another CA ({hash}) than the cluster {} was born with ({known})",
                cluster.cluster_id
            ),
            None => cluster.ca_hash = Some(hash),
        }
        self.save(&content)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use node::values::Digest;

    /// A vault in a folder of its own, with nothing in it.
    pub fn vault() -> (tempfile::TempDir, Vault) {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = Key::read_or_make(&dir.path().join("age.key")).unwrap();
        let path = dir.path().join("secrets.age");
        (dir, Vault { path, key })
    }

    #[test]
    fn what_is_saved_is_read_back_and_no_secret_lies_in_the_file() {
        let (_dir, vault) = vault();
        assert_eq!(vault.open().unwrap(), None);
        let mut content = Content::new();
        content.cluster = Some(Escrow::mint(&"home".parse().unwrap()).unwrap());
        let values = [("password".to_owned(), "pa\"ss\nword".to_owned())];
        content.secret.insert("data/postgres".into(), values.into());
        vault.save(&content).unwrap();
        assert_eq!(vault.open().unwrap().unwrap(), content);
        let sealed = fs::read_to_string(&vault.path).unwrap();
        assert!(sealed.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
        assert!(!format!("{content:?}").contains("word"), "{content:?}");
        assert_eq!(vault.escrow().unwrap(), content.cluster.unwrap());
    }

    #[test]
    fn another_key_and_a_changed_file_are_told_apart_from_no_file() {
        let (dir, vault) = vault();
        vault.save(&Content::new()).unwrap();
        let (other, _) = Key::read_or_make(&dir.path().join("other.key")).unwrap();
        let stranger = Vault { path: vault.path.clone(), key: other };
        let text = format!("{:#}", stranger.open().unwrap_err());
        assert!(text.contains("other.key") && text.contains("failed to decrypt"), "{text}");
        let mut sealed = fs::read(&vault.path).unwrap();
        let middle = sealed.len() / 2;
        sealed[middle] = if sealed[middle] == b'A' { b'B' } else { b'A' };
        fs::write(&vault.path, sealed).unwrap();
        vault.open().unwrap_err();
        let text =
            format!("{:#}", Vault { path: dir.path().join("none"), ..vault }.escrow().unwrap_err());
        assert!(text.contains("builder cluster init"), "{text}");
    }

    #[test]
    fn a_broken_text_is_told_by_its_line_and_not_its_content() {
        let cases = [
            ("schema = 1\n[secret.\"a/b\"]\nx = hunter2\n", "line 3: not valid TOML"),
            ("schema = 1\n[secret.\"a/b\"]\nx = 2222\n", "line 3: wrong type"),
            ("schema = 1\nsecrets = \"hunter2\"\n", "unknown field `secrets`"),
            ("schema = 2\n", "schema is 2, this builder reads 1"),
        ];
        for (text, want) in cases {
            let said = format!("{:#}", Content::parse(text).unwrap_err());
            assert!(said.contains(want) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn the_ca_is_recorded_once_and_another_one_is_refused() {
        let (_dir, vault) = vault();
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        assert!(vault.record_ca(a).unwrap_err().to_string().contains("builder cluster init"));
        let mut content = Content::new();
        content.cluster = Some(Escrow::mint(&"home".parse().unwrap()).unwrap());
        vault.save(&content).unwrap();
        vault.record_ca(a).unwrap();
        vault.record_ca(a).unwrap();
        assert_eq!(vault.escrow().unwrap().ca_hash, Some(a));
        assert!(vault.record_ca(b).unwrap_err().to_string().contains("another CA"));
    }
}
