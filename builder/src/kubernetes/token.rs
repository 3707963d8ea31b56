//! Tokens that let one agent join and are worth nothing an hour later: what `k3s token create` makes,
//! by the same Secrets of Kubernetes' own.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use node::values::Digest;
use serde_json::json;

use super::{Kube, SYSTEM};
use crate::life::{Answer, Failed};
use crate::secrets::random_text;

/// Type, group and name of the Secrets (k3s.md §2.4).
const KIND: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers:k3s:default-node-token";
const PREFIX: &str = "bootstrap-token-";
/// Label that says which node a token was made for, so that it can be taken back.
const OF: &str = "node.homelab/joins";

/// Characters of a token's two parts, as Kubernetes wants them.
const ID: usize = 6;
const PASSWORD: usize = 16;

/// A token for one join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names it; no secret.
    pub id: String,
    /// What the agent is given.
    pub text: String,
}

// The text must not reach a log.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Kube {
    /// Makes a token that lets `node` join for `ttl`; the CA's hash is pinned in it when it is known.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn make_token(&self, node: &str, ttl: Duration, ca: Option<Digest>) -> Answer<JoinToken> {
        let never = |error: &dyn fmt::Display| Failed::Never(format!("no join token: {error}"));
        let word = |length| random_text(length).map(|text| text.to_lowercase());
        let id = word(ID).map_err(|e| never(&e))?;
        let password = word(PASSWORD).map_err(|e| never(&e))?;
        let end = jiff::Timestamp::now().as_second() + ttl.as_secs().cast_signed();
        let end = jiff::Timestamp::from_second(end).map_err(|e| never(&e))?.to_string();
        let secret = json!({
            "metadata": {"name": format!("{PREFIX}{id}"), "labels": {OF: node}},
            "type": KIND,
            "stringData": {
                "token-id": id, "token-secret": password, "expiration": end,
                "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
                "auth-extra-groups": GROUP, "description": format!("builder: {node} joins"),
            },
        });
        let secret: Secret = serde_json::from_value(secret).map_err(|e| never(&e))?;
        self.wait(self.namespaced::<Secret>(SYSTEM).create(&PostParams::default(), &secret))?;
        let pin = ca.map(|hash| format!("K10{hash}::")).unwrap_or_default();
        Ok(JoinToken { text: format!("{pin}{id}.{password}"), id })
    }

    /// Ids of the tokens made for a node that can still be used.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn tokens_of(&self, node: &str) -> Answer<Vec<String>> {
        let own = ListParams::default().labels(&format!("{OF}={node}"));
        let found = self.wait(self.namespaced::<Secret>(SYSTEM).list_metadata(&own))?;
        let names = found.items.into_iter().filter_map(|secret| secret.metadata.name);
        Ok(names.filter_map(|n| n.strip_prefix(PREFIX).map(str::to_owned)).collect())
    }

    /// Takes a token back; one that has run out is gone already.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn delete_token(&self, id: &str) -> Answer<()> {
        let secrets = self.namespaced::<Secret>(SYSTEM);
        self.wait_gone(secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()))
    }
}
