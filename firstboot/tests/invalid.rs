//! Every broken rule of what a node is given: one file per rule below `invalid/`, laid over a valid
//! one (a JSON merge patch; `.txt` is the whole text), and its message as a snapshot. Whatever is
//! wrong, nothing is applied and no secret is shown.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod node;

use std::path::Path;

use ::node::report::State;
use ::node::values::Digest;
use node::Node;
use serde_json::Value;

const BAKED: &str = "usr/lib/firstboot/node.json";

/// Lays `patch` over `whole`; `null` takes a key away.
fn merge(whole: &mut Value, patch: &Value) {
    let Value::Object(keys) = patch else { return *whole = patch.clone() };
    for (key, value) in keys {
        if value.is_null() {
            whole.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut whole[key.as_str()], value);
        }
    }
}

/// Each fixture of a kind: its name, and `valid` with it laid over.
fn fixtures(kind: &str, valid: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid").join(kind);
    let entries = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let made = entries.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs_err::read_to_string(&path).unwrap();
        if path.extension().unwrap() == "txt" {
            return (name, text.trim_end().to_owned());
        }
        let mut whole: Value = serde_json::from_str(valid).unwrap();
        merge(&mut whole, &serde_json::from_str(&text).unwrap());
        (name, whole.to_string())
    });
    made.collect()
}

/// Runs the host stage, which must refuse, and compares its message with the snapshot.
fn refuse(kind: &str, name: &str, node: &Node) {
    let before = node.lasting(true);
    let ran = node.run(&["host"]);
    let report = node.report();
    assert_eq!(report.state, State::Failed, "{kind}/{name}: {}", ran.stderr);
    assert!(ran.code == 1 || ran.code == 2, "{kind}/{name}");
    let mut after = node.lasting(true);
    after.remove("var/lib/firstboot/ledger.json");
    assert_eq!(after, before, "{kind}/{name} left something");
    assert!(node.get("run/firstboot/ready").is_none() && node.calls().is_empty());
    let failure = report.failure.unwrap();
    let root = node.path("").display().to_string();
    let text = format!("{}: {}\nto go on: {}", failure.step, failure.cause, failure.fix);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("messages/{kind}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name.to_owned(), text.replace(&root, "/")));
}

fn count(kind: &str, fixtures: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages").join(kind);
    let messages = fs_err::read_dir(folder).unwrap().count();
    assert_eq!(fixtures, messages, "a message without its fixture");
    eprintln!("{kind}: {fixtures} broken rules, each with its message");
}

#[test]
fn every_broken_rule_of_the_baked_configuration_has_its_message() {
    let valid = Node::master().get(BAKED).unwrap();
    let all = fixtures("node", &valid);
    for (name, text) in &all {
        let node = Node::master();
        node.put(BAKED, text);
        node.give_secret();
        refuse("node", name, &node);
    }
    count("node", all.len());
}

#[test]
fn every_broken_rule_of_the_join_secret_has_its_message() {
    let valid = serde_json::to_string(&Node::master().join()).unwrap();
    let all = fixtures("join", &valid);
    for (name, body) in &all {
        let node = Node::master();
        let head = format!("firstboot-join-1 {} {}\n", body.len(), Digest::of(body));
        node.give(format!("{head}{body}").as_bytes());
        refuse("join", name, &node);
    }
    count("join", all.len());
}
