//! The ledger: what was intended and what was done, kept over boots. The intent is written before
//! a step acts and the success after it, both keyed by the digest of the baked configuration, so
//! that a step cut short by a power loss runs again, whatever the system looks like.
//!
//! The ledger never stands in for a look at the system: a step is skipped only when both agree.
//! A ledger that cannot be read is therefore harmless: every step runs once more and finds its
//! work done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::files;
use node::values::Digest;
use serde::{Deserialize, Serialize};

/// Where the ledger lies, relative to the root.
pub const PATH: &str = "var/lib/firstboot/ledger.json";

/// Version of the file's shape.
const SCHEMA: u32 = 1;

/// The file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    schema: u32,
    steps: BTreeMap<String, Entry>,
}

/// One step's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Digest of the configuration the step ran for.
    pub config: Digest,
    /// Boot in which it was intended.
    pub boot_id: String,
    /// Whether it came to its end.
    pub done: bool,
}

/// The ledger of this node, open for one stage.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    config: Digest,
    boot_id: String,
    content: Content,
    /// Why the file could not be used, when it could not.
    pub lost: Option<String>,
}

impl Ledger {
    /// Opens the ledger below `root` for a configuration of digest `config`.
    pub fn open(root: &Path, config: Digest, boot_id: &str) -> Self {
        let path = root.join(PATH);
        let (content, lost) = match read(&path) {
            Ok(content) => (content, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let content = content.unwrap_or(Content { schema: SCHEMA, steps: BTreeMap::new() });
        Self { path, config, boot_id: boot_id.to_owned(), content, lost }
    }

    /// Whether a step came to its end for this very configuration.
    pub fn is_done(&self, step: &str) -> bool {
        self.content.steps.get(step).is_some_and(|e| e.done && e.config == self.config)
    }

    /// Records, durably, that a step is about to act.
    ///
    /// # Errors
    /// The file cannot be written; the step must then not act.
    pub fn intend(&mut self, step: &str) -> Result<()> {
        self.record(step, false)
    }

    /// Records, durably, that a step came to its end.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(&mut self, step: &str) -> Result<()> {
        self.record(step, true)
    }

    /// Every entry by step name.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.content.steps
    }

    fn record(&mut self, step: &str, done: bool) -> Result<()> {
        let entry = Entry { config: self.config, boot_id: self.boot_id.clone(), done };
        self.content.steps.insert(step.to_owned(), entry);
        let text = serde_json::to_vec_pretty(&self.content).context("failed to encode ledger")?;
        if let Some(folder) = self.path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        files::write_atomic(&self.path, &text, 0o600).context("failed to write the ledger")
    }
}

/// `None` when there is no ledger yet.
fn read(path: &Path) -> Result<Option<Content>> {
    let text = match fs_err::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let content: Content = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a ledger", path.display()))?;
    anyhow::ensure!(content.schema == SCHEMA, "its schema is {}, not {SCHEMA}", content.schema);
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(root: &Path, config: &str) -> Ledger {
        Ledger::open(root, Digest::of(config), "boot-1")
    }

    #[test]
    fn a_step_is_done_only_after_its_end_and_for_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), "a");
        assert!(!ledger.is_done("nfs"));
        ledger.intend("nfs").unwrap();
        assert!(!open(dir.path(), "a").is_done("nfs"));
        ledger.finish("nfs").unwrap();
        assert!(open(dir.path(), "a").is_done("nfs"));
        assert!(!open(dir.path(), "b").is_done("nfs"));
        open(dir.path(), "a").intend("nfs").unwrap();
        assert!(!open(dir.path(), "a").is_done("nfs"));
    }

    #[test]
    fn every_torn_ledger_reads_as_nothing_done_and_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = open(dir.path(), "a");
        ledger.finish("nfs").unwrap();
        let whole = fs_err::read(dir.path().join(PATH)).unwrap();
        for cut in 0..whole.len() {
            fs_err::write(dir.path().join(PATH), &whole[..cut]).unwrap();
            let mut torn = open(dir.path(), "a");
            assert!(torn.lost.is_some() && !torn.is_done("nfs"), "cut at {cut}");
            torn.finish("nfs").unwrap();
            assert!(open(dir.path(), "a").lost.is_none());
        }
    }
}
