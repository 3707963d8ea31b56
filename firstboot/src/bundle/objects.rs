//! Plain objects by server-side apply, whatever their kind.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::discovery::{Scope, pinned_kind};
use node::bundle::{File, MANAGER};
use node::failpoint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kubernetes::Kubernetes;
use crate::retry::{Look, until};

/// How long an object may be refused for a reason that passes: a webhook whose pods just start, an
/// API server that is restarted.
const LIMIT: Duration = Duration::from_mins(2);
/// How long the API server may take to serve the kind of a new CRD.
const ESTABLISHED: Duration = Duration::from_mins(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// An object by what names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectRef {
    /// API group and version.
    pub api: String,
    /// Kind.
    pub kind: String,
    /// Namespace, for kinds that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The API for objects of all kinds.
pub struct Objects<'a> {
    kubernetes: &'a Kubernetes,
    /// How each kind is called in URLs, and whether its objects live in a namespace.
    kinds: RefCell<BTreeMap<(String, String), (ApiResource, bool)>>,
    limit: &'a dyn Fn(Duration) -> Duration,
}

impl fmt::Debug for Objects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// The objects in a packed file.
///
/// # Errors
/// The file is damaged.
pub fn read(folder: &std::path::Path, file: &File) -> Result<Vec<Value>> {
    let what = || format!("{} is not a list of objects", file.path);
    let mut list: Value = serde_json::from_slice(&file.read(folder)?).with_context(what)?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Err(anyhow!(what())),
    }
}

impl<'a> Objects<'a> {
    /// Objects of this cluster.
    pub fn new(kubernetes: &'a Kubernetes, limit: &'a dyn Fn(Duration) -> Duration) -> Self {
        Self { kubernetes, kinds: RefCell::default(), limit }
    }

    /// Applies an object; one without a namespace goes to `namespace` if its kind has one. Returns
    /// what names it.
    ///
    /// # Errors
    /// The API refuses it, or does not answer within the limit.
    pub fn apply(&self, object: &Value, namespace: &str) -> Result<ObjectRef> {
        let what = self.name_of(object, namespace)?;
        let params = PatchParams::apply(MANAGER).force();
        let api = self.api(&what)?;
        let tried = until((self.limit)(LIMIT), PAUSE, || {
            failpoint::reach();
            let done = self.kubernetes.wait(api.patch(&what.name, &params, &Patch::Apply(object)));
            failpoint::reach();
            match done {
                Ok(_) => Ok(Look::Done(())),
                Err(error) if may_pass(&error) => Ok(Look::NotYet(told(&error))),
                Err(error) => Err(anyhow!(told(&error))),
            }
        });
        tried.with_context(|| format!("failed to apply {what}")).map(|()| what)
    }

    /// What the API would make of an object, without making it.
    ///
    /// # Errors
    /// The API refuses it or does not answer.
    pub fn would_be(&self, object: &Value, what: &ObjectRef, manager: &str) -> Result<Value> {
        let params = PatchParams::apply(manager).force().dry_run();
        let api = self.api(what)?;
        let done = self.kubernetes.wait(api.patch(&what.name, &params, &Patch::Apply(object)));
        let done = done.map_err(|error| anyhow!(told(&error)));
        let done = done.with_context(|| format!("the API refuses {what}"))?;
        serde_json::to_value(done).context("failed to encode")
    }

    /// An object as it stands.
    ///
    /// # Errors
    /// The API does not answer, or does not know the kind.
    pub fn get(&self, what: &ObjectRef) -> Result<Option<Value>> {
        let found = self.kubernetes.wait(self.api(what)?.get_opt(&what.name));
        let found = found.map_err(|error| anyhow!(told(&error)));
        let found = found.with_context(|| format!("failed to ask for {what}"))?;
        found.map(serde_json::to_value).transpose().context("failed to encode")
    }

    /// Removes an object; one that is gone, or whose kind is, counts as removed.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn delete(&self, what: &ObjectRef) -> Result<()> {
        let Ok(api) = self.api(what) else { return Ok(()) };
        failpoint::reach();
        let done = self.kubernetes.wait(api.delete(&what.name, &DeleteParams::background()));
        failpoint::reach();
        match done {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(anyhow!(told(&error)).context(format!("failed to remove {what}"))),
            Ok(_) => Ok(()),
        }
    }

    /// Applies a CRD and waits until the API serves it.
    ///
    /// # Errors
    /// It is refused, or not served within the limit.
    pub fn establish(&self, definition: &Value) -> Result<()> {
        let what = self.apply(definition, "")?;
        until((self.limit)(ESTABLISHED), PAUSE, || {
            let found = self.get(&what)?.unwrap_or_default();
            let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let seen = |kind: &str| conditions.iter().find(|c| c["type"] == *kind);
            if seen("Established").is_some_and(|c| c["status"] == "True") {
                return Ok(Look::Done(()));
            }
            let why =
                seen("NamesAccepted").and_then(|c| c["message"].as_str()).unwrap_or("no word yet");
            Ok(Look::NotYet(format!("{what} is not served: {why}")))
        })
    }

    /// What names an object.
    ///
    /// # Errors
    /// It is none, or its kind is not known.
    pub fn name_of(&self, object: &Value, namespace: &str) -> Result<ObjectRef> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        ensure!(
            !api.is_empty() && !kind.is_empty() && !name.is_empty(),
            "an object without a name"
        );
        let own = object["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned();
        let (_, namespaced) = self.kind(&api, &kind)?;
        Ok(ObjectRef { api, kind, namespace: namespaced.then_some(own), name })
    }

    fn api(&self, what: &ObjectRef) -> Result<Api<DynamicObject>> {
        let (resource, _) = self.kind(&what.api, &what.kind)?;
        Ok(match &what.namespace {
            Some(namespace) => Api::namespaced_with(self.kubernetes.client(), namespace, &resource),
            None => Api::all_with(self.kubernetes.client(), &resource),
        })
    }

    /// Asks the API how a kind is called in URLs. A CRD's kind may come a moment after the CRD.
    fn kind(&self, api: &str, kind: &str) -> Result<(ApiResource, bool)> {
        let key = (api.to_owned(), kind.to_owned());
        if let Some(known) = self.kinds.borrow().get(&key) {
            return Ok(known.clone());
        }
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        let wanted = GroupVersionKind::gvk(group, version, kind);
        let client = self.kubernetes.client();
        let found = until((self.limit)(Duration::from_secs(15)), PAUSE, || {
            Ok(match self.kubernetes.wait(pinned_kind(&client, &wanted)) {
                Ok((resource, abilities)) => {
                    Look::Done((resource, abilities.scope == Scope::Namespaced))
                }
                Err(error) => Look::NotYet(told(&error)),
            })
        });
        let found = found.with_context(|| format!("the cluster knows no kind {kind} of {api}"))?;
        self.kinds.borrow_mut().insert(key, found.clone());
        Ok(found)
    }
}

/// Whether a refusal may pass by itself: no answer, a busy server, a webhook that does not run yet.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => !(400..500).contains(&status.code) || status.code == 429,
        _ => true,
    }
}

/// An error in the API's own words.
pub fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => {
            let mut text = error.to_string();
            let mut inner = std::error::Error::source(error);
            while let Some(cause) = inner {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                inner = cause.source();
            }
            text
        }
    }
}
