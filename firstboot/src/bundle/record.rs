//! What this program knows of its own work, in a `ConfigMap` of the cluster: it lives and is restored
//! with what it speaks of. Only what stands here is ever removed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use node::bundle::MANAGER;
use node::failpoint;
use node::values::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::objects::ObjectRef;
use crate::kubernetes::Kubernetes;

/// The namespace of record and Lease.
pub const NAMESPACE: &str = "kube-system";
/// Name of the `ConfigMap`.
pub const NAME: &str = "firstboot-bundle";
/// Longest cause kept, in bytes: a `ConfigMap` has 1 MiB for all.
const CAUSE: usize = 500;

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The highest revision that was begun; 0 for none.
    pub revision: u64,
    /// The bundle that was applied whole.
    pub digest: Option<Digest>,
    /// Releases that are ours, by `NAMESPACE/NAME`.
    pub releases: BTreeMap<String, Entry>,
}

/// A release that is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What is applied, or was last tried.
    pub digest: Digest,
    /// How far it came.
    pub state: State,
    /// Whether it holds data, as its bundle said.
    pub stateful: bool,
    /// Plain objects applied for it.
    #[serde(default)]
    pub objects: BTreeSet<ObjectRef>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// How far a release came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun; a run that ended here is taken up again.
    Applying,
    /// Applied and healthy.
    Deployed,
    /// Failed, and tried again.
    Failed,
    /// Being removed.
    Removing,
}

impl Entry {
    /// Notes why it failed.
    pub fn fail(&mut self, cause: &str) {
        self.state = State::Failed;
        let end = (0..=cause.len().min(CAUSE)).rev().find(|at| cause.is_char_boundary(*at));
        cause[..end.unwrap_or(0)].clone_into(&mut self.cause);
    }
}

impl Record {
    /// Reads the record; one that is not there yet is empty.
    ///
    /// # Errors
    /// The API does not answer, or the record is not ours to understand.
    pub fn read(kubernetes: &Kubernetes) -> Result<Self> {
        let api: Api<ConfigMap> = Api::namespaced(kubernetes.client(), NAMESPACE);
        let found = kubernetes.wait(api.get_opt(NAME));
        let found = found.context("failed to ask for the bundle's record")?;
        let Some(data) = found.and_then(|map| map.data) else { return Ok(Self::default()) };
        Self::parse(&data).with_context(|| {
            format!(
                "the ConfigMap {NAMESPACE}/{NAME} is damaged; delete it to have all applied anew"
            )
        })
    }

    fn parse(data: &BTreeMap<String, String>) -> Result<Self> {
        let field = |key: &str| data.get(key).map(String::as_str).unwrap_or_default();
        let digest = Some(field("digest")).filter(|text| !text.is_empty());
        Ok(Self {
            revision: field("revision").parse().context("revision")?,
            digest: digest.map(str::parse).transpose().context("digest")?,
            releases: serde_json::from_str(field("releases")).context("releases")?,
        })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn write(&self, kubernetes: &Kubernetes) -> Result<()> {
        let releases = serde_json::to_string(&self.releases).context("failed to encode")?;
        let digest = self.digest.map(|digest| digest.to_string()).unwrap_or_default();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {"revision": self.revision.to_string(), "digest": digest, "releases": releases},
        });
        let api: Api<ConfigMap> = Api::namespaced(kubernetes.client(), NAMESPACE);
        let params = PatchParams::apply(MANAGER).force();
        failpoint::reach();
        let written = kubernetes.wait(api.patch(NAME, &params, &Patch::Apply(&object)));
        failpoint::reach();
        written.map(drop).context("failed to write the bundle's record")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_whole_or_refused() {
        let data = |revision: &str, digest: &str, releases: &str| {
            let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
            [pair("revision", revision), pair("digest", digest), pair("releases", releases)].into()
        };
        let digest = Digest::of("x");
        let entry =
            format!(r#"{{"a/b":{{"digest":"{digest}","state":"failed","stateful":true}}}}"#);
        let record = Record::parse(&data("3", &digest.to_string(), &entry)).unwrap();
        assert_eq!((record.revision, record.digest), (3, Some(digest)));
        assert!(record.releases["a/b"].stateful);
        assert_eq!(Record::parse(&data("1", "", "{}")).unwrap().digest, None);
        for broken in [data("x", "", "{}"), data("1", "x", "{}"), data("1", "", "{")] {
            assert!(Record::parse(&broken).is_err());
        }
    }

    #[test]
    fn a_long_cause_is_cut_between_characters() {
        let mut entry = Entry {
            digest: Digest::of("x"),
            state: State::Applying,
            stateful: false,
            objects: BTreeSet::new(),
            cause: String::new(),
        };
        entry.fail(&format!("x{}", "ä".repeat(CAUSE)));
        assert_eq!((entry.state, entry.cause.len()), (State::Failed, CAUSE - 1));
    }
}
