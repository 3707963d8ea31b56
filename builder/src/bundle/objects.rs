//! Kubernetes objects out of YAML: each document one object with its kind and its name.

use serde_json::Value;

use crate::config::{Problem, Problems};

/// Parses every document of `text`; `shown` names its file, and lines are those of the rendered text.
pub fn parse(shown: &str, text: &str, problems: &mut Problems) -> Vec<Value> {
    let Some(documents) = documents(shown, text, problems) else { return Vec::new() };
    let objects: Vec<_> = documents.into_iter().filter(|object| !object.is_null()).collect();
    if objects.is_empty() {
        problems.push(Problem::of_file(shown, "holds no object"));
    }
    for (number, object) in objects.iter().enumerate() {
        if let Err(rule) = check(object) {
            let rule = format!("object {}: {rule}", number + 1);
            problems.push(Problem::of_file(shown, rule));
        }
    }
    objects
}

/// Whether a text is YAML at all: values are Helm's to judge.
pub fn check_yaml(shown: &str, text: &str, problems: &mut Problems) {
    if let Some(documents) = documents(shown, text, problems)
        && (documents.len() > 1 || documents.iter().any(|d| !d.is_object() && !d.is_null()))
    {
        problems.push(Problem::of_file(shown, "must be one YAML table"));
    }
}

/// The documents of a YAML text.
fn documents(shown: &str, text: &str, problems: &mut Problems) -> Option<Vec<Value>> {
    parse_yaml(text)
        .map_err(|(line, column, rule)| {
            problems.push(Problem { line, column, ..Problem::of_file(shown, rule) });
        })
        .ok()
}

/// Parses YAML documents; an error is line, column (both from 1; 0 where unknown) and message.
///
/// # Errors
/// The text is not YAML.
pub fn parse_yaml(text: &str) -> Result<Vec<Value>, (usize, usize, String)> {
    // The parser's limits are against hostile input; the CRDs of one chart go beyond them.
    let options = serde_saphyr::options! { budget: None, with_snippet: false };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location();
        let at = |n: u64| usize::try_from(n).unwrap_or(0);
        let (line, column) = place.map_or((0, 0), |p| (at(p.line()), at(p.column())));
        let text = error.without_snippet().to_string();
        let first = text.lines().next().unwrap_or_default();
        (line, column, format!("is not YAML: {first}"))
    })
}

/// The rule an object breaks.
fn check(object: &Value) -> Result<(), String> {
    let word = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    if !object.is_object() {
        return Err("must be a table with apiVersion, kind and metadata".to_owned());
    }
    for key in ["apiVersion", "kind"] {
        if !word(&object[key]) {
            return Err(format!("{key} is missing"));
        }
    }
    let name = title(object);
    if object["kind"] == "List" {
        return Err("is a List; write the objects themselves".to_owned());
    }
    if !word(&object["metadata"]["name"]) {
        return Err(format!("{name} needs metadata.name"));
    }
    let holds = |key: &str| object[key].as_object().is_some_and(|map| !map.is_empty());
    if object["kind"] == "Secret" && (holds("data") || holds("stringData")) {
        return Err(format!("{name} holds a secret, and images hold none; see docs/bundle.md"));
    }
    Ok(())
}

/// `KIND NAME`, for messages.
pub fn title(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// Whether what this object makes holds data.
pub fn holds_data(object: &Value) -> bool {
    let claims = &object["spec"]["volumeClaimTemplates"];
    object["kind"] == "PersistentVolumeClaim" || claims.as_array().is_some_and(|c| !c.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let mut problems = Problems::default();
        parse("cluster/apps/x/manifests/y.yaml", text, &mut problems);
        problems.to_string()
    }

    #[test]
    fn objects_of_all_documents_are_read_in_their_order() {
        let mut problems = Problems::default();
        let text = "---\n# a note\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n\
                    data: {x: \"{{ .Values }}\"}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n";
        let objects = parse("f", text, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(objects.iter().map(title).collect::<Vec<_>>(), ["ConfigMap a", "Service b"]);
        assert_eq!(objects[0]["data"]["x"], "{{ .Values }}");
    }

    #[test]
    fn every_broken_object_says_what_it_lacks() {
        let file = "cluster/apps/x/manifests/y.yaml";
        for (text, want) in [
            ("", "holds no object"),
            ("- a", "object 1: must be a table with apiVersion, kind and metadata"),
            ("kind: A", "object 1: apiVersion is missing"),
            ("apiVersion: v1\nkind: Pod", "object 1: Pod ? needs metadata.name"),
            (
                "apiVersion: v1\nkind: List\nitems: []",
                "object 1: is a List; write the objects themselves",
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: p}\nstringData: {a: b}",
                "object 1: Secret p holds a secret, and images hold none; see docs/bundle.md",
            ),
        ] {
            assert_eq!(refused(text), format!("{file}: {want}"));
        }
        let text = refused("apiVersion: v1\nkind: [");
        assert!(text.starts_with(&format!("{file}:")) && text.contains("is not YAML"), "{text}");
        let twice = refused("apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: x}");
        assert!(twice.starts_with(&format!("{file}:3:1: is not YAML")), "{twice}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[\\[\\]{}:,\\-#&*!|>'\"% a-c\n\t0-9]{0,60}") {
            let _ = parse_yaml(&text);
        }
    }
}
