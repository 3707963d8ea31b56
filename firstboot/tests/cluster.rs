//! The cluster stage against an API server that holds one Node: what it asks, and what it patches.
//! A real Kubernetes answers the same in the crate `e2e`.

#![allow(clippy::expect_used, reason = "a test ends at what cannot be")]

mod node;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use ::node::report::{Outcome, State};
use node::Node;
use serde_json::{Value, json};

const RUNNING: &str = "ActiveState=active\nSubState=running\nResult=success\n\
                       ExecMainStatus=0\nNRestarts=0\n";

/// An API server on loopback with one Node, which keeps every request's first line.
struct Api {
    port: u16,
    node: Arc<Mutex<Value>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn start(boot_id: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let port = listener.local_addr().expect("its address").port();
        let node = Arc::new(Mutex::new(node_object(boot_id)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (held, log) = (Arc::clone(&node), Arc::clone(&requests));
        // Ends with the test's process: it waits for the next connection for ever.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(&stream, &held, &log);
            }
        });
        Self { port, node, requests }
    }

    fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: d\n\
             clusters: [{{name: d, cluster: {{server: \"http://127.0.0.1:{}\"}}}}]\n\
             users: [{{name: d, user: {{}}}}]\n\
             contexts: [{{name: d, context: {{cluster: d, user: d}}}}]\n",
            self.port
        )
    }

    fn patches(&self) -> usize {
        let requests = self.requests.lock().expect("no test thread panics with it");
        requests.iter().filter(|line| line.starts_with("PATCH ")).count()
    }
}

/// One request on its own connection.
fn answer(
    mut stream: &TcpStream,
    node: &Mutex<Value>,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut node = node.lock().expect("no test thread panics with it");
    if first.starts_with("PATCH ") {
        merge(&mut node["metadata"], &serde_json::from_slice::<Value>(&body)?["metadata"]);
    }
    let text = match first.split(' ').nth(1).unwrap_or_default() {
        "/readyz" => "ok".to_owned(),
        path if path.starts_with("/api/v1/nodes/k3s-worker-01") => node.to_string(),
        path if path.ends_with("/kube-node-lease/leases/k3s-worker-01") => lease().to_string(),
        path => panic!("firstboot asked for {path}"),
    };
    log.lock().expect("no test thread panics with it").push(first);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n{text}", text.len())
}

fn merge(into: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        for (name, text) in value.as_object().into_iter().flatten() {
            into[key][name] = text.clone();
        }
    }
}

fn lease() -> Value {
    let now = k8s_openapi::jiff::Timestamp::now();
    json!({"metadata": {"name": "k3s-worker-01"}, "spec": {"renewTime": format!("{now:.6}")}})
}

fn node_object(boot_id: &str) -> Value {
    let info = json!({"bootID": boot_id, "machineID": "", "systemUUID": "", "kernelVersion": "",
        "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
        "operatingSystem": "", "architecture": ""});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "k3s-worker-01", "labels": {"kept": "yes"}, "annotations": {}},
        "status": {"nodeInfo": info, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn worker(api: &Api) -> Node {
    let worker = Node::worker();
    worker.give_secret();
    worker.run(&["host"]);
    worker.put("unit-state", RUNNING);
    worker.put("var/lib/rancher/k3s/agent/kubelet.kubeconfig", &api.kubeconfig());
    worker
}

#[test]
fn a_ready_node_gets_its_image_id_once_and_the_report_says_ready() {
    let api = Api::start("boot-1");
    let worker = worker(&api);
    let ran = worker.run(&["cluster"]);
    let report = worker.report();
    assert_eq!((ran.code, report.state), (0, State::Ready), "{}", ran.stderr);
    assert_eq!(report.steps.last().map(|s| s.outcome), Some(Outcome::Applied));
    let node = api.node.lock().expect("no panic").clone();
    assert_eq!(node["metadata"]["labels"]["node.homelab/image-id"], "0123456789ab");
    assert_eq!(node["metadata"]["labels"]["kept"], "yes");
    assert_eq!(node["metadata"]["annotations"]["node.homelab/image"], "worker-0123456789ab");
    assert_eq!(worker.run(&["status"]).code, 0);
    let ran = worker.run(&["cluster"]);
    assert!(ran.stderr.contains("cluster: done, nothing to change"), "{}", ran.stderr);
    assert_eq!(api.patches(), 1);
    // The host stage runs again, as when a path unit fires: the node stays Ready.
    worker.put("k3s-active", "");
    worker.run(&["host"]);
    assert_eq!(worker.report().state, State::Ready);
}

#[test]
fn a_node_object_of_an_earlier_boot_does_not_count() {
    let api = Api::start("boot-0");
    let worker = worker(&api);
    assert_eq!(worker.run(&["cluster"]).code, 1);
    let failure = worker.report().failure.expect("a failure");
    let want = "the node is not Ready: its state is from boot boot-0, this is boot-1";
    assert_eq!(failure.step, "node-ready");
    assert!(failure.cause.starts_with(want), "{}", failure.cause);
    assert_eq!(api.patches(), 0);
}
