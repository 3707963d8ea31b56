//! Snapshot and restore with a real etcd and API server: the K3s stand-in, in a network and a mount
//! namespace of its own. Needs root and `tests/k3s-standin/build.sh`; run it with
//! `cargo test -p firstboot --test standin -- --ignored`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at what cannot be")]

mod node;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::node::join::Bootstrap;
use ::node::report::State;
use ::node::values::Digest;
use node::{Node, SECRET};
use serde_json::{Value, json};

const SHELF: &str = "srv/nfs/data/k3s-snapshots/home-1/k3s-master";

/// How long the API server may take on a busy machine; 8 s were seen.
const LIMIT: Duration = Duration::from_mins(3);

/// Inside both namespaces: K3s wants a default route, and reads its token files below the real
/// `/etc`, which is therefore a copy with a link into the node's tree. The last line says it stands.
const INSIDE: &str = "set -e; mount --make-rprivate /; \
    cp -a /etc \"$1\"; ln -s \"$2/etc/rancher\" \"$1/rancher\"; mount --bind \"$1\" /etc; \
    ip link set lo up; ip link add eth0 type veth peer name eth1; ip link set eth0 up; \
    ip link set eth1 up; ip address add 10.99.8.1/24 dev eth0; \
    ip route add default via 10.99.8.2; touch \"$3\"; exec sleep 900";

/// A master whose `k3s` is the stand-in, and what runs for it.
struct Home {
    node: Node,
    holder: Child,
    server: Option<Child>,
    place: tempfile::TempDir,
}

fn standin() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/k3s-standin/k3s");
    path.canonicalize().expect("run tests/k3s-standin/build.sh first")
}

impl Home {
    fn new() -> Self {
        let (node, place) = (Node::master_with_nfs(), tempfile::tempdir().unwrap());
        let stands = place.path().join("stands");
        let mut holder = Command::new("unshare");
        holder.args(["--net", "--mount", "sh", "-c", INSIDE, "sh"]);
        holder.arg(place.path().join("etc")).arg(node.path("").canonicalize().unwrap());
        let holder = holder.arg(&stands).stdin(Stdio::null()).spawn().unwrap();
        let body = format!(
            "export K3S_STANDIN_ROOT=\"$ROOT\"\n\
             exec nsenter --net=/proc/{0}/ns/net --mount=/proc/{0}/ns/mnt {1} \"$@\"",
            holder.id(),
            standin().display()
        );
        node.stub("k3s", &body);
        node.put(
            "usr/lib/firstboot/k3s/config.yaml",
            "disable-agent: true\nsecrets-encryption: true\nwrite-kubeconfig-mode: \"0600\"\n",
        );
        let home = Self { node, holder, server: None, place };
        wait("the namespaces", || stands.exists());
        home
    }

