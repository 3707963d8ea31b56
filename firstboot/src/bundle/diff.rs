//! What applying objects would change in a live cluster, by server-side dry run.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::objects::Objects;
use crate::kubernetes::Kubernetes;

/// Fields that change by themselves.
const NOISE: [&str; 5] =
    ["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"];

/// What would become of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `KIND NAMESPACE/NAME`.
    pub object: String,
    /// Whether it is not there yet.
    pub new: bool,
    /// `PATH: OLD -> NEW`, for those that are there.
    pub fields: Vec<String>,
    /// Why the API would refuse it.
    pub refused: Option<String>,
}

/// Holds each of `objects`, whose namespace is `namespace` unless they say so themselves, against the
/// cluster; `manager` is who applies them. Those that would not change are left out.
///
/// # Errors
/// The API does not answer.
pub fn diff(
    kubernetes: &Kubernetes,
    objects: &[Value],
    namespace: &str,
    manager: &str,
) -> Result<Vec<Change>> {
    let limit = |_| std::time::Duration::ZERO;
    let api = Objects::new(kubernetes, &limit);
    let mut changes = Vec::new();
    for object in objects {
        let refuse = |object: String, error: &anyhow::Error| Change {
            object,
            new: false,
            fields: Vec::new(),
            refused: Some(format!("{error:#}")),
        };
        let what = match api.name_of(object, namespace) {
            Ok(what) => what,
            Err(error) => {
                changes.push(refuse(
                    format!("{} {}", object["kind"], object["metadata"]["name"]),
                    &error,
                ));
                continue;
            }
        };
        let live = api.get(&what)?;
        match api.would_be(object, &what, manager) {
            Ok(wanted) => {
                let mut fields = Vec::new();
                if let Some(live) = &live {
                    compare("", &clean(live), &clean(&wanted), &mut fields);
                }
                if live.is_none() || !fields.is_empty() {
                    let new = live.is_none();
                    changes.push(Change { object: what.to_string(), new, fields, refused: None });
                }
            }
            Err(error) => changes.push(refuse(what.to_string(), &error)),
        }
    }
    Ok(changes)
}

fn clean(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in NOISE {
            metadata.remove(field);
        }
    }
    object
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, &old[key], &new[key], changes);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (n, (old, new)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{n}]"), old, new, changes);
            }
        }
        _ if old == new => {}
        _ => changes.push(format!("{path}: {old} -> {new}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_named_with_its_path() {
        let old = json!({"metadata": {"uid": "1", "labels": {"a": "b"}}, "spec": {"ports": [1, 2]}, "status": 1});
        let new = json!({"metadata": {"uid": "2", "labels": {"a": "c"}}, "spec": {"ports": [1, 3]}, "data": true});
        let mut changes = Vec::new();
        compare("", &clean(&old), &clean(&new), &mut changes);
        assert_eq!(
            changes,
            ["data: null -> true", "metadata.labels.a: \"b\" -> \"c\"", "spec.ports[1]: 2 -> 3"]
        );
    }
}
