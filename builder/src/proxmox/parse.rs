//! Tolerant reading: Proxmox gives numbers as texts, booleans as 0 and 1, and leaves out what is
//! false or default.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A value as text; `None` for null, lists and tables.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(u8::from(*flag).to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number, also one written as text or with a fraction; 0 where there is none.
pub fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(d)?;
    Ok(text(&value).map_or(0, |text| number_of(&text)))
}

/// The whole part of a number; 0 for what is none.
pub fn number_of(text: &str) -> u64 {
    text.trim().split('.').next().unwrap_or_default().parse().unwrap_or(0)
}

/// 0 or 1, in any of their writings.
pub fn flag<'de, D: Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(d)?;
    Ok(text(&value).is_some_and(|text| flag_of(&text)))
}

/// Whether a text says yes, in Proxmox' words.
pub fn flag_of(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "yes" | "on" | "true")
}

/// A text; empty where there is none.
pub fn word<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(text(&Value::deserialize(d)?).unwrap_or_default())
}

/// A table whose values are all texts.
pub fn table(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

/// `a;b` (or with commas or spaces) as a list without empty words.
pub fn list(text: &str) -> Vec<String> {
    text.split([';', ',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `size=4G` of a drive's text, in bytes; plain numbers are bytes.
pub fn drive_size(drive: &str) -> Option<u64> {
    let size = drive.split(',').find_map(|part| part.strip_prefix("size="))?;
    let digits = size.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = size.split_at(digits);
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        #[serde(default, deserialize_with = "number")]
        memory: u64,
        #[serde(default, deserialize_with = "flag")]
        template: bool,
    }

    #[test]
    fn numbers_and_flags_come_in_any_dress() {
        for (text, memory, template) in [
            (r#"{"memory":"2048","template":1}"#, 2048, true),
            (r#"{"memory":2048.0,"template":"1"}"#, 2048, true),
            (r#"{"memory":null,"template":""}"#, 0, false),
            ("{}", 0, false),
        ] {
            let sample: Sample = serde_json::from_str(text).unwrap();
            assert_eq!((sample.memory, sample.template), (memory, template), "{text}");
        }
    }

    #[test]
    fn a_drives_size_is_in_bytes() {
        assert_eq!(drive_size("local:9/x.qcow2,size=64M"), Some(64 << 20));
        assert_eq!(drive_size("local:9/x.qcow2,size=50G,ssd=1"), Some(50 << 30));
        assert_eq!(drive_size("local:9/x.qcow2,size=528K"), Some(528 << 10));
        for none in ["local:9/x.qcow2", "x,size=", "x,size=4X", "x,size=99999999999999T"] {
            assert_eq!(drive_size(none), None, "{none}");
        }
    }
}
