//! Whole boots in QEMU, one virtual machine at a time: agents to the end they are made for, and broken
//! images told as what they are. The master's boots are in restore.rs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use e2e::lab::{Programs, repository};
use e2e::run::run;
use e2e::verdict::state;
use e2e::{images, sample, verdict};
use fs_err as fs;
use serde_json::Value;

/// Boots the image of `profile`; the exit status, and the verdict it printed.
fn boot(profile: &str, args: &[&str]) -> Result<(Option<i32>, Value)> {
    let mut command = Command::new(Programs::find()?.builder);
    command.current_dir(repository()).args(["--json", "boot"]).arg(images::of(profile)?).args(args);
    let ended = run(&mut command)?;
    let verdict = verdict::of(&ended, &format!("{profile} {args:?}"))?;
    Ok((ended.code(), verdict))
}

/// Boots and demands a pass with every check in it.
fn passes(profile: &str, args: &[&str]) -> Result<Value> {
    let (code, verdict) = boot(profile, args)?;
    verdict::passed(&verdict)?;
    ensure!(code == Some(0), "{profile} {args:?}: passed with exit status {code:?}");
    Ok(verdict)
}

/// Boots and demands a failure; returns what is given as its cause.
fn fails(profile: &str, args: &[&str]) -> Result<String> {
    let (code, verdict) = boot(profile, args)?;
    ensure!(code == Some(1) && verdict["passed"] == false, "{profile} {args:?}: {verdict:#}");
    match verdict["cause"]["text"].as_str() {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{profile} {args:?}: no cause in {verdict:#}"),
    }
}

#[test]
fn a_worker_joins_a_server_and_is_ready() {
    let verdict = passes("worker", &[]).unwrap();
    assert_eq!(state(&verdict), "ready");
    // The pass is on record for later commands, for exactly this file.
    let record = PathBuf::from(format!("{}.boot.json", images::of("worker").unwrap().display()));
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(record["digest"], verdict["digest"]);
}

#[test]
fn a_dev_node_joins_a_server_and_is_ready() {
    assert_eq!(state(&passes("dev", &[]).unwrap()), "ready");
}

#[test]
fn without_a_secret_a_node_under_uefi_ends_in_maintenance_mode() {
    let verdict = passes("worker", &["--firmware", "ovmf", "--expect", "waiting"]).unwrap();
    assert_eq!(state(&verdict), "waiting");
    let failure = &verdict["report"]["failure"];
    assert_eq!(failure["step"], "secret");
    assert!(failure["fix"].as_str().unwrap().contains("enroll k3s-worker-01"), "{failure}");
}

/// A file that is laid over one of the guest's for one boot, and what must be told.
type Broken = (&'static str, &'static [&'static str], &'static str);
const BROKEN: [Broken; 3] = [
    ("usr/lib/firstboot/node.json", &["--expect", "waiting"], "node.json"),
    ("usr/local/bin/k3s", &[], "k3s"),
    ("", &["--expect", "waiting", "--seed", "missing"], "drive"),
];

#[test]
fn what_is_broken_is_told_as_what_it_is() {
    let garbage = tempfile::NamedTempFile::new().unwrap();
    fs::write(garbage.path(), "{ this is neither JSON nor a program").unwrap();
    for number in sample::chosen("broken boots", BROKEN.len(), 1).unwrap() {
        let (target, args, word) = BROKEN[number];
        let replace = format!("/{target}={}", garbage.path().display());
        let mut all = args.to_vec();
        if !target.is_empty() {
            all.extend(["--replace", &replace]);
        }
        let cause = fails("worker", &all).unwrap();
        assert!(cause.contains(word), "{target}: {cause}");
        eprintln!("{target} {args:?}: {cause}");
    }
}
