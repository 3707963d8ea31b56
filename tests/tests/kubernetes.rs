//! The Kubernetes bench itself, with what later tests rely on: real pods of an image made here, a
//! release by the real helm, a disruption budget that a drain must respect, and nothing left behind.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kubernetes::machine::{Machine, control_groups};
use e2e::kubernetes::switch::Switch;
use e2e::kubernetes::{Cluster, HELLO, Image, NODE};
use e2e::lab::Programs;
use e2e::leftovers;
use fs_err as fs;
use serde_json::json;

const SECOND: &str = "k3s-worker-02";
/// For a step of pods: start, end, move. Seconds on an idle machine.
const SOON: Duration = Duration::from_mins(3);

/// A release of two pods that may be disrupted only as far as `budget` says.
fn chart(place: &Path) -> PathBuf {
    let folder = place.join("chart");
    fs::create_dir_all(folder.join("templates")).unwrap();
    let head = json!({"apiVersion": "v2", "name": "hello", "version": "1.0.0"});
    fs::write(folder.join("Chart.yaml"), head.to_string()).unwrap();
    fs::write(folder.join("values.yaml"), "budget: 2\n").unwrap();
    let labels = json!({"app": "hello"});
    let container = json!({"name": "hello", "image": HELLO,
        "readinessProbe": {"httpGet": {"port": 8080}}});
    let objects = [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hello"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels},
                    "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hello"},
            "spec": {"type": "NodePort", "selector": labels,
                "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "hello"},
            "spec": {"minAvailable": "BUDGET", "selector": {"matchLabels": labels}}}),
    ];
    for (number, object) in objects.iter().enumerate() {
        let text = object.to_string().replace("\"BUDGET\"", "{{ .Values.budget }}");
        fs::write(folder.join(format!("templates/{number}.yaml")), text).unwrap();
    }
    folder
}

/// Where the two pods run, once both do.
fn nodes_of_pods(cluster: &Cluster) -> Result<Vec<String>> {
    let path =
        "{range .items[*]}{.spec.nodeName} {.status.phase}{.metadata.deletionTimestamp}\n{end}";
    let text =
        cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", &format!("jsonpath={path}")])?;
    let mut nodes = Vec::new();
    for line in text.lines() {
        let (node, state) = line.split_once(' ').context("a pod of no node")?;
        ensure!(state == "Running", "{text}");
        nodes.push(node.to_owned());
    }
    ensure!(nodes.len() == 2, "{text:?}");
    Ok(nodes)
}

/// What a Service answers at a node's port, asked from this host.
fn answer(cluster: &mut Cluster, node: &str) -> Result<String> {
    let address = (cluster.machine(node)?.address, 30080);
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.0 200"), "{text}");
    Ok(text)
}

/// firstboot itself in a container: an image made here runs, and its words come back.
fn an_own_image_runs(cluster: &mut Cluster) {
    let firstboot = Programs::find().unwrap().firstboot;
    let image = Image::of_programs("docker.io/e2e/firstboot:1", &[(&firstboot, "firstboot")]);
    cluster.import(&image).unwrap();
    let container = json!({"name": "one", "image": image.reference, "args": ["--version"]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"},
        "spec": {"restartPolicy": "Never", "containers": [container]}});
    cluster.apply(&pod).unwrap();
    let done = |cluster: &mut Cluster| {
        let phase = cluster.field("pod/one", "{.status.phase}")?;
        ensure!(phase == "Succeeded", "{phase}");
        cluster.kubectl(&["logs", "one"])
    };
    let said = cluster.until("the pod's end", SOON, done).unwrap();
    assert!(said.starts_with("firstboot "), "{said}");
}

