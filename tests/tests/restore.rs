//! The life of a sole master against a real NFS server: started once, stopped in order, started
//! again from its disk, lost, and restored on an empty disk without a touch.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Programs, repository};
use e2e::nfs::Nfs;
use e2e::run::{Running, run};
use e2e::verdict::passed;
use e2e::{images, sample, verdict};
use fs_err as fs;
use node::join::{Bootstrap, Join};
use node::values::Digest;
use serde_json::Value;

/// The export of cluster/cluster.toml.
const EXPORT: &str = "/volume1/k8s-data";
/// The cluster's id in this test.
const CLUSTER: &str = "home-test";

/// One cluster's secrets, its NFS server and the disks of its master.
struct Home {
    image: PathBuf,
    nfs: Nfs,
    place: tempfile::TempDir,
}

impl Home {
    fn new() -> Result<Self> {
        let image = images::of("master")?.clone();
        Ok(Self { image, nfs: Nfs::start(EXPORT)?, place: tempfile::tempdir()? })
    }

    fn secret(&self, bootstrap: Bootstrap, token: &str) -> Result<PathBuf> {
        let path = self.place.path().join("secret");
        let join = Join {
            node: "k3s-master".parse()?,
            token: Digest::of(token).to_string(),
            agent_token: Some(Digest::of("agents").to_string()),
            cluster_id: Some(CLUSTER.parse()?),
            snapshot_key: Some(Digest::of("key").to_string()),
            bootstrap,
        };
        fs::write(&path, join.encode()?)?;
        Ok(path)
    }

    /// Boots the master on the disk of this name; its verdict.
    fn boot(&self, disk: &str, secret: &Path, more: &[&str]) -> Result<Value> {
        let mut command = self.command(disk, secret)?;
        verdict::of(&run(command.args(more))?, &format!("master, disk {disk}, {more:?}"))
    }

    fn command(&self, disk: &str, secret: &Path) -> Result<Command> {
        let mut command = Command::new(Programs::find()?.builder);
        command.current_dir(repository()).args(["--json", "boot"]).arg(&self.image);
        command.arg("--nfs").arg(self.nfs.address.to_string());
        command.arg("--disk").arg(self.place.path().join(disk)).arg("--secret").arg(secret);
        Ok(command)
    }

    /// The cluster's files on NFS by name.
    fn snapshots(&self) -> Result<Vec<String>> {
        let folder = self.nfs.folder().join("k3s-snapshots").join(CLUSTER).join("k3s-master");
        let names =
            fs::read_dir(folder)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }
}

/// A later boot: the checks that something was made in this very boot do not hold for it.
fn ready(verdict: &Value) -> Result<()> {
    ensure!(verdict["report"]["state"] == "ready", "{verdict:#}");
    Ok(())
}

/// What a step of the report says.
fn detail<'a>(verdict: &'a Value, step: &str) -> Result<&'a str> {
    let steps = verdict["report"]["steps"].as_array().context("steps")?;
    let found = steps.iter().find(|s| s["name"] == step);
    found.and_then(|s| s["detail"].as_str()).with_context(|| format!("no step {step}"))
}

#[test]
fn a_lost_master_comes_back_from_its_snapshot() {
    let mut home = Home::new().unwrap();
    let first = home.secret(Bootstrap::Once, "token").unwrap();
    let born = home.boot("first", &first, &["--shutdown"]).unwrap();
    passed(&born).unwrap();
    assert_eq!(detail(&born, "origin").unwrap(), format!("a new cluster, recorded as {CLUSTER}"));
    // The planned stop took a snapshot and carried it to NFS, with its sidecar.
    let names = home.snapshots().unwrap();
    assert_eq!(names.len(), 2, "{names:?}");

    if sample::is_full() {
        a_second_boot_changes_nothing(&home, &born);
        without_nfs_it_still_stops(&mut home);
    }
    // The disk is thrown away.
    if sample::is_full() {
        other_token_is_refused(&home);
    }
    // The next one restores itself, with no human.
    let later = home.secret(Bootstrap::No, "token").unwrap();
    let back = home.boot("second", &later, &[]).unwrap();
    passed(&back).unwrap();
    assert!(detail(&back, "restore").unwrap().starts_with("from firstboot-k3s-master-"));
    assert_eq!(detail(&back, "node-ready").unwrap(), detail(&born, "node-ready").unwrap());
    if sample::is_full() {
        without_nfs_it_waits(&mut home, &later);
    }
}

/// Another boot of the same disk: nothing is made anew.
fn a_second_boot_changes_nothing(home: &Home, born: &Value) {
    let later = home.secret(Bootstrap::No, "token").unwrap();
    let again = home.boot("first", &later, &[]).unwrap();
    ready(&again).unwrap();
    assert_eq!(detail(&again, "origin").unwrap(), "the database on this disk");
    assert_eq!(detail(&again, "node-ready").unwrap(), detail(born, "node-ready").unwrap());
    // NFR2: the control plane is back within 5 minutes, here without hardware virtualisation.
    assert!(again["seconds"].as_f64().unwrap() < 300.0, "{again:#}");
}

/// The NFS server dies under a running node: it stays Ready, and its shutdown does not hang on the dead
/// mount. What did not come to NFS is told while it stops, with where it is (traps B7).
fn without_nfs_it_still_stops(home: &mut Home) {
    let later = home.secret(Bootstrap::No, "token").unwrap();
    let mut command = home.command("first", &later).unwrap();
    let mut running = Running::start(command.arg("--shutdown")).unwrap();
    // `ready` stands on the console after the bundle only, when the facts may be out already.
    assert!(running.wait_for(|line| line.ends_with(" k3s")).unwrap());
    home.nfs.kill().unwrap();
    let start = Instant::now();
    let stopped = verdict::of(&running.end().unwrap(), "master, NFS dead in run and stop").unwrap();
    ready(&stopped).unwrap();
    let checks = stopped["checks"].as_array().unwrap();
    assert!(checks.iter().any(|c| c["name"] == "shutdown" && c["passed"] == true), "{stopped:#}");
    eprintln!("from the end of NFS to power off: {:.0?}", start.elapsed());
    let log = repository().join(stopped["console_log"].as_str().unwrap());
    let log = fs::read_to_string(log).unwrap();
    let told = ["its server does not answer", "is not mounted"];
    let lost = log.lines().find(|line| told.iter().any(|text| line.contains(text)));
    let lost = lost.unwrap_or_else(|| panic!("nothing is said of the snapshot: {log}"));
    eprintln!("it says: {lost}");
    home.nfs.bring_back().unwrap();
}

/// Another token cannot open the snapshot.
fn other_token_is_refused(home: &Home) {
    let wrong = home.secret(Bootstrap::No, "other").unwrap();
    let refused = home.boot("wrong", &wrong, &[]).unwrap();
    let cause = refused["cause"]["text"].as_str().unwrap();
    assert!(cause.contains("another server token"), "{cause}");
}

/// A lost master waits for its NFS server, and says so.
fn without_nfs_it_waits(home: &mut Home, secret: &Path) {
    home.nfs.kill().unwrap();
    let alone = home.boot("third", secret, &["--timeout", "150s"]).unwrap();
    let cause = alone["cause"]["text"].as_str().unwrap();
    assert!(cause.contains("is not mounted"), "{cause}");
}
