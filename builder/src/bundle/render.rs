//! The bundle as it will stand in the cluster: charts rendered by the real helm, all else as it is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use node::bundle as packed;
use node::command::Run;
use serde_json::{Value, json};

use super::objects::parse_yaml;

/// What Kubernetes serves by itself, which helm without a cluster knows by group and version only:
/// charts ask for kinds too, such as Traefik's for `policy/v1/PodDisruptionBudget`.
const KINDS: &str = include_str!("kinds.txt");
/// What helm marks an object with when it applies it, beside two annotations.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// A part of the bundle, in its order.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its file in a tree: `crds/NAME.yaml`, `NAMESPACE/RELEASE/chart.yaml`, …
    pub path: String,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// The release as which Helm applies it; without one firstboot does.
    pub helm: Option<String>,
    /// Its objects as YAML.
    pub text: String,
}

impl Part {
    /// Its objects as they are applied: without those that Helm only runs at certain moments, and with
    /// the marks that Helm gives all others.
    ///
    /// # Errors
    /// A chart rendered what is no YAML.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let all = parse_yaml(&self.text)
            .map_err(|(line, _, rule)| anyhow!("{}:{line}: {rule}", self.path))?;
        let hook = |o: &Value| !o["metadata"]["annotations"]["helm.sh/hook"].is_null();
        let mut objects: Vec<_> = all.into_iter().filter(|o| o.is_object() && !hook(o)).collect();
        if let Some(release) = &self.helm {
            for object in &mut objects {
                mark(object, release, &self.namespace);
            }
        }
        Ok(objects)
    }
}

/// Marks an object as helm does (`setMetadataVisitor` in its package `action`).
fn mark(object: &mut Value, release: &str, namespace: &str) {
    let metadata = &mut object["metadata"];
    for (table, key, value) in [
        ("labels", MANAGED_BY, "Helm"),
        ("annotations", "meta.helm.sh/release-name", release),
        ("annotations", "meta.helm.sh/release-namespace", namespace),
    ] {
        if !metadata[table].is_object() {
            metadata[table] = json!({});
        }
        metadata[table][key] = value.into();
    }
}

/// Renders the packed bundle in `folder` with `helm` for a Kubernetes of `version` (`v1.36.4`).
/// Releases whose chart is missing have no part for it.
///
/// # Errors
/// helm's last words, with the release.
pub fn render(
    bundle: &packed::Bundle,
    folder: &Path,
    helm: &Path,
    version: &str,
) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut served = built_in();
    for file in &bundle.crds {
        let objects = items(folder, file)?;
        served.extend(objects.iter().flat_map(apis));
        parts.push(part(&file.path, "", &objects)?);
    }
    for namespace in &bundle.namespaces {
        let objects = items(folder, &namespace.file)?;
        parts.push(part(&namespace.file.path, namespace.name.as_str(), &objects)?);
    }
    let target = Target { folder, helm, version, served };
    for release in bundle.releases() {
        parts.extend(target.chart(release)?);
        if release.is_left_out() {
            continue;
        }
        for file in &release.manifests {
            let objects = items(folder, file)?;
            let name = Path::new(&file.path).file_stem().unwrap_or_default().to_string_lossy();
            let path = format!("{}/manifests/{name}.json", release.id());
            parts.push(part(&path, release.namespace.as_str(), &objects)?);
        }
    }
    Ok(parts)
}

/// What charts are rendered with.
struct Target<'a> {
    folder: &'a Path,
    helm: &'a Path,
    version: &'a str,
    /// `GROUP/VERSION` and `GROUP/VERSION/KIND` of everything the API serves.
    served: BTreeSet<String>,
}

