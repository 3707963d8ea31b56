//! A cluster's API on loopback that keeps objects in memory: as much of one as `builder` asks on nodes,
//! with a real one's answers and refusals (`tests/tests/drain.rs` asks the same of a real one).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

pub const NODES: &str = "/api/v1/nodes";
pub const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const PODS: &str = "/api/v1/pods";

#[derive(Default)]
pub struct Store {
    /// By path.
    pub objects: BTreeMap<String, Value>,
    /// Every request: method and path.
    pub log: Vec<String>,
    /// Pods that a disruption budget holds, by `namespace/name`, with the budget's words.
    pub held: BTreeMap<String, String>,
    /// Whether nothing answers.
    pub away: bool,
    /// How everything is refused, where it is.
    pub refuses: Option<u16>,
    /// Nodes that have a finalizer until a test lets them go.
    pub finalized: BTreeSet<String>,
    uids: u32,
}

/// The server. It ends with the test's process.
#[derive(Clone)]
pub struct Api {
    port: u16,
    store: Arc<Mutex<Store>>,
}

impl Api {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let api = Self { port, store: Arc::default() };
        let shared = Arc::clone(&api.store);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that was killed is gone in the middle of its words.
                let _ = serve(&stream, &shared);
            }
        });
        api
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub fn write_kubeconfig(&self, path: &Path) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: d\n\
             clusters: [{{name: d, cluster: {{server: \"http://127.0.0.1:{}\"}}}}]\n\
             users: [{{name: d, user: {{}}}}]\n\
             contexts: [{{name: d, context: {{cluster: d, user: d}}}}]\n",
            self.port
        );
        fs_err::write(path, text).unwrap();
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.store().objects.get(&format!("{NODES}/{name}")).cloned()
    }

    /// A pod of a Deployment on a node.
    pub fn pod(&self, name: &str, node: &str, controller: Option<&str>) {
        let owners: Vec<_> = controller
            .iter()
            .map(|kind| json!({"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": true}))
            .collect();
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "apps", "name": name, "ownerReferences": owners},
            "spec": {"nodeName": node, "containers": []}});
        self.store().put(&format!("/api/v1/namespaces/apps/pods/{name}"), object);
    }

    /// Changes since the last call: everything but reads.
    pub fn changes(&self) -> Vec<String> {
        let log = std::mem::take(&mut self.store().log);
        log.into_iter().filter(|line| !line.starts_with("GET")).collect()
    }
}

impl Store {
    /// Puts an object, with a uid that no other had.
    pub fn put(&mut self, path: &str, mut object: Value) {
        if object["metadata"]["uid"].is_null() {
            self.uids += 1;
            object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        }
        self.objects.insert(path.to_owned(), object);
    }

    fn answer(&mut self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.log.push(format!("{method} {path}"));
        if let Some(code) = self.refuses {
            return (
                code,
                status(code, if code == 401 { "Unauthorized" } else { "nodes is forbidden" }),
            );
        }
        match method {
            "GET" if path == "/readyz" => (200, json!("ok")),
            "GET" => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None if is_collection(path) => (200, self.list(path, query)),
                None => missing(),
            },
            "PATCH" => match self.objects.get_mut(path) {
                Some(object) => {
                    merge(object, body);
                    (200, object.clone())
                }
                None => missing(),
            },
            "POST" if path.ends_with("/eviction") => self.evict(path, body),
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                self.put(&path, body.clone());
                (201, self.objects[&path].clone())
            }
            "DELETE" => self.delete(path, body),
            _ => panic!("{method} {target}"),
        }
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let query = query.replace("%3D", "=").replace("%2F", "/");
        let wanted = |name: &str| {
            let part = query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
            part.and_then(|p| p.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()))
        };
        let (label, field) = (wanted("labelSelector"), wanted("fieldSelector"));
        let fits = |object: &Value| {
            label.as_ref().is_none_or(|(k, v)| object["metadata"]["labels"][k] == v.as_str())
                && field.as_ref().is_none_or(|(_, v)| object["spec"]["nodeName"] == v.as_str())
        };
        let inside = |at: &str| match path {
            PODS => at.contains("/pods/"),
            _ => at.starts_with(&format!("{path}/")),
        };
        let items: Vec<_> =
            self.objects.iter().filter(|(at, o)| inside(at) && fits(o)).map(|(_, o)| o).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    }

    fn evict(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let pod = path.trim_end_matches("/eviction");
        let Some(object) = self.objects.get(pod) else { return missing() };
        if body["deleteOptions"]["preconditions"]["uid"] != object["metadata"]["uid"] {
            return (409, status(409, "the UID in the precondition is another"));
        }
        let name = object["metadata"]["name"].as_str().unwrap();
        if let Some(words) = self.held.get(&format!("apps/{name}")) {
            let mut refusal = status(429, "Cannot evict pod as it would violate the budget.");
            refusal["details"] =
                json!({"causes": [{"reason": "DisruptionBudget", "message": words}]});
            return (429, refusal);
        }
        self.objects.remove(pod);
        (201, json!({"apiVersion": "v1", "kind": "Status", "status": "Success", "code": 201}))
    }

    fn delete(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let Some(object) = self.objects.get_mut(path) else { return missing() };
        let uid = &body["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return (409, status(409, "the UID in the precondition is another"));
        }
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            if self.finalized.contains(name) {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-26T12:00:00Z");
                object["metadata"]["finalizers"] =
                    json!(["wrangler.cattle.io/managed-etcd-controller"]);
                return (200, object.clone());
            }
            // By its owner reference.
            self.objects.remove(&format!("{SECRETS}/{name}.node-password.k3s"));
        }
        (200, self.objects.remove(path).unwrap_or_default())
    }
}

/// Whether a path names a kind and no object of it.
fn is_collection(path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    let version = if parts[1] == "api" { 2 } else { 3 };
    let below = parts.len() - 1 - version;
    below == 1 || below == 3 && parts[version + 1] == "namespaces"
}

fn missing() -> (u16, Value) {
    (404, status(404, "not found"))
}

fn status(code: u16, message: &str) -> Value {
    let reason = if code == 404 { "NotFound" } else { "" };
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "message": message, "reason": reason})
}

/// A merge patch.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    for (key, value) in fields {
        match value {
            Value::Null => {
                into.as_object_mut().map(|object| object.remove(key));
            }
            _ => merge(&mut into[key.as_str()], value),
        }
    }
}

fn serve(mut stream: &TcpStream, store: &Mutex<Store>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut length, mut line) = (0, String::new());
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut store = store.lock().expect("no test panics with it");
    if store.away {
        return Ok(()); // closed without a word
    }
    let (code, answer) = store.answer(method, target, &body);
    drop(store);
    let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "HTTP/1.1 {code} X\r\n{head}Content-Length: {}\r\n\r\n{text}", text.len())
}