fn a_budget_blocks_a_drain_until_it_allows_it(cluster: &mut Cluster, chart: &str) {
    let drain = ["drain", NODE, "--ignore-daemonsets", "--force"];
    let refused = cluster.kubectl(&[&drain[..], &["--timeout", "6s"]].concat()).unwrap_err();
    assert!(format!("{refused:#}").contains("disruption budget"), "{refused:#}");
    assert_eq!(nodes_of_pods(cluster).unwrap(), [NODE, NODE], "nothing was evicted");

    cluster.add_node(SECOND).unwrap();
    cluster.helm(&["upgrade", "mine", chart, "--set", "budget=1", "--wait"]).unwrap();
    cluster.kubectl(&[&drain[..], &["--timeout", "180s"]].concat()).unwrap();
    let moved = cluster.until("two pods", SOON, |c| nodes_of_pods(c)).unwrap();
    assert_eq!(moved, [SECOND, SECOND]);
    // The first node's way to the pods of the second.
    cluster.until("an answer", SOON, |c| answer(c, NODE)).unwrap();
}

#[test]
fn real_pods_run_move_as_their_budget_allows_and_leave_nothing() {
    let start = Instant::now();
    let cluster = Cluster::with_node().unwrap();
    println!("a cluster with a Ready node: {:.0?}", start.elapsed());
    let place = cluster.place().to_owned();
    let cable = format!("/sys/class/net/e2e{}", cluster.server().address.octets()[2]);
    assert!(Path::new(&cable).exists(), "{cable}");
    let containers = Mutex::new(Vec::new());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let mut cluster = cluster;
        an_own_image_runs(&mut cluster);
        let chart = chart(cluster.place()).display().to_string();
        let waits = ["--wait", "--timeout", "3m"];
        cluster.helm(&[&["install", "mine", chart.as_str()][..], &waits].concat()).unwrap();
        assert_eq!(nodes_of_pods(&cluster).unwrap(), [NODE, NODE]);
        cluster.until("an answer", SOON, |c| answer(c, NODE)).unwrap();
        println!("a release of two pods: {:.0?}", start.elapsed());
        a_budget_blocks_a_drain_until_it_allows_it(&mut cluster, &chart);
        println!("drained: {:.0?}", start.elapsed());
        *containers.lock().unwrap() = cluster.machine(SECOND).unwrap().containers().unwrap();
        panic!("as a failing test does");
    }));
    let cause = ended.unwrap_err();
    assert_eq!(cause.downcast_ref(), Some(&"as a failing test does"), "{cause:?}");
    assert_eq!(leftovers::find(&place).unwrap(), Vec::<String>::new());
    let containers = containers.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(containers.len(), 4, "two pods of two containers each: {containers:?}");
    assert_eq!(control_groups(&containers), Vec::<PathBuf>::new());
    assert!(!Path::new(&cable).exists(), "{cable}");
}

/// Run by the test below in a process of its own.
#[test]
#[ignore = "waits to be killed"]
fn a_machine_that_runs_until_it_is_killed() {
    let place = tempfile::Builder::new().prefix("k8s-").tempdir().unwrap();
    let lan = Switch::start().unwrap();
    let k3s = Programs::find().unwrap().k3s;
    let machine = Machine::start("one", place.path(), &k3s, &lan, 2).unwrap();
    println!("\nmachine {} {}", machine.pid(), place.path().display());
    std::thread::sleep(Duration::from_mins(10));
}

#[test]
fn a_killed_test_takes_its_machines_with_it() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "a_machine_that_runs_until_it_is_killed", "--ignored", "--nocapture"]);
    let mut test = test.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(test.stdout.take().unwrap()).lines().map_while(Result::ok);
    let told = lines.into_iter().find(|line| line.starts_with("machine ")).unwrap();
    let [_, pid, place] = told.split(' ').collect::<Vec<_>>()[..] else { panic!("{told}") };
    let alive = || Path::new("/proc").join(pid).exists();
    assert!(alive());
    test.kill().unwrap();
    test.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while alive() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!alive(), "its first process lives");
    fs::remove_dir_all(place).unwrap(); // nobody was left to do it
}
