//! An API server on loopback that keeps objects in memory: what the bundle's code asks of one, with the
//! answers and refusals of a real one (`tests/tests/bundle.rs` asks the same of a real one). Helm's
//! records come from the stub `helm`, which keeps them in files.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at what cannot be")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Kinds that are served: group and version, plural, kind, whether in a namespace.
const KINDS: [(&str, &str, &str, bool); 7] = [
    ("v1", "namespaces", "Namespace", false),
    ("v1", "configmaps", "ConfigMap", true),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("v1", "services", "Service", true),
    ("apps/v1", "deployments", "Deployment", true),
    ("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("example.org/v1", "widgets", "Widget", true),
];
/// The kind of the tests that exists only once its CRD does.
const CUSTOM: &str = "example.org/v1";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.org";

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Every request: method and path.
    log: Vec<String>,
    /// Paths whose writes are refused, with the answer.
    refuse: BTreeMap<String, (u16, String)>,
    helm: PathBuf,
}

/// The server. It ends with the test's process.
pub struct Api {
    port: u16,
    store: Arc<Mutex<Store>>,
}

impl Api {
    /// Starts one; `helm` is the folder of the stub's records.
    pub fn start(helm: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let store = Arc::new(Mutex::new(Store { helm: helm.to_owned(), ..Store::default() }));
        let shared = Arc::clone(&store);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that a test killed is gone in the middle of its words.
                let _ = serve(&stream, &shared);
            }
        });
        Self { port, store }
    }

    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: d\n\
             clusters: [{{name: d, cluster: {{server: \"http://127.0.0.1:{}\"}}}}]\n\
             users: [{{name: d, user: {{}}}}]\n\
             contexts: [{{name: d, context: {{cluster: d, user: d}}}}]\n",
            self.port
        )
    }

    pub fn put(&self, path: &str, object: Value) {
        let mut store = self.store.lock().unwrap();
        store.write(path, object);
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.store.lock().unwrap().objects.get(path).cloned()
    }

    pub fn refuse(&self, path: &str, code: u16, message: &str) {
        let mut store = self.store.lock().unwrap();
        store.refuse.insert(path.to_owned(), (code, message.to_owned()));
    }

    pub fn allow(&self, path: &str) {
        self.store.lock().unwrap().refuse.remove(path);
    }

    /// Requests since the last call.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.store.lock().unwrap().log)
    }

    pub fn objects(&self) -> BTreeMap<String, Value> {
        self.store.lock().unwrap().objects.clone()
    }

    pub fn set_objects(&self, objects: BTreeMap<String, Value>) {
        self.store.lock().unwrap().objects = objects;
    }

    /// Every object without what differs in each run.
    pub fn state(&self) -> BTreeMap<String, Value> {
        let store = self.store.lock().unwrap();
        let mut all = store.objects.clone();
        all.retain(|path, _| !path.contains("/leases/") && !path.contains("/nodes/"));
        for object in all.values_mut() {
            object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        }
        all
    }
}

impl Store {
    fn write(&mut self, path: &str, mut object: Value) -> Value {
        if path.contains("/customresourcedefinitions/") {
            object["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        }
        let old = self.objects.get(path).map(|o| o["metadata"]["resourceVersion"].clone());
        object["metadata"]["resourceVersion"] = old.unwrap_or_default();
        // As a real one: what changes nothing gives no new version.
        if self.objects.get(path) != Some(&object) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.objects.insert(path.to_owned(), object.clone());
        }
        object
    }

    fn answer(&mut self, method: &str, target: &str, body: &Value) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.log.push(format!("{method} {path}"));
        if method != "GET"
            && let Some((code, message)) = self.refuse.get(path)
        {
            return (*code, status(*code, message));
        }
        let depth = depth(path);
        match method {
            "GET" if path == "/readyz" => (200, json!("ok")),
            "GET" if depth == 0 => self.discover(path),
            "GET" if path.ends_with("/secrets") => (200, self.records(path, query)),
            "GET" if depth % 2 == 1 => (200, self.list(path, query)),
            "GET" => self.objects.get(path).map_or_else(missing, |o| (200, o.clone())),
            "PATCH" if query.contains("fieldManager") => (200, self.write(path, body.clone())),
            "PATCH" => {
                let mut object = self.objects.get(path).cloned().unwrap_or_default();
                merge(&mut object, body);
                (200, self.write(path, object))
            }
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return (409, status(409, "already exists"));
                }
                (201, self.write(&path, body.clone()))
            }
            "PUT" => {
                let old = self.objects.get(path).map(|o| o["metadata"]["resourceVersion"].clone());
                if old.is_some_and(|old| old != body["metadata"]["resourceVersion"]) {
                    return (409, status(409, "the object has been modified"));
                }
                (200, self.write(path, body.clone()))
            }
            "DELETE" if path.contains("/secrets/") => self.forget(path),
            "DELETE" => self.objects.remove(path).map_or_else(missing, |o| (200, o)),
            _ => panic!("{method} {target}"),
        }
    }

    fn discover(&self, path: &str) -> (u16, Value) {
        let version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
        if version == CUSTOM && !self.objects.contains_key(CRD) {
            return missing();
        }
        let kinds = KINDS.iter().filter(|(api, ..)| *api == version);
        let verbs = json!(["get", "list", "patch", "create", "delete", "update"]);
        let resources: Vec<_> = kinds
            .map(|(_, plural, kind, namespaced)| {
                json!({"name": plural, "singularName": "", "kind": kind, "namespaced": namespaced,
                    "verbs": verbs})
            })
            .collect();
        if resources.is_empty() {
            return missing();
        }
        (200, json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources}))
    }

    fn list(&self, path: &str, query: &str) -> Value {
        let wanted = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
        let wanted = wanted.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let matches = |object: &Value| match wanted.as_deref().and_then(|w| w.split_once('=')) {
            Some((key, value)) => object["metadata"]["labels"][key] == value,
            None => true,
        };
        let prefix = format!("{path}/");
        let inside = self.objects.iter().filter(|(at, _)| at.starts_with(&prefix));
        let items: Vec<_> = inside.map(|(_, o)| o).filter(|o| matches(o)).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
    }

    /// The stub's records of one release: a file `NAMESPACE.NAME` with a line `NUMBER STATUS` each.
    fn records(&self, path: &str, query: &str) -> Value {
        let namespace = path.split('/').nth(4).unwrap();
        let name = query.split("name%3D").nth(1).unwrap().split('&').next().unwrap();
        let file = self.helm.join(format!("{namespace}.{name}"));
        let text = fs_err::read_to_string(file).unwrap_or_default();
        let item = |line: &str| {
            let (number, status) = line.split_once(' ').unwrap();
            json!({"metadata": {"name": format!("sh.helm.release.v1.{name}.v{number}"),
                "labels": {"owner": "helm", "name": name, "version": number, "status": status}}})
        };
        let items: Vec<_> = text.lines().map(item).collect();
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
            "items": items})
    }

    fn forget(&self, path: &str) -> (u16, Value) {
        let parts: Vec<_> = path.split('/').collect();
        let name = parts[6].strip_prefix("sh.helm.release.v1.").unwrap();
        let (name, number) = name.rsplit_once(".v").unwrap();
        let file = self.helm.join(format!("{}.{name}", parts[4]));
        let text = fs_err::read_to_string(&file).unwrap();
        let gone = format!("{number} ");
        let kept: Vec<_> =
            text.split_inclusive('\n').filter(|line| !line.starts_with(&gone)).collect();
        fs_err::write(file, kept.concat()).unwrap();
        (200, status(200, "gone"))
    }
}

/// Parts of a path after its version: 0 asks what there is, an odd number is a collection.
fn depth(path: &str) -> usize {
    let parts = path.split('/').count() - 1;
    parts.saturating_sub(if path.starts_with("/apis/") { 3 } else { 2 })
}

fn missing() -> (u16, Value) {
    (404, status(404, "not found"))
}

fn status(code: u16, message: &str) -> Value {
    let reason = if code == 404 { "NotFound" } else { "" };
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "message": message, "reason": reason})
}

fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            for (key, value) in fields {
                merge(&mut into[key.as_str()], value);
            }
        }
        other => *into = other.clone(),
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
    let (code, answer) =
        store.lock().expect("no test panics with it").answer(method, target, &body);
    let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
    let head = "Content-Type: application/json\r\nConnection: close\r\n";
    write!(stream, "HTTP/1.1 {code} X\r\n{head}Content-Length: {}\r\n\r\n{text}", text.len())
}
