//! Reading a JSON file so that what is wrong is told by field, value and rule, and so that a field
//! that is a secret is never quoted.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How much of a value is shown.
const SHOWN: usize = 60;

/// Reads `text` as a `T`. Fields whose names are in `secret` are not shown.
///
/// # Errors
/// "`FIELD` = VALUE: rule (line N)", as far as there are such.
pub fn read<T: DeserializeOwned>(text: &[u8], secret: &[&str]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = serde_path_to_error::deserialize(&mut reader);
    let error = match read {
        Ok(value) => return reader.end().map(|()| value).map_err(|e| format!("is no JSON: {e}")),
        Err(error) => error,
    };
    let path = error.path().to_string();
    let inner = error.into_inner();
    if !inner.is_data() {
        return Err(format!("is no JSON: {inner}"));
    }
    let whole: Value = serde_json::from_slice(text).unwrap_or_default();
    if !whole.is_object() {
        return Err(format!("must be an object, and is {}", kind(&whole)));
    }
    let text = inner.to_string();
    let (rule, line) = (text.split(" at line ").next().unwrap_or(&text), inner.line());
    // A missing or unknown key is named by the rule, and stands in what the path leads to.
    if ["missing field", "unknown field", "duplicate field"].iter().any(|r| rule.starts_with(r)) {
        let place = if matches!(path.as_str(), "." | "") { "" } else { &path };
        let place = place.strip_suffix(&named(rule)).unwrap_or(place).trim_end_matches('.');
        let place = if place.is_empty() { String::new() } else { format!("`{place}`: ") };
        return Err(format!("{place}{rule} (line {line})"));
    }
    // A key that has a dot in it is not found.
    let value = at(&whole, &path);
    if secret.contains(&path.as_str()) {
        let is = value.map_or("something else", kind);
        return Err(format!("`{path}` must be a text, and is {is} (line {line})"));
    }
    let value = value.map_or(String::new(), |value| format!(" = {}", shown(value)));
    Err(format!("`{path}`{value}: {rule} (line {line})"))
}

/// The key that a rule names.
fn named(rule: &str) -> String {
    rule.split('`').nth(1).unwrap_or_default().to_owned()
}

/// What lies at a path such as `cluster.nodes[1].address`.
fn at<'a>(whole: &'a Value, path: &str) -> Option<&'a Value> {
    let pointer: String = path.split(['.', '[']).fold(String::new(), |mut pointer, part| {
        pointer.push('/');
        pointer.push_str(part.trim_end_matches(']'));
        pointer
    });
    whole.pointer(&pointer)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
