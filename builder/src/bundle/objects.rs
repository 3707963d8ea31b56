//! Kubernetes objects out of YAML: each document one object with its kind and its name. Scalars mean
//! what they mean to kubectl and helm, whose reader is that of YAML 1.1.

use serde_json::{Number, Value};

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
/// Scalars are read as sigs.k8s.io/yaml 1.6 does, seen by running it: `0440` is 288, `0888` is 888 as
/// its digits are no octal ones, `1e3` is the integer 1000, `yes` is true, what stands in quotes is text.
///
/// # Errors
/// The text is not YAML.
pub fn parse_yaml(text: &str) -> Result<Vec<Value>, (usize, usize, String)> {
    // The parser's limits are against hostile input; the CRDs of one chart go beyond them.
    let options =
        serde_saphyr::options! { budget: None, with_snippet: false, legacy_octal_numbers: true };
    let read = serde_saphyr::from_multiple_with_options(text, options);
    let mut documents: Vec<Value> = read.map_err(|error| {
        let place = error.location();
        let at = |n: u64| usize::try_from(n).unwrap_or(0);
        let (line, column) = place.map_or((0, 0), |p| (at(p.line()), at(p.column())));
        let text = error.without_snippet().to_string();
        let first = text.lines().next().unwrap_or_default();
        (line, column, format!("is not YAML: {first}"))
    })?;
    documents.iter_mut().for_each(whole_numbers);
    Ok(documents)
}

/// Writes `888.0` as `888`: the API takes no fraction, not even of nothing, where a type has integers.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                *number = whole;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// A fraction that is none, as an integer; beyond 2^53 it would be an invented one.
#[expect(clippy::cast_possible_truncation, reason = "below 2^53 and without a fraction")]
fn whole(number: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() < EXACT).then(|| Number::from(number as i64))
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

    /// A scalar in a document.
    fn scalar(text: &str) -> Value {
        parse_yaml(&format!("a: {text}")).unwrap()[0]["a"].clone()
    }

    #[test]
    fn scalars_are_read_as_kubernetes_reads_them() {
        // The right side is what sigs.k8s.io/yaml 1.6.0 makes of the left one.
        for (text, want) in [
            ("0440", "288"),
            ("0o440", "288"),
            ("-0440", "-288"),
            ("+0440", "288"),
            ("0_7", "7"),
            ("00", "0"),
            ("0", "0"),
            ("\"0440\"", "\"0440\""),
            ("'0440'", "\"0440\""),
            ("0888", "888"),
            ("08", "8"),
            ("0o9", "\"0o9\""),
            ("0x1F", "31"),
            ("0b101", "5"),
            ("1_000", "1000"),
            ("1e3", "1000"),
            ("1.0", "1"),
            ("012.5", "12.5"),
            ("0.1", "0.1"),
            ("18446744073709551615", "18446744073709551615"),
            ("yes", "true"),
            ("Off", "false"),
            ("\"yes\"", "\"yes\""),
            ("~", "null"),
            ("190:20:30", "\"190:20:30\""),
            ("2001-01-01", "\"2001-01-01\""),
        ] {
            assert_eq!(scalar(text).to_string(), want, "{text}");
        }
        let nested = parse_yaml("a: [{defaultMode: 0440, factor: 2.0}]").unwrap();
        assert_eq!(nested[0]["a"][0].to_string(), r#"{"defaultMode":288,"factor":2}"#);
    }

    #[test]
    fn texts_that_look_like_other_scalars_survive_being_written() {
        let texts =
            ["0440", "0o440", "0888", "1_000", "1e3", "0x1F", "yes", "on", "n", "~", "1.0", ""];
        let object = serde_json::json!({ "texts": texts, "mode": 288 });
        let yaml = serde_saphyr::to_string(&object).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [object], "{yaml}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[\\[\\]{}:,\\-#&*!|>'\"% a-c\n\t0-9]{0,60}") {
            let _ = parse_yaml(&text);
        }
    }
}
