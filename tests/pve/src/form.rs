//! Parameters out of query strings, forms and JSON, with Proxmox' habits.

use serde_json::Value as Json;

use crate::table::{Raw, Value};

/// Undoes percent escapes; in forms `+` is a space.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = rest
            .get(1..3)
            .filter(|_| first == b'%')
            .and_then(|pair| std::str::from_utf8(pair).ok());
        if let Some(byte) = hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            bytes.push(byte);
            rest = &rest[3..];
        } else {
            bytes.push(if plus && first == b'+' { b' ' } else { first });
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A query string or a form: `;` separates like `&`, and what follows a second bare `=` is lost.
pub fn urlencoded(text: &str, into: &mut Raw) {
    for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let mut parts = pair.split('=');
        let name = percent_decode(parts.next().unwrap_or_default(), true);
        let value = percent_decode(parts.next().unwrap_or_default(), true);
        add(into, name, value);
    }
}

fn add(into: &mut Raw, name: String, value: String) {
    match into.remove(&name) {
        None => into.insert(name, Value::Text(value)),
        Some(Value::List(mut items)) => {
            items.push(value);
            into.insert(name, Value::List(items))
        }
        Some(Value::Text(first)) => into.insert(name, Value::List(vec![first, value])),
        Some(Value::Object) => into.insert(name, Value::Object),
    };
}

/// A body of JSON; `null` is a parameter left out.
///
/// # Errors
/// The text Proxmox answers with.
pub fn json(text: &str, into: &mut Raw) -> Result<(), String> {
    let json: Json = serde_json::from_str(text).map_err(|error| {
        let at = error.column();
        format!("malformed JSON string, neither tag, array, object, number, string or atom, at character offset {at} (before \"(end of string)\")")
    })?;
    let Json::Object(map) = json else { return Err("Not a HASH reference".to_owned()) };
    for (name, value) in map {
        let value = match value {
            Json::Null => continue,
            Json::Object(_) => Value::Object,
            Json::Array(items) => Value::List(items.iter().map(scalar).collect()),
            other => Value::Text(scalar(&other)),
        };
        into.insert(name, value);
    }
    Ok(())
}

/// A scalar as Proxmox sees it: booleans are 1 and 0.
pub fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Bool(true) => "1".to_owned(),
        Json::Bool(false) => "0".to_owned(),
        other => other.to_string(),
    }
}
