//! The README's walkthrough, from `builder push` to a Ready Node and to another K3s and back, by the built
//! program alone: the double of Proxmox runs a QEMU machine of the template's own disk for each VM, and
//! the Node is one of a real Kubernetes API.
//!
//! What is not as in the home: Proxmox is the double, K3s the stand-in, whose second version is the same
//! Kubernetes under another number; the server is the bench's, which takes the snapshots it is asked for
//! without NFS.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

mod home;

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::kubernetes::HELLO;
use e2e::lab::Product;
use e2e::{sample, tied};
use pve_double::Leftovers;
use serde_json::{Value, json};

use home::{Home, NEXT, WORKER, vm};

const FIRST: &str = "v1.36.3+k3s-standin";
/// A pod's start on an emulated machine.
const SOON: Duration = Duration::from_mins(5);
/// What runs on the worker, before and after.
const WORKLOAD: &str = "on-the-worker";

/// Refused before it is booted, then tested and pushed; the template's number.
fn push(home: &Home) -> Result<String> {
    let push = ["push", "--profile", "worker", "--allow-standin"];
    let early = home.run(&push)?;
    ensure!(early.code() == Some(1), "{}", early.stderr());
    ensure!(early.stderr().contains("was not boot-tested"), "{}", early.stderr());
    home.done(&["boot", "--profile", "worker"])?;
    let plain = home.run(&push[..3])?;
    ensure!(plain.stderr().contains("it is never pushed"), "{}", plain.stderr());
    Ok(home.done(&push)?.only_line()?.to_owned())
}

/// The worker is of this image and K3s, in `builder`'s eyes, in the cluster's and at Proxmox.
fn carries(home: &Home, image: &Product, k3s: &str) -> Result<()> {
    let row = home.status()?;
    ensure!(row["image"] == image.id && row["k3s"] == k3s, "{row:#}");
    ensure!(row["state"] == "healthy" && row["health"] == "Ready", "{row:#}");
    ensure!(row["vmid"] == vm(home)?, "{row:#}");
    let node = format!("node/{WORKER}");
    let kubelet = home.cluster.field(&node, "{.status.nodeInfo.kubeletVersion}")?;
    ensure!(kubelet == k3s, "{kubelet}");
    let vmid = vm(home)?;
    let tags = home.double.world(|world| world.vms[&vmid].config["tags"].clone());
    ensure!(tags.contains(&format!("img-{}", image.id)), "{tags}");
    home.tell(&format!("{WORKER} is VM {vmid}, {} with {kubelet}", image.id));
    Ok(())
}

/// A pod that can only be there.
fn workload() -> Value {
    let labels = json!({"app": WORKLOAD});
    let container = json!({"name": "hello", "image": HELLO});
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": WORKLOAD, "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1,
                    "nodeSelector": {"kubernetes.io/hostname": WORKER}}}}})
}

fn its_pod_runs(home: &mut Home) -> Result<()> {
    home.cluster.until("the pod on the worker", SOON, |cluster| {
        let path = "{.status.readyReplicas}";
        let ready = cluster.field(&format!("deployment/{WORKLOAD}"), path)?;
        ensure!(ready == "1", "{ready:?} pods are ready");
        Ok(())
    })
}

/// Nothing but the node's VM and the templates is left, and no token.
fn nothing_is_left(home: &Home) -> Result<()> {
    let left = home.double.world(|world| world.leftovers());
    let found =
        Leftovers { vms: vec![], templates: vec![], images: vec![], secrets: vec![], ..left };
    ensure!(found == Leftovers::default(), "{found:?}");
    let kind = "type=bootstrap.kubernetes.io/token";
    let names = ["-n", "kube-system", "get", "secrets", "--field-selector", kind, "-o", "name"];
    let tokens = home.cluster.kubectl(&names)?;
    ensure!(tokens.is_empty(), "{tokens}");
    Ok(())
}

fn created(home: &mut Home, image: &Product) -> Result<()> {
    home.done(&["node", "create", WORKER])?;
    ensure!(vm(home)? == 201, "the number of cluster.toml");
    carries(home, image, FIRST)?;
    ensure!(home.status()?["current"] == true, "{:#}", home.status()?);
    let written = home.double.world(|world| world.leftovers().secrets);
    ensure!(written == [(201, "/run/firstboot/join/payload".to_owned())], "{written:?}");
    nothing_is_left(home)?;
    home.cluster.apply(&workload())?;
    its_pod_runs(home)
}

fn rolled_out(home: &mut Home, image: &Product) -> Result<()> {
    let before = home.status()?;
    ensure!(before["current"] == false && before["template"] == "N-1", "{before:#}");
    home.done(&["rollout", "--canary", WORKER])?;
    ensure!(vm(home)? != 201, "a new VM");
    carries(home, image, NEXT)?;
    ensure!(home.status()?["current"] == true, "{:#}", home.status()?);
    nothing_is_left(home)?;
    its_pod_runs(home)?;
    let again = home.done(&["rollout"])?;
    ensure!(again.stderr().contains("nothing to do"), "{}", again.stderr());
    Ok(())
}

fn rolled_back(home: &mut Home, image: &Product) -> Result<()> {
    home.done(&["node", "rollback", WORKER])?;
    carries(home, image, FIRST)?;
    nothing_is_left(home)?;
    its_pod_runs(home)
}

fn told(home: &Home, first: &str, second: &str) -> Result<()> {
    let history = home.json(&["history", "--json"])?;
    let line = |l: &Value| format!("{} {} {} -> {}", l["what"], l["outcome"], l["from"], l["to"]);
    let all: Vec<_> =
        history.as_array().into_iter().flatten().map(|l| line(l).replace('"', "")).collect();
    let wanted = [
        format!("create done null -> {first}"),
        format!("rebuild done {first} -> {second}"),
        format!("rollback done {second} -> {first}"),
    ];
    ensure!(all == wanted, "{history:#}");
    ensure!(history[1]["rollout"].is_string(), "{history:#}");
    println!("{}", home.done(&["history"])?.stdout);
    Ok(())
}

/// Run by the test below in a network of its own.
#[test]
#[ignore = "takes the addresses of cluster.toml"]
fn the_walkthrough() {
    let (mut home, first) = Home::new().unwrap();
    home.done(&["cluster", "init"]).unwrap();
    assert_eq!(push(&home).unwrap(), "pve1 9000");
    created(&mut home, &first).unwrap();
    let second = home.next_image().unwrap();
    assert_eq!(push(&home).unwrap(), "pve1 9001");
    rolled_out(&mut home, &second).unwrap();
    rolled_back(&mut home, &first).unwrap();
    told(&home, &first.id, &second.id).unwrap();
    home.double.world(|world| world.verdict()).unwrap();
}

#[test]
fn from_a_push_to_a_ready_node_to_another_k3s_and_back() {
    if !sample::is_full() {
        println!("the walkthrough with real VMs: only in a full run");
        return;
    }
    home::prepare().unwrap();
    let mut again = tied::command("unshare");
    again.arg("--net").arg(std::env::current_exe().unwrap());
    again.args(["--exact", "the_walkthrough", "--ignored", "--nocapture"]);
    let status = tied::spawn(again).unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
}
