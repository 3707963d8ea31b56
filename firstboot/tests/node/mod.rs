//! A node for the tests: a tree as an image and a booted kernel would show it, programs on PATH
//! that record how they were called, and the built firstboot.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use node::files::ensure_file;
use node::join::{Bootstrap, Join};
use node::report::Report;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Every token of these tests holds this word, which no output may show.
pub const SECRET: &str = "s3cret";

/// Longest wait of any step in these tests.
const LONGEST_WAIT: &str = "30";

/// What a run of firstboot left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    dir: TempDir,
    pub name: &'static str,
}

impl Node {
    /// A booted worker without a join secret.
    pub fn worker() -> Self {
        Self::new("agent", "k3s-worker-01")
    }

    /// A booted master, the only server, without a join secret.
    pub fn master() -> Self {
        Self::new("server", "k3s-master")
    }

    /// A booted master whose cluster has an NFS export, which is mounted: a folder of the tree.
    pub fn master_with_nfs() -> Self {
        let node = Self::master();
        let mut config = config("server");
        config["cluster"]["nfs"] =
            json!([{"name": "data", "server": "192.0.2.9", "export": "/vol"}]);
        node.put("usr/lib/firstboot/node.json", &config.to_string());
        node.put("proc/self/mountinfo", "90 21 0:50 / /srv/nfs/data rw - nfs4 192.0.2.9:/vol rw\n");
        fs_err::create_dir_all(node.path("srv/nfs/data")).unwrap();
        node
    }

    /// A booted master, the first of three, whose peers have these addresses; its NFS is mounted.
    pub fn one_of_three(peers: [Ipv4Addr; 2]) -> Self {
        let node = Self::master_with_nfs();
        let path = "usr/lib/firstboot/node.json";
        let mut config: Value = serde_json::from_str(&node.get(path).unwrap()).unwrap();
        config["cluster"]["birth"] = json!({"cluster-cidr": "10.42.0.0/16"});
        for (name, address) in ["k3s-m2", "k3s-m3"].iter().zip(peers) {
            let server = json!({"name": name, "address": address, "role": "server"});
            config["cluster"]["nodes"].as_array_mut().unwrap().push(server);
        }
        node.put(path, &config.to_string());
        node
    }

    fn new(role: &str, name: &'static str) -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap(), name };
        node.put("usr/lib/firstboot/node.json", &config(role).to_string());
        node.put("usr/lib/firstboot/k3s/config.yaml", "protect-kernel-defaults: true\n");
        node.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        node.put("proc/sys/kernel/hostname", &format!("{name}\n"));
        node.put(
            "proc/net/route",
            "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
             eth0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n",
        );
        node.put("dev/console", "");
        node.boot("1");
        // `is-active` says what the test put into k3s-active; all else succeeds.
        node.stub(
            "systemctl",
            "case \"$*\" in\n\
             is-active*srv-nfs*) test -e \"$ROOT/run/timer-active\" ;;\n\
             is-active*) test -e \"$ROOT/k3s-active\" ;;\n\
             show*) cat \"$ROOT/unit-state\" ;;\n\
             *start*) test ! -e \"$ROOT/start-fails\" ;;\n\
             esac",
        );
        node.stub("journalctl", &format!("echo 'exec format error, token {SECRET}-w'"));
        node
    }

