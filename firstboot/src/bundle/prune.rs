//! What left the bundle: removed only when the record says it is ours and nothing says that it holds
//! data. CRDs, namespaces and volumes are never removed.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{Api, ListParams};
use node::report::ReleaseOutcome;

use super::Target;
use super::helm::Helm;
use super::objects::{ObjectRef, Objects};
use super::record::Entry;
use crate::kubernetes::Kubernetes;

/// Kinds that others' data hangs on.
const KEPT: [&str; 4] =
    ["Namespace", "PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition"];

/// Removes the release `id` (`NAMESPACE/NAME`), or says why it stays.
///
/// # Errors
/// helm or the API fail; it is tried again in the next run.
pub fn release(
    target: &Target<'_>,
    objects: &Objects<'_>,
    id: &str,
    entry: &Entry,
) -> Result<(ReleaseOutcome, String)> {
    if let Some(why) = stays(target.kubernetes, id, entry)? {
        return Ok((ReleaseOutcome::Kept, format!("left the bundle and stays: {why}")));
    }
    let (namespace, name) = split(id)?;
    let helm = Helm::new(target);
    if helm.knows(namespace, name)? {
        helm.uninstall(namespace, name)?;
    }
    dropped(objects, entry.objects.iter())?;
    Ok((ReleaseOutcome::Removed, "left the bundle".to_owned()))
}

/// Removes plain objects that a release has no more.
///
/// # Errors
/// The API does not answer or refuses.
pub fn dropped<'a>(objects: &Objects<'_>, gone: impl Iterator<Item = &'a ObjectRef>) -> Result<()> {
    for what in gone.filter(|what| !KEPT.contains(&what.kind.as_str())) {
        objects.delete(what)?;
    }
    Ok(())
}

fn split(id: &str) -> Result<(&str, &str)> {
    id.split_once('/').context("a record without a namespace")
}

/// Why the release `id` (`NAMESPACE/NAME`) must stay, if it must.
///
/// # Errors
/// The API does not answer.
pub fn stays(kubernetes: &Kubernetes, id: &str, entry: &Entry) -> Result<Option<String>> {
    let (namespace, name) = split(id)?;
    if entry.stateful {
        return Ok(Some("it holds data; remove it by hand with `helm uninstall`".to_owned()));
    }
    // A chart may make volumes though its bundle did not say so.
    let api: Api<PersistentVolumeClaim> = Api::namespaced(kubernetes.client(), namespace);
    let wanted = ListParams::default().labels(&format!("app.kubernetes.io/instance={name}"));
    let claims = kubernetes.wait(api.list(&wanted)).context("failed to ask for its volumes")?;
    let claim = claims.items.first().and_then(|claim| claim.metadata.name.as_deref());
    Ok(claim.map(|claim| format!("the volume {claim} belongs to it")))
}