    fn k3s(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.node.path("../bin/k3s"));
        command.args(args).env("ROOT", self.node.path("")).stdin(Stdio::null());
        command
    }

    /// Runs the server until its API is ready.
    fn start(&mut self) {
        let log = fs_err::File::create(self.place.path().join("log")).unwrap().into_file();
        let mut command = self.k3s(&["server"]);
        let both = log.try_clone().unwrap();
        self.server = Some(command.stdout(both).stderr(log).spawn().unwrap());
        wait("the API", || self.kubectl(&["get", "--raw", "/readyz"]).is_some_and(|t| t == "ok"));
    }

    fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = server.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        wait("the server's end", || server.try_wait().unwrap().is_some());
    }

    /// What kubectl says, if it succeeds.
    fn kubectl(&self, args: &[&str]) -> Option<String> {
        let output = self.k3s(&[&["kubectl"], args].concat()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| text.trim().to_owned())
    }

    /// Makes an object.
    fn create(&self, object: &Value) {
        let path = self.place.path().join("object.json");
        fs_err::write(&path, object.to_string()).unwrap();
        assert!(self.kubectl(&["create", "-f", path.to_str().unwrap()]).is_some(), "{object}");
    }

    /// A field of a Node.
    fn node_field(&self, name: &str, path: &str) -> Option<String> {
        self.kubectl(&["get", "node", name, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Runs firstboot for `node` where this cluster's API can be reached.
    fn firstboot(&self, node: &Node, command: &str) -> String {
        let (id, path) = (self.holder.id(), node.path("../bin"));
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{id}/ns/net"))
            .arg(env!("CARGO_BIN_EXE_firstboot"))
            .args(["--longest-wait", "5000", "--root"])
            .arg(node.path(""))
            .arg(command)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", path.display()))
            .env("ROOT", node.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !said.contains(SECRET), "{said}");
        said
    }

    /// The node's disk is lost; another boots with the identity of a rebuilt one.
    fn lose_disk(&self, boot: &str) {
        for gone in ["var/lib/rancher", "var/lib/firstboot", "etc/rancher"] {
            fs_err::remove_dir_all(self.node.path(gone)).unwrap();
        }
        self.node.boot(boot);
        let mut join = self.node.join();
        join.bootstrap = Bootstrap::No;
        self.node.give(&join.encode().unwrap());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for child in [self.server.as_mut(), Some(&mut self.holder)].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = fs_err::read_to_string(self.place.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("the server's last lines, newest first:\n{}", lines.join("\n"));
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what} did not come within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
#[ignore = "needs root and the built K3s stand-in"]
fn a_real_cluster_comes_back_from_its_snapshot_on_an_empty_disk() {
    let mut home = Home::new();
    home.node.give_secret();
    let ran = home.node.run(&["host"]);
    assert_eq!((ran.code, home.node.report().state), (0, State::Starting), "{}", ran.stderr);
    home.start();
    let made = home.kubectl(&["create", "secret", "generic", "kept", "--from-literal=a=before"]);
    assert!(made.is_some());
    let uid = home.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    let ran = home.node.run(&["snapshot", "save"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // What comes after the snapshot is lost, which proves that the snapshot is what is restored.
    assert!(home.kubectl(&["create", "configmap", "late"]).is_some());
    home.stop();
    let ran = home.node.run(&["snapshot", "verify"]);
    assert_eq!(ran.code, 0, "{} {}", ran.stdout, ran.stderr);

    home.lose_disk("2");
    let ran = home.node.run(&["host"]);
    assert_eq!((ran.code, home.node.report().state), (0, State::Starting), "{}", ran.stderr);
    assert!(ran.stderr.contains("restore: applied"), "{}", ran.stderr);
    home.start();
    let kept = home.kubectl(&["get", "secret", "kept", "-o", "jsonpath={.data.a}"]);
    assert_eq!(kept.as_deref(), Some("YmVmb3Jl"));
    assert_eq!(home.kubectl(&["get", "configmap", "late"]), None);
    let after =
        home.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!((after.is_some(), &after), (true, &uid));
    // And the restored server takes the next one, which is the newest.
    assert_eq!(home.node.run(&["snapshot", "save"]).code, 0);
    home.stop();
    let listed = home.node.run(&["snapshot", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2, "{listed:#}");
}

#[test]
#[ignore = "needs root and the built K3s stand-in"]
fn a_power_cut_while_the_real_reset_runs_is_restored_again() {
    let mut home = Home::new();
    home.node.give_secret();
    assert_eq!(home.node.run(&["host"]).code, 0);
    home.start();
    assert!(home.kubectl(&["create", "configmap", "kept"]).is_some());
    assert_eq!(home.node.run(&["snapshot", "save"]).code, 0);
    home.stop();
    home.lose_disk("2");
    // The reset has put a database there and ends before the keys are on disk, with status 0.
    let real = fs_err::read_to_string(home.node.path("../bin/k3s")).unwrap();
    let failing = real.replace("export ", "export K3S_STANDIN_RESET_FAILS=1\nexport ");
    fs_err::write(home.node.path("../bin/k3s"), failing).unwrap();
    let ran = home.node.run(&["host"]);
    assert_eq!((ran.code, home.node.report().failure.unwrap().step.as_str()), (1, "restore"));
    assert!(ran.stderr.contains("K3s did not reset itself (exit status: 0)"), "{}", ran.stderr);
    fs_err::write(home.node.path("../bin/k3s"), real).unwrap();
    // What a cut in the middle leaves: a database, the flag, and no keys.
    home.node.put("var/lib/rancher/k3s/server/db/etcd/member/snap/db", "torn");
    home.node.put("var/lib/rancher/k3s/server/db/reset-flag", "");
    home.node.boot("3");
    let ran = home.node.run(&["host"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    home.start();
    assert!(home.kubectl(&["get", "configmap", "kept"]).is_some());
    home.stop();
}

/// A Node as a kubelet of this boot would keep it. What runs no kubelet here says Ready all the same.
fn node_object(name: &str, boot: &str) -> Value {
    let info = json!({"bootID": boot, "machineID": "", "systemUUID": "", "kernelVersion": "",
        "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
        "operatingSystem": "", "architecture": ""});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"nodeInfo": info, "conditions": [{"type": "Ready", "status": "True"}]}})
}

const RESTORED: &str = ".metadata.annotations.node\\.homelab/restored";
const DONE: &str = ".metadata.annotations.node\\.homelab/snapshot-done";

#[test]
#[ignore = "needs root and the built K3s stand-in"]
fn a_request_is_answered_and_after_a_restore_strangers_go_and_agents_restart_once() {
    let mut home = Home::new();
    home.node.give_secret();
    assert_eq!(home.node.run(&["host"]).code, 0);
    home.start();
    for (name, boot) in [("k3s-master", "boot-2"), ("k3s-worker-01", "b"), ("stranger", "b")] {
        home.create(&node_object(name, boot));
    }
    let worker = Node::worker();
    let credentials = fs_err::read_to_string(home.node.path("etc/rancher/k3s/k3s.yaml")).unwrap();
    worker.put("var/lib/rancher/k3s/agent/kubelet.kubeconfig", &credentials);
    home.firstboot(&worker, "watch");
    assert!(worker.calls().is_empty(), "what is seen first is no news");

    // A request by annotation, answered once with what lies on NFS.
    home.firstboot(&home.node, "watch");
    assert_eq!(home.node_field("k3s-master", DONE).unwrap(), "");
    let mark = "node.homelab/snapshot-request=n1";
    assert!(home.kubectl(&["annotate", "node", "k3s-master", mark]).is_some());
    home.firstboot(&home.node, "watch");
    let done = home.node_field("k3s-master", DONE).unwrap();
    let [nonce, file, sha256] = done.split(' ').collect::<Vec<_>>()[..] else { panic!("{done}") };
    let bytes = fs_err::read(home.node.path(SHELF).join(file)).unwrap();
    assert_eq!((nonce, sha256), ("n1", Digest::of(bytes).to_string().as_str()));
    home.node.calls();
    home.firstboot(&home.node, "watch");
    assert!(home.node.calls().is_empty(), "answered once");

    // That snapshot is what comes back: without its answer, which was given after it was taken.
    home.stop();
    home.lose_disk("2");
    assert_eq!(home.node.run(&["host"]).code, 0);
    home.start();
    let now = k8s_openapi::jiff::Timestamp::now();
    home.create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "k3s-master", "namespace": "kube-node-lease"},
        "spec": {"renewTime": format!("{now:.6}")}}));
    home.node.put("unit-state", "ActiveState=active\nSubState=running\n");
    let said = home.firstboot(&home.node, "cluster");
    assert!(said.contains("restored: applied"), "{said}");
    assert!(said.contains("1 nodes told, 1 foreign ones removed"), "{said}");
    assert_eq!(home.node_field("stranger", ".metadata.name"), None);
    assert_eq!(home.node_field("k3s-master", RESTORED).unwrap(), "");
    assert!(!home.node_field("k3s-worker-01", RESTORED).unwrap().is_empty());
    assert!(home.firstboot(&home.node, "cluster").contains("cluster: done, nothing to change"));

    // The cluster's keys came back too: the agent's credentials from before still hold.
    home.firstboot(&worker, "watch");
    assert_eq!(worker.calls(), ["systemctl restart --no-block k3s-agent.service"]);
    home.firstboot(&worker, "watch");
    assert!(worker.calls().is_empty(), "restarted once");
    home.stop();
}
