//! The bundle's Secrets in a live cluster: out of memory into its API, past no file, no argument and no
//! log.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use firstboot::kubernetes::Kubernetes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};

use super::needs::Need;
use super::vault::Values;

/// Who owns the fields: a value that leaves the encrypted file leaves the Secret too.
const MANAGER: &str = "builder-secrets";

/// Gives `values` to the cluster as the Secret that `need` names; says whether that changed it.
///
/// # Errors
/// The API does not answer or refuses; its words name keys, never values.
pub fn apply(kubernetes: &Kubernetes, need: &Need, values: Values) -> Result<bool> {
    let id = need.id();
    ensure_namespace(kubernetes, need.namespace.as_str())
        .with_context(|| format!("failed to make the namespace of {id}"))?;
    let api: Api<Secret> = Api::namespaced(kubernetes.client(), need.namespace.as_str());
    let name = need.name.as_str();
    let version = |secret: Option<Secret>| secret.and_then(|s| s.metadata.resource_version);
    let before = kubernetes.wait(api.get_opt(name)).map_err(|error| told(&error));
    let before = version(before.with_context(|| format!("failed to ask for {id}"))?);
    let params = PatchParams::apply(MANAGER).force();
    let wanted = secret(need, values);
    let after = kubernetes.wait(api.patch(name, &params, &Patch::Apply(&wanted)));
    let after = after.map_err(|error| told(&error));
    Ok(version(Some(after.with_context(|| format!("failed to apply {id}"))?)) != before)
}

fn secret(need: &Need, values: Values) -> Secret {
    let bytes = |(key, value): (String, String)| (key, ByteString(value.into_bytes()));
    let label = ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned());
    Secret {
        metadata: ObjectMeta {
            name: Some(need.name.to_string()),
            namespace: Some(need.namespace.to_string()),
            labels: Some(BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        type_: Some(need.kind.clone()),
        data: Some(values.into_iter().map(bytes).collect()),
        ..Secret::default()
    }
}

/// The operator may be faster than the bundle, whose labels and policies come later.
fn ensure_namespace(kubernetes: &Kubernetes, name: &str) -> Result<()> {
    let api: Api<Namespace> = Api::all(kubernetes.client());
    if kubernetes.wait(api.get_opt(name)).map_err(|error| told(&error))?.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    let wanted = Namespace { metadata, ..Namespace::default() };
    match kubernetes.wait(api.create(&PostParams::default(), &wanted)) {
        // Another was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        done => done.map(drop).map_err(|error| told(&error)),
    }
}

/// The API's own words.
fn told(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("{}", status.message),
        error => anyhow!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::needs::Needs;
    use crate::secrets::vault::Content;

    #[test]
    fn a_secret_has_its_type_and_the_bytes_of_its_values() {
        let text = "[[secret]]\nnamespace = \"data\"\nname = \"db\"\nfor = \"x\"\n\
                    type = \"kubernetes.io/basic-auth\"\nkeys.username = { value = \"ä\" }\n";
        let needs = Needs::parse(text).unwrap();
        let made = secret(&needs.secret[0], needs.secret[0].data(&Content::new()));
        let json = serde_json::to_value(made).unwrap();
        assert_eq!(json["type"], "kubernetes.io/basic-auth");
        assert_eq!(json["data"], serde_json::json!({"username": "w6Q="}));
        assert_eq!(json["metadata"]["namespace"], "data");
    }
}
