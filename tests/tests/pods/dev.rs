//! The charts `dev-proxy` and `dev-containers`: a route that is put into the `ConfigMap` is in use in every
//! pod within 30 s, and so is its end; and one logs in to a dev container through a port of the proxy.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::kubernetes::{Cluster, HELLO, NODE};
use fs_err as fs;
use node::command::Run as _;
use serde_json::{Value, json};

use crate::{SOON, applied, folder, load, names, rendered, secret};

/// FR43.
const LIVE: Duration = Duration::from_secs(30);
/// The proxy's first TCP port, at every node of the bench: in Traefik's place.
const SSH: u16 = 30022;
/// More logins that fail than sshd forgives one address.
const STRANGERS: usize = 10;
/// A route as the chart writes one.
const ROUTE: &str = "location /hello/ {
    set $target hello.default.svc.cluster.local:8080;
    rewrite ^/hello/(.*)$ /$1 break;
    proxy_pass http://$target;
}
";

fn objects() -> [Value; 3] {
    let labels = json!({"app": "hello"});
    let container = json!({"name": "hello", "image": HELLO});
    [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "ssh", "namespace": "dev"},
            "spec": {"type": "NodePort", "selector": {"app.kubernetes.io/name": "dev-proxy"},
                "ports": [{"port": 2222, "nodePort": SSH}]}}),
    ]
}

fn release(cluster: &Cluster, name: &str, values: &str) {
    let values = rendered(cluster, values).unwrap().display().to_string();
    let chart = folder(name).display().to_string();
    let install = ["install", name, &chart, "-n", "dev", "-f", &values];
    names::helm(cluster, &[&install[..], &["--wait", "--timeout", "5m"]].concat()).unwrap();
}

fn pods(cluster: &Cluster) -> Result<Vec<String>> {
    let select = ["-l", "app.kubernetes.io/name=dev-proxy", "-o", "name"];
    let text = cluster.kubectl(&[&["-n", "dev", "get", "pods"][..], &select].concat())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// What nginx answers to `/hello/` in every pod of the proxy, asked in there.
fn answers(cluster: &Cluster, wanted: &str) -> Result<()> {
    let ask = "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /hello/ HTTP/1.0\\r\\nHost: dev\\r\\n\\r\\n' >&3; \
        head -n 1 <&3";
    for pod in pods(cluster)? {
        let said = cluster.kubectl(&["-n", "dev", "exec", &pod, "--", "bash", "-c", ask])?;
        ensure!(said.contains(wanted), "{pod} answers {said:?} and not {wanted}");
    }
    Ok(())
}

/// Edits the `ConfigMap` as the runbook says, and measures until every pod acts on it.
fn edited(cluster: &mut Cluster, routes: &str, wanted: &str) -> Duration {
    let patch = json!({"data": {"http.conf": routes}}).to_string();
    let start = Instant::now();
    let edit = ["-n", "dev", "patch", "configmap", "dev-proxy-routes", "--type", "merge", "-p"];
    cluster.kubectl(&[&edit[..], &[&patch]].concat()).unwrap();
    cluster.until("the route", SOON, |cluster| answers(cluster, wanted)).unwrap();
    start.elapsed()
}

fn a_route_comes_and_goes_within_half_a_minute(cluster: &mut Cluster) {
    let map = "{.data.http\\.conf}";
    let get = ["-n", "dev", "get", "configmap", "dev-proxy-routes", "-o"];
    let before = cluster.kubectl(&[&get[..], &[&format!("jsonpath={map}")]].concat()).unwrap();
    assert_eq!(pods(cluster).unwrap().len(), 2);
    answers(cluster, " 404 ").unwrap();
    let there = edited(cluster, &format!("{before}\n{ROUTE}"), " 200 ");
    let gone = edited(cluster, &before, " 404 ");
    println!("pods: a route came after {there:.1?} and went after {gone:.1?}, load {}", load());
    assert!(there < LIVE && gone < LIVE, "{there:?} {gone:?}");
}

/// A key pair in a folder of the test's, and its public half.
fn key(cluster: &Cluster, name: &str) -> String {
    let path = cluster.place().join(name);
    let mut make = Command::new("ssh-keygen");
    make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).run().unwrap();
    fs::read_to_string(path.with_extension("pub")).unwrap()
}

