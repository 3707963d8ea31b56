//! Parameters: the table against what the real validator said.

use pve_double::raw_params;
use pve_double::table::{Raw, TABLE, Value};
use serde_json::json;

use super::facts::{Score, lines, spelt_out};

#[test]
fn the_table_agrees_with_the_real_validator() {
    let Some(rows) = lines("validate-golden.jsonl") else { return };
    let mut score = Score::default();
    for row in rows {
        let (method, path) = (row["method"].as_str().unwrap(), row["path"].as_str().unwrap());
        let Some((call, from_path)) = TABLE.route(method, path) else {
            score.skip();
            continue;
        };
        let mut raw: Raw = raw_params(&spelt_out(&row["params"]));
        for (name, value) in from_path {
            raw.entry(name).or_insert(Value::Text(value));
        }
        let got = match TABLE.check(call, &raw) {
            Ok(_) => json!("ok"),
            Err(errors) => json!(errors),
        };
        let want = if row["result"] == "ok" { &row["result"] } else { &row["errors"] };
        score.count(
            &format!("{method} {path} {}", row["params"]),
            &want.to_string(),
            &got.to_string(),
        );
    }
    score.close("validate-golden.jsonl");
}

/// The project's own rows, which gate everywhere: call, parameters, the text for each wrong one.
const OWN: [(&str, &str, &[(&str, &str)], &[(&str, &str)]); 14] = [
    ("GET", "/version", &[], &[]),
    (
        "GET",
        "/nodes/a_b/status",
        &[],
        &[("node", "invalid format - value does not look like a valid node name\n")],
    ),
    (
        "POST",
        "/nodes/pve1/qemu",
        &[("vmid", "99")],
        &[("vmid", "invalid format - value does not look like a valid VM ID\n")],
    ),
    (
        "POST",
        "/nodes/pve1/qemu/9/clone",
        &[("newid", "101"), ("full", "yes")],
        &[
            ("full", "type check ('boolean') failed - got 'yes'"),
            ("vmid", "invalid format - value does not look like a valid VM ID\n"),
        ],
    ),
    (
        "POST",
        "/nodes/pve1/qemu/900/clone",
        &[],
        &[("newid", "property is missing and it is not optional")],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("scsi0", "disks:0,import-from=local:import/x.qcow2")],
        &[],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("scsi0", "disks:10,foo=1")],
        &[(
            "scsi0",
            "invalid format - format error\nscsi0.foo: property is not defined in schema and the schema does not allow additional properties\n",
        )],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=4095")],
        &[(
            "net0",
            "invalid format - format error\nnet0.tag: value must have a maximum value of 4094\n",
        )],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("tags", "img:1")],
        &[("tags", "invalid format - invalid characters in tag\n")],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("boot", "order=scsi0,net0")],
        &[(
            "boot",
            "invalid format - format error\nboot.legacy: value does not match the regex pattern\n",
        )],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("ipconfig0", "gw=192.0.2.1")],
        &[(
            "ipconfig0",
            "invalid format - format error\nipconfig0.ip: missing property required by 'ipconfig0.gw'\n",
        )],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/config",
        &[("scsi31", "disks:1")],
        &[(
            "scsi31",
            "property is not defined in schema and the schema does not allow additional properties",
        )],
    ),
    (
        "PUT",
        "/nodes/pve1/qemu/101/resize",
        &[("disk", "scsi0"), ("size", "10GB")],
        &[("size", "value does not match the regex pattern")],
    ),
    (
        "POST",
        "/nodes/pve1/storage/local/upload",
        &[("content", "snippets"), ("filename", "x.yaml")],
        &[(
            "content",
            "value 'snippets' does not have a value in the enumeration 'iso, vztmpl, import'",
        )],
    ),
];

#[test]
fn the_table_says_what_the_project_relies_on() {
    for (method, path, params, want) in OWN {
        let (call, from_path) = TABLE.route(method, path).unwrap();
        let texts = from_path
            .into_iter()
            .chain(params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let raw: Raw = texts.map(|(key, value)| (key, Value::Text(value))).collect();
        let got = TABLE.check(call, &raw).err().unwrap_or_default();
        let want = want.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        assert_eq!(got, want, "{method} {path} {params:?}");
    }
}
