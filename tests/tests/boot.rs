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
use node::join::{Bootstrap, Join};
use node::values::Digest;
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

/// What is wrong with a boot, and the word its cause must have.
struct Wrong {
    what: &'static str,
    /// A file of the guest that garbage is laid over for this boot.
    over: Option<&'static str>,
    /// The join secret handed over.
    secret: Option<fn() -> Result<Vec<u8>>>,
    args: &'static [&'static str],
    word: &'static str,
}

impl Wrong {
    const fn of(what: &'static str, word: &'static str) -> Self {
        Self { what, over: None, secret: None, args: &["--expect", "waiting"], word }
    }
}

const GARBAGE: &[u8] = b"{ this is neither JSON nor a program";

const WRONG: [Wrong; 7] = [
    Wrong {
        over: Some("usr/lib/firstboot/node.json"),
        ..Wrong::of("broken configuration", "node.json")
    },
    Wrong { over: Some("usr/local/bin/k3s"), args: &[], ..Wrong::of("broken K3s", "k3s") },
    Wrong {
        args: &["--expect", "waiting", "--seed", "missing"],
        ..Wrong::of("no identity", "drive")
    },
    Wrong {
        args: &["--expect", "waiting", "--seed", "broken"],
        ..Wrong::of("broken identity", "`localhost` is not a node of cluster")
    },
    Wrong {
        secret: Some(|| Ok(GARBAGE.to_vec())),
        ..Wrong::of("broken secret", "does not start with `firstboot-join-1`")
    },
    Wrong {
        secret: Some(secret_of_another),
        ..Wrong::of("contradictory secret", "is for node `k3s-worker-02`, this is `k3s-worker-01`")
    },
    Wrong {
        args: &["--expect", "waiting", "--clock", "2025-01-01T00:00:00"],
        ..Wrong::of("a clock of long ago", "but this image was built at")
    },
];

fn secret_of_another() -> Result<Vec<u8>> {
    let join = Join {
        node: "k3s-worker-02".parse()?,
        token: Digest::of("token").to_string(),
        agent_token: None,
        cluster_id: None,
        snapshot_key: None,
        bootstrap: Bootstrap::No,
    };
    Ok(join.encode()?)
}

#[test]
fn what_is_wrong_is_told_as_what_it_is() {
    let place = tempfile::tempdir().unwrap();
    for number in sample::chosen("wrong boots", WRONG.len(), 1).unwrap() {
        let wrong = &WRONG[number];
        let (garbage, secret) = (place.path().join("garbage"), place.path().join("secret"));
        fs::write(&garbage, GARBAGE).unwrap();
        let replace = wrong.over.map(|target| format!("/{target}={}", garbage.display()));
        let mut args = wrong.args.to_vec();
        args.extend(replace.iter().flat_map(|r| ["--replace", r]));
        if let Some(make) = wrong.secret {
            fs::write(&secret, make().unwrap()).unwrap();
            args.extend(["--secret", secret.to_str().unwrap()]);
        }
        let cause = fails("worker", &args).unwrap();
        assert!(cause.contains(wrong.word), "{}: {cause}", wrong.what);
        eprintln!("{}: {cause}", wrong.what);
    }
}