    /// The next boot: tmpfs is empty again, K3s does not run.
    pub fn boot(&self, id: &str) {
        let _ = fs_err::remove_dir_all(self.path("run"));
        let _ = fs_err::remove_file(self.path("k3s-active"));
        self.put("proc/sys/kernel/random/boot_id", &format!("boot-{id}\n"));
        self.put("proc/uptime", "12.34 20.00\n");
        self.put("run/systemd/timesync/synchronized", "");
        fs_err::create_dir_all(self.path("run/firstboot/join")).unwrap();
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub fn put(&self, path: &str, text: &str) {
        ensure_file(&self.path(path), text.as_bytes(), 0o644).unwrap();
    }

    pub fn get(&self, path: &str) -> Option<String> {
        fs_err::read_to_string(self.path(path)).ok()
    }

    /// Gives the cluster an NFS export, which the kernel does not show as mounted yet.
    pub fn with_nfs(&self) {
        let path = "usr/lib/firstboot/node.json";
        let mut config: Value = serde_json::from_str(&self.get(path).unwrap()).unwrap();
        config["cluster"]["nfs"] =
            json!([{"name": "data", "server": "192.0.2.9", "export": "/volume1/k8s-data"}]);
        self.put(path, &config.to_string());
        self.put("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
    }

    /// Names the ntfy topic that hears of failures.
    pub fn with_ntfy(&self, url: &str) {
        let path = "usr/lib/firstboot/node.json";
        let mut config: Value = serde_json::from_str(&self.get(path).unwrap()).unwrap();
        config["cluster"]["ntfy"] = json!(url);
        self.put(path, &config.to_string());
    }

    pub fn stub(&self, name: &str, body: &str) {
        let path = self.dir.path().join("bin").join(name);
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> \"$ROOT/calls\"\n{body}\n");
        ensure_file(&path, text.as_bytes(), 0o755).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    /// The secret this node should get.
    pub fn join(&self) -> Join {
        let master = self.name == "k3s-master";
        Join {
            node: self.name.parse().unwrap(),
            token: format!("{SECRET}-w"),
            agent_token: master.then(|| format!("{SECRET}-a")),
            cluster_id: master.then(|| "home-1".parse().unwrap()),
            snapshot_key: master.then(|| "5e".repeat(32)),
            bootstrap: if master { Bootstrap::Once } else { Bootstrap::No },
        }
    }

    /// Writes a payload as the guest agent does.
    pub fn give(&self, payload: &[u8]) {
        ensure_file(&self.path("run/firstboot/join/payload"), payload, 0o666).unwrap();
    }

    /// Writes the secret this node should get.
    pub fn give_secret(&self) {
        self.give(&self.join().encode().unwrap());
    }

    /// Runs firstboot and checks that nothing it says or leaves in the open shows a token.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_stopping(args, 0)
    }

    /// Like `run`, with the process ended at its write number `stop`, counted from 1.
    pub fn run_stopping(&self, args: &[&str], stop: u64) -> Ran {
        let output = self.command(args, stop).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        let ran = Ran { code, stdout: text(output.stdout), stderr: text(output.stderr) };
        self.shows_no_token(&ran);
        ran
    }

    fn command(&self, args: &[&str], stop: u64) -> Command {
        let path = format!("{}:/usr/bin:/bin", self.dir.path().join("bin").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstboot"));
        command.args(["--longest-wait", LONGEST_WAIT, "--stop-at", &stop.to_string(), "--root"]);
        command.arg(self.path("")).args(args).env_clear().env("PATH", path);
        command.env("ROOT", self.path(""));
        command
    }

    /// Like `run`, of one that is killed meanwhile; returns the signal.
    pub fn run_killed(&self, args: &[&str]) -> i32 {
        self.command(args, 0).status().unwrap().signal().unwrap()
    }

    fn shows_no_token(&self, ran: &Ran) {
        let seen = [Some(ran.stdout.clone()), Some(ran.stderr.clone())];
        let files = ["dev/console", "run/firstboot/report.json", "var/lib/firstboot/ledger.json"];
        let files = files.map(|path| self.get(path));
        let own = self.get("etc/rancher/k3s/config.yaml.d/50-node.yaml");
        for text in seen.into_iter().chain(files).chain([own]).flatten() {
            assert!(!text.contains(SECRET), "a token in: {text}");
        }
    }

    pub fn report(&self) -> Report {
        serde_json::from_str(&self.get("run/firstboot/report.json").unwrap()).unwrap()
    }

    /// How often programs were called, and with what, since the last call.
    pub fn calls(&self) -> Vec<String> {
        let text = self.get("calls").unwrap_or_default();
        let _ = fs_err::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    /// Every file that outlives a boot, with its mode, and when it was written if `times`.
    pub fn lasting(&self, times: bool) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for top in ["etc", "var", "usr"] {
            collect(&self.path(""), &self.path(top), times, &mut files);
        }
        // Figures of each boot, and no state of the node.
        files.remove("var/lib/node_exporter/textfile/firstboot.prom");
        files
    }
}

fn collect(root: &Path, folder: &Path, times: bool, files: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, times, files);
            continue;
        }
        let meta = entry.metadata().unwrap();
        let when = times.then(|| meta.modified().unwrap());
        let text = fs_err::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        files.insert(name, format!("{:o} {when:?} {text}", meta.permissions().mode() & 0o777));
    }
}

fn config(role: &str) -> Value {
    let profile = if role == "server" { "master" } else { "worker" };
    json!({
        "schema": 1, "image_id": format!("{profile}-0123456789ab"), "built_at": 1_789_200_000,
        "role": role, "k3s_version": "v1.36.4+k3s1",
        "labels": {"node.homelab/class": "general"}, "taints": [],
        "cluster": {
            "name": "home", "domain": "home.example.net", "api": "127.0.0.1",
            "network": "127.0.0.0/8", "gateway": "127.0.0.254",
            "nodes": [
                {"name": "k3s-master", "address": "127.0.0.1", "role": "server"},
                {"name": "k3s-worker-01", "address": "127.0.0.1", "role": "agent"},
            ],
        },
    })
}