impl Target<'_> {
    /// A release's chart; none for one without.
    fn chart(&self, release: &packed::Release) -> Result<Option<Part>> {
        let Some(chart) = release.chart.as_ref().and_then(|chart| chart.file.as_ref()) else {
            return Ok(None);
        };
        let (name, namespace) = (release.name.as_str(), release.namespace.as_str());
        let mut command = Command::new(self.helm);
        command.args(["template", name]).arg(self.folder.join(&chart.path));
        command.args(["--namespace", namespace, "--kube-version", self.version]);
        if let Some(values) = &release.values {
            command.arg("--values").arg(self.folder.join(&values.path));
        }
        let served: Vec<_> = self.served.iter().map(String::as_str).collect();
        command.args(["--api-versions", &served.join(",")]);
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, self.folder.join(".helm"));
        }
        let text = command.stdout_text();
        Ok(Some(Part {
            path: format!("{}/chart.yaml", release.id()),
            namespace: namespace.to_owned(),
            helm: Some(name.to_owned()),
            text: text.with_context(|| format!("failed to render {}", release.id()))?,
        }))
    }
}

fn items(folder: &Path, file: &packed::File) -> Result<Vec<Value>> {
    let mut list: Value = serde_json::from_slice(&file.read(folder)?)?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn part(path: &str, namespace: &str, objects: &[Value]) -> Result<Part> {
    let mut text = String::new();
    for object in objects {
        let yaml = serde_saphyr::to_string(object).map_err(|e| anyhow!("{path}: {e}"))?;
        text += "---\n";
        text += &yaml;
    }
    let path = Path::new(path).with_extension("yaml").to_string_lossy().into_owned();
    Ok(Part { path, namespace: namespace.to_owned(), helm: None, text })
}

/// What a CRD makes the API serve, as charts ask for it: `GROUP/VERSION` and `GROUP/VERSION/KIND`.
fn apis(definition: &Value) -> Vec<String> {
    let spec = &definition["spec"];
    let (group, kind) = (spec["group"].as_str(), spec["names"]["kind"].as_str());
    let (Some(group), Some(kind)) = (group, kind) else { return Vec::new() };
    let versions = spec["versions"].as_array().into_iter().flatten();
    let versions = versions.filter(|v| v["served"] == true).filter_map(|v| v["name"].as_str());
    versions.flat_map(|v| [format!("{group}/{v}"), format!("{group}/{v}/{kind}")]).collect()
}

/// What [`KINDS`] says, in the words of [`apis`].
fn built_in() -> BTreeSet<String> {
    let mut served = BTreeSet::new();
    for line in KINDS.lines().filter(|line| !line.starts_with('#')) {
        let (api, kinds) = line.split_once(' ').unwrap_or((line, ""));
        served.insert(api.to_owned());
        served.extend(kinds.split(' ').map(|kind| format!("{api}/{kind}")));
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Lock;

    #[test]
    fn what_helm_applies_has_its_marks_and_no_hooks() {
        let text = "kind: A\nmetadata: {name: a, labels: {app: a}}\n---\nkind: B\nmetadata: {name: b, \
                    annotations: {helm.sh/hook: test}}\n---\n# nothing\n";
        let part = |helm: Option<&str>| Part {
            path: "apps/web/chart.yaml".into(),
            namespace: "apps".into(),
            helm: helm.map(str::to_owned),
            text: text.to_owned(),
        };
        let plain = json!({"name": "a", "labels": {"app": "a"}});
        assert_eq!(part(None).objects().unwrap(), [json!({"kind": "A", "metadata": plain})]);
        let marked = json!({
            "name": "a", "labels": {"app": "a", "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": "apps",
            },
        });
        assert_eq!(
            part(Some("web")).objects().unwrap(),
            [json!({"kind": "A", "metadata": marked})]
        );
    }

    #[test]
    fn the_kinds_are_those_of_the_locked_kubernetes() {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../builder.lock");
        let k3s = Lock::read(&lock).unwrap().artifact("k3s").unwrap().version.clone();
        let first = KINDS.lines().next().unwrap();
        let minor =
            k3s.trim_start_matches('v').splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
        assert!(first.contains(&format!("Kubernetes {minor} ")), "{k3s} is locked: {first}");
        let served = built_in();
        for wanted in ["v1/Pod", "policy/v1", "policy/v1/PodDisruptionBudget", "apps/v1/Deployment"]
        {
            assert!(served.contains(wanted), "{wanted}: {served:?}");
        }
    }
}
