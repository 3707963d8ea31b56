//! The bundle as it will stand in the cluster: charts rendered by the real helm, all else as it is.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use node::bundle as packed;
use node::command::Run;
use serde_json::Value;

use super::objects::parse_yaml;

/// A part of the bundle, in its order.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its file in a tree: `crds/NAME.yaml`, `NAMESPACE/RELEASE/chart.yaml`, …
    pub path: String,
    /// The namespace of objects that name none.
    pub namespace: String,
    /// Whether Helm applies it; else firstboot does.
    pub by_helm: bool,
    /// Its objects as YAML.
    pub text: String,
}

impl Part {
    /// Its objects, without those that Helm only runs at certain moments.
    ///
    /// # Errors
    /// A chart rendered what is no YAML.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let all = parse_yaml(&self.text)
            .map_err(|(line, _, rule)| anyhow!("{}:{line}: {rule}", self.path))?;
        let hook = |o: &Value| !o["metadata"]["annotations"]["helm.sh/hook"].is_null();
        Ok(all.into_iter().filter(|o| !o.is_null() && !hook(o)).collect())
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
    let mut served = Vec::new();
    for file in &bundle.crds {
        let objects = items(folder, file)?;
        served.extend(objects.iter().flat_map(apis));
        parts.push(part(&file.path, "", &objects)?);
    }
    for namespace in &bundle.namespaces {
        let objects = items(folder, &namespace.file)?;
        parts.push(part(&namespace.file.path, namespace.name.as_str(), &objects)?);
    }
    served.sort();
    served.dedup();
    for release in bundle.releases() {
        if let Some(chart) = release.chart.as_ref().and_then(|chart| chart.file.as_ref()) {
            let mut command = Command::new(helm);
            command.args(["template", release.name.as_str()]).arg(folder.join(&chart.path));
            command.args(["--namespace", release.namespace.as_str(), "--kube-version", version]);
            if let Some(values) = &release.values {
                command.arg("--values").arg(folder.join(&values.path));
            }
            for api in &served {
                command.args(["--api-versions", api]);
            }
            for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
                command.env(name, folder.join(".helm"));
            }
            let text = command.stdout_text();
            let text = text.with_context(|| format!("failed to render {}", release.id()))?;
            parts.push(Part {
                path: format!("{}/chart.yaml", release.id()),
                namespace: release.namespace.to_string(),
                by_helm: true,
                text,
            });
        }
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
    Ok(Part { path, namespace: namespace.to_owned(), by_helm: false, text })
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