/// A shell's words in the dev container, through the proxy.
fn login(cluster: &mut Cluster, key: &str, words: &str) -> Result<String> {
    let address = cluster.machine(NODE)?.address;
    let place = cluster.place();
    let mut ssh = Command::new("ssh");
    ssh.args(["-q", "-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    ssh.args(["-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=accept-new", "-o"]);
    ssh.arg(format!("UserKnownHostsFile={}", place.join("known").display()));
    ssh.arg("-i").arg(place.join(key)).args(["-p", &SSH.to_string()]);
    ssh.arg(format!("dev@{address}")).arg(words).stdout_text()
}

/// What the proxy and the dev container said last: ssh says nothing but that it failed.
fn said(cluster: &Cluster) -> String {
    let of =
        |what: &[&str]| cluster.kubectl(&[&["-n", "dev", "logs", "--tail=15"][..], what].concat());
    let proxy = of(&["--prefix", "-l", "app.kubernetes.io/name=dev-proxy"]);
    format!("{}\n{}", proxy.unwrap_or_default(), of(&["deployment/dev-one"]).unwrap_or_default())
}

fn one_works_in_a_dev_container(cluster: &mut Cluster) {
    let (mine, host) = (key(cluster, "mine"), cluster.place().join("host"));
    key(cluster, "other");
    key(cluster, "host");
    let host = fs::read_to_string(host).unwrap();
    let keys = json!({"authorized_keys": mine, "ssh_host_ed25519_key": host});
    secret(cluster, "dev", "dev-keys", &keys).unwrap();
    let identity = "[user]\n\tname = Dev\n\temail = dev@home.test\n";
    let git = json!({"credentials": "https://me:token@git.home.test\n", "identity": identity});
    secret(cluster, "dev", "dev-git", &git).unwrap();
    cluster.kubectl(&["label", "node", NODE, "node.homelab/class=dev"]).unwrap();
    release(cluster, "dev-containers", "dev/dev-containers/values-homelab.yaml");
    let start = Instant::now();
    let who = |cluster: &mut Cluster| login(cluster, "mine", "id -un; hostname");
    let logged_in = cluster.until("a login", SOON, who);
    let name = logged_in.with_context(|| said(cluster)).unwrap();
    assert_eq!(name.trim(), "dev\ndev-one");
    println!("pods: logged in {:.1?} after the dev container was ready", start.elapsed());
    // All come from the proxy's address: whoever fails there must not lock out the others.
    for _ in 0..STRANGERS {
        login(cluster, "other", "true").unwrap_err();
    }
    for _ in 0..STRANGERS {
        login(cluster, "mine", "true").with_context(|| said(cluster)).unwrap();
    }
    let work =
        "set -e; cd /workspace; git init -q app; cd app; echo a >a; git add a; git commit -qm a
        git worktree add -q ../feature -b feature; cd ../feature; echo b >b; git add b
        git commit -qm b; git log --format=%an%s | tr '\\n' ' '; git worktree list | wc -l";
    assert_eq!(login(cluster, "mine", work).unwrap().trim(), "Devb Deva 2");
}

pub fn routes_change_and_a_dev_container_is_reached(cluster: &mut Cluster) {
    applied(cluster, "dev/namespace.yaml.tera").unwrap();
    for object in objects() {
        cluster.apply(&object).unwrap();
    }
    release(cluster, "dev-proxy", "dev/dev-proxy/values-homelab.yaml.tera");
    a_route_comes_and_goes_within_half_a_minute(cluster);
    one_works_in_a_dev_container(cluster);
}
