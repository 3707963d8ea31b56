//! What of a recorded answer the double's must agree with, and what is made up anew each time.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::facts::same;

/// What of an answer must agree.
pub fn facts(
    path: &str,
    status: u16,
    reason: &str,
    body: &Value,
    names: &BTreeMap<String, String>,
) -> String {
    let reason = match status {
        595 => String::new(),
        _ => texts(reason),
    };
    let data = if status == 200 {
        data(path, &body["data"])
    } else {
        json!(texts(&body["errors"].to_string()))
    };
    let mut text = format!("{status} {reason} {data}");
    for (old, new) in names {
        text = text.replace(old, "UPID").replace(new, "UPID");
    }
    text
}

/// Texts that differ from machine to machine are cut, checksums are those of other bytes.
fn texts(text: &str) -> String {
    let text = same(text);
    let starts = ["hostname lookup ", "command '/sbin"];
    let cut = starts.iter().find_map(|start| text.find(start).map(|at| at + start.len()));
    let text = cut.map_or(text.clone(), |end| text[..end].to_owned());
    let words = text.split('\'').map(|word| {
        if word.len() == 64 && !word.trim_matches('0').is_empty() { "sum" } else { word }
    });
    words.collect::<Vec<_>>().join("'")
}

fn data(path: &str, data: &Value) -> Value {
    let last = path.rsplit('/').next().unwrap_or_default();
    let only = |keys: &[&str], row: &Value| -> Value {
        keys.iter()
            .filter(|key| !row[**key].is_null())
            .map(|key| ((*key).to_owned(), row[*key].clone()))
            .collect::<Map<_, _>>()
            .into()
    };
    match last {
        "status" if path.contains("/tasks/") => {
            json!([
                data["status"],
                data["type"],
                data["id"],
                data["user"],
                data["tokenid"],
                texts(data["exitstatus"].as_str().unwrap_or_default())
            ])
        }
        "log" => json!(texts(
            data.as_array()
                .and_then(|lines| lines.iter().max_by_key(|line| line["n"].as_u64()))
                .and_then(|line| line["t"].as_str())
                .unwrap_or_default()
        )),
        "config" => data.as_object().map(masked).unwrap_or_default().into(),
        "pending" => rows(data, "key", &["value", "pending", "delete"]),
        "cloudinit" => rows(data, "key", &["value", "pending"]),
        "current" => only(
            &[
                "name",
                "status",
                "template",
                "lock",
                "tags",
                "vmid",
                "maxmem",
                "cpus",
                "maxdisk",
                "agent",
                "qmpstatus",
            ],
            data,
        ),
        "resources" => rows(data, "vmid", &["tags", "lock", "node", "type"]),
        "content" => rows(data, "volid", &["content", "format", "vmid"]),
        "dump" => json!(
            data.as_str()
                .unwrap_or_default()
                .lines()
                .filter(|line| !line.contains("mac_address") && !line.contains("instance-id"))
                .collect::<Vec<_>>()
        ),
        "permissions" | "nextid" | "feature" | "pools" => data.clone(),
        _ => Value::Null,
    }
}

fn rows(data: &Value, key: &str, keys: &[&str]) -> Value {
    let rows = data.as_array().into_iter().flatten().map(|row| {
        let name = row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
        let values: Vec<Value> = keys
            .iter()
            .map(|key| masked(&Map::from_iter([(name.clone(), row[*key].clone())]))[&name].clone())
            .collect();
        (name, Value::from(values))
    });
    rows.collect::<Map<_, _>>().into()
}

/// Without what is made up anew for each VM.
fn masked(config: &Map<String, Value>) -> Map<String, Value> {
    let value = |(key, value): (&String, &Value)| {
        let new = match key.as_str() {
            "digest" | "meta" | "vmgenid" => json!("*"),
            "smbios1" => json!("uuid=*"),
            net if net.starts_with("net") && net != "netin" => {
                let text = value.as_str().unwrap_or_default();
                json!(text.split(',').skip(1).collect::<Vec<_>>())
            }
            _ => value.clone(),
        };
        (key.clone(), if value.is_null() { Value::Null } else { new })
    };
    config.iter().map(value).collect()
}
