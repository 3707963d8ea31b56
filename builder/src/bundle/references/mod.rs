//! What objects name must be made by somebody: a Service that a route sends to, the Secret and the key
//! that a pod reads, the issuer of a certificate, a port by its name. A slip in such a name is not
//! refused by any API; it only never works.
//!
//! Objects of charts are known when they are rendered. Before that, and of charts that cannot be had,
//! `makes` in a `release.toml` states those that others name.

mod known;
mod mentions;
mod pods;

use serde_json::Value;

use super::objects::title;
use crate::config::{Problem, suggest};

pub use known::{Known, Made};
pub use pods::pod_of;

/// An object with its place.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// Its file, for messages.
    pub file: &'a str,
    /// The namespace of an object that names none.
    pub namespace: &'a str,
    /// The object.
    pub object: &'a Value,
}

impl Placed<'_> {
    fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().unwrap_or(self.namespace)
    }
}

/// Something that an object names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mention {
    /// Where it stands in the object.
    path: String,
    kind: &'static str,
    /// Empty for kinds that lie in none.
    namespace: String,
    name: String,
    /// A port of a Service, a key of a Secret or `ConfigMap`.
    part: Option<String>,
}

/// Every name in `objects` that nothing of `known` has.
pub fn check(objects: &[Placed<'_>], known: &Known) -> Vec<Problem> {
    let mut problems = Vec::new();
    for placed in objects {
        let of = |rule: String| {
            Problem::of_file(placed.file, format!("{}: {rule}", title(placed.object)))
        };
        for mention in mentions::of(placed) {
            problems.extend(judge(&mention, known).map(|(rule, hint)| of(rule).hint(hint)));
        }
        problems.extend(pods::ports(placed, objects).into_iter().map(of));
    }
    problems
}

/// The rule that a mention breaks, and the hint.
fn judge(mention: &Mention, known: &Known) -> Option<(String, Option<String>)> {
    let Mention { path, kind, namespace, name, part } = mention;
    let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    let Some(parts) = known.parts(kind, namespace, name) else {
        let rule = format!("{path} names {kind} {place}{name}, which nothing makes");
        let hint = suggest(name, known.names(kind, namespace));
        let stated = "what a chart makes is stated as `makes` in its release.toml".to_owned();
        return Some((rule, hint.or(Some(stated))));
    };
    let part = part.as_ref().filter(|part| !parts.has(part))?;
    let what = if *kind == "Service" { "port" } else { "key" };
    let rule =
        format!("{path} names {what} {part} of {kind} {place}{name}, which has no such {what}");
    Some((rule, suggest(part, parts.names())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::objects::parse_yaml;

    /// Problems of objects in the namespace `apps`, beside a stated `Service web` and a Secret of two keys.
    fn found(text: &str) -> Vec<String> {
        let objects = parse_yaml(text).unwrap();
        let place = |object| Placed { file: "f.yaml", namespace: "apps", object };
        let placed: Vec<_> = objects.iter().map(place).collect();
        let mut known = Known::of(&placed);
        known.add(&"Service web 80,http".parse().unwrap(), "apps");
        known.add(&"Secret login user,password".parse().unwrap(), "apps");
        check(&placed, &known).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_name_is_looked_up() {
        let metadata = "metadata: {name: x}";
        let pod = |spec: &str| {
            format!("kind: Deployment\n{metadata}\nspec: {{template: {{spec: {spec}}}}}\n")
        };
        let route = |spec: &str| format!("kind: IngressRoute\n{metadata}\nspec: {spec}\n");
        for (text, want) in [
            (route("{routes: [{services: [{name: web, port: 80}]}]}"), ""),
            (
                route("{routes: [{services: [{name: web, port: 81}]}]}"),
                "IngressRoute x: spec.routes[0].services[0] names port 81 of Service apps/web, which has \
                 no such port\n  hint: known are `80`, `http`",
            ),
            (
                route("{routes: [{services: [{name: wep, port: 80}]}]}"),
                "IngressRoute x: spec.routes[0].services[0] names Service apps/wep, which nothing makes\n  \
                 hint: did you mean `web`?",
            ),
            (
                route("{routes: [{middlewares: [{name: m, namespace: kube-system}]}]}"),
                "IngressRoute x: spec.routes[0].middlewares[0] names Middleware kube-system/m, which \
                 nothing makes\n  hint: what a chart makes is stated as `makes` in its release.toml",
            ),
            (
                route("{tls: {secretName: t}}"),
                "IngressRoute x: spec.tls.secretName names Secret apps/t, which nothing makes\n  \
                 hint: known are `login`",
            ),
            (
                format!("kind: Certificate\n{metadata}\nspec: {{issuerRef: {{kind: ClusterIssuer, name: i}}}}"),
                "Certificate x: spec.issuerRef names ClusterIssuer i, which nothing makes\n  \
                 hint: what a chart makes is stated as `makes` in its release.toml",
            ),
            (
                pod("{volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]}"),
                "Deployment x: spec.template.spec.volumes[0] names PersistentVolumeClaim apps/c, which \
                 nothing makes\n  hint: what a chart makes is stated as `makes` in its release.toml",
            ),
            (pod("{volumes: [{name: v, configMap: {name: c, optional: true}}]}"), ""),
            (
                pod("{containers: [{env: [{name: A, valueFrom: {secretKeyRef: {name: login, key: pasword}}}]}]}"),
                "Deployment x: spec.template.spec.containers[0].env[0] names key pasword of Secret \
                 apps/login, which has no such key\n  hint: did you mean `password`?",
            ),
            (
                pod("{containers: [{ports: [{name: http, containerPort: 80}], livenessProbe: {httpGet: {port: htp}}}]}"),
                "Deployment x: spec.template.spec.containers[0].livenessProbe names port htp, which no \
                 container of the pod has",
            ),
            (
                format!("kind: PersistentVolumeClaim\n{metadata}\nspec: {{storageClassName: fast}}"),
                "PersistentVolumeClaim x: spec.storageClassName names StorageClass fast, which nothing \
                 makes\n  hint: what a chart makes is stated as `makes` in its release.toml",
            ),
            (
                "kind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{port: 1, targetPort: web}]}\n---\n\
                 kind: Pod\nmetadata: {name: p, labels: {a: b}}\nspec: {containers: [{ports: [{name: other, containerPort: 1}]}]}"
                    .to_owned(),
                "Service s: spec.ports[0].targetPort names port web, which no pod that it selects has",
            ),
        ] {
            let want: Vec<String> = Some(want).filter(|w| !w.is_empty()).map(|w| format!("f.yaml: {w}")).into_iter().collect();
            assert_eq!(found(&text), want, "{text}");
        }
    }
}
