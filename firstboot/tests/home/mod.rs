//! A master with a cluster: a stub `helm` that keeps records, and an API server that keeps objects.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use ::node::bundle::{Bundle, Chart, File, Namespace, Release, SCHEMA, Wave};
use ::node::report::{ReleaseOutcome, State};
use ::node::values::Digest;
use serde_json::{Value, json};

use crate::api::Api;
use crate::node::Node;

/// Where firstboot keeps what it has applied.
pub const RECORD: &str = "/api/v1/namespaces/kube-system/configmaps/firstboot-bundle";
/// Who applies now.
pub const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/firstboot-bundle";
const RUNNING: &str = "ActiveState=active\nSubState=running\nResult=success\n\
                       ExecMainStatus=0\nNRestarts=0\n";

/// As helm does: keeps a record per revision, refuses what is pending. `fail-NAME` makes it fail,
/// `cut-NAME` ends it and firstboot in the middle, as a power cut does.
const HELM: &str = r#"
verb=$1; ns=$3; shift 7
file=$ROOT/helm/$ns.$1; n=0; last=
[ ! -s "$file" ] || { n=$(tail -n 1 "$file" | cut -d' ' -f1); last=$(tail -n 1 "$file" | cut -d' ' -f2); }
new=$((n + 1))
case $verb in
upgrade)
  case $last in pending-*) echo "another operation (install/upgrade/rollback) is in progress" >&2; exit 1 ;; esac
  if [ -e "$ROOT/cut-$1" ]; then
    rm "$ROOT/cut-$1"
    echo "$new pending-upgrade" >>"$file"
    kill -9 "$(sed -n 's/^PPid:\t//p' /proc/$PPID/status)"
    exit 137
  fi
  if [ -e "$ROOT/fail-$1" ]; then echo "$new failed" >>"$file"; echo "Error: no such image" >&2; exit 1; fi
  [ ! -e "$file" ] || sed -i 's/deployed/superseded/' "$file"
  echo "$new deployed" >>"$file"
  sha256sum <"$2" | cut -c1-8 >"$ROOT/helm/content.$ns.$1" ;;
rollback) sed -i 's/pending-upgrade/failed/;s/deployed/superseded/' "$file"; echo "$new deployed" >>"$file" ;;
uninstall) rm -f "$file" "$ROOT/helm/content.$ns.$1" ;;
esac
"#;

/// A master that is Ready, with a cluster.
pub struct Home {
    pub node: Node,
    pub api: Api,
}

/// A release: name, content of its chart, what it needs.
pub type Spec<'a> = (&'a str, &'a str, &'a [&'a str]);

impl Home {
    pub fn new() -> Self {
        let node = Node::master();
        node.give_secret();
        assert_eq!(node.run(&["host"]).code, 0);
        node.put("unit-state", RUNNING);
        node.stub("helm", HELM);
        fs_err::create_dir_all(node.path("helm")).unwrap();
        let api = Api::start(&node.path("helm"));
        node.put("etc/rancher/k3s/k3s.yaml", &api.kubeconfig());
        api.put("/api/v1/nodes/k3s-master", node_object());
        api.put(
            "/api/v1/namespaces/kube-system",
            json!({"metadata": {"name": "kube-system", "uid": "u"}}),
        );
        let home = Self { node, api };
        home.beat();
        home
    }

    /// The kubelet renews its lease.
    pub fn beat(&self) {
        let now = k8s_openapi::jiff::Timestamp::now();
        let spec = json!({"renewTime": format!("{now:.6}")});
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/k3s-master";
        self.api.put(path, json!({"metadata": {"name": "k3s-master"}, "spec": spec}));
    }

    pub fn file(&self, path: &str, text: &str) -> File {
        self.node.put(&format!("usr/lib/firstboot/bundle/{path}"), text);
        File { path: path.to_owned(), sha256: Digest::of(text) }
    }

    pub fn objects(&self, path: &str, items: &Value) -> File {
        self.file(path, &json!({"kind": "List", "apiVersion": "v1", "items": items}).to_string())
    }

    pub fn release(&self, (name, content, after): Spec<'_>) -> Release {
        let chart = format!("charts/{name}.tgz");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{name}-{content}")}});
        Release {
            name: name.parse().unwrap(),
            namespace: "apps".parse().unwrap(),
            chart: Some(Chart {
                name: name.to_owned(),
                version: "1.0.0".to_owned(),
                file: Some(self.file(&chart, content)),
            }),
            values: Some(self.file(&format!("values/{name}.yaml"), "a: 1\n")),
            manifests: vec![self.objects(&format!("manifests/{name}.json"), &json!([object]))],
            after: after.iter().map(|n| n.parse().unwrap()).collect(),
            stateful: name == "db",
            timeout_seconds: 60,
            healthy: vec![],
        }
    }

    /// Writes a bundle of these releases, with a CRD and one object of its kind.
    pub fn bundle(
        &self,
        revision: u64,
        specs: &[Spec<'_>],
        change: impl FnOnce(&mut Vec<Release>),
    ) {
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.org"}});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "apps"}});
        let mut releases: Vec<_> = specs.iter().map(|spec| self.release(*spec)).collect();
        change(&mut releases);
        let bundle = Bundle {
            schema: SCHEMA,
            revision,
            crds: vec![self.objects("crds/w.json", &json!([crd]))],
            namespaces: vec![Namespace {
                name: "apps".parse().unwrap(),
                file: self.objects("namespaces/apps.json", &json!([namespace])),
            }],
            waves: vec![Wave { name: "apps".to_owned(), releases }],
        };
        self.file("bundle.json", &serde_json::to_string(&bundle).unwrap());
    }

    pub fn run(&self) -> i32 {
        self.beat();
        let ran = self.node.run(&["cluster"]);
        assert_eq!(self.node.report().state, State::Ready, "{}", ran.stderr);
        ran.code
    }

    /// How each release ended.
    pub fn outcomes(&self) -> Vec<(String, ReleaseOutcome)> {
        let bundle = self.node.report().bundle.unwrap();
        bundle.releases.into_iter().map(|r| (r.release, r.outcome)).collect()
    }

    pub fn outcome(&self, release: &str) -> (ReleaseOutcome, String) {
        let bundle = self.node.report().bundle.unwrap();
        let found = bundle.releases.into_iter().find(|r| r.release == release).unwrap();
        (found.outcome, found.detail)
    }

    pub fn helm(&self, release: &str) -> String {
        self.node.get(&format!("helm/{release}")).unwrap_or_default()
    }

    pub fn helm_calls(&self) -> usize {
        self.node.calls().iter().filter(|call| call.starts_with("helm ")).count()
    }

    pub fn record(&self) -> Value {
        let data = self.api.get(RECORD).unwrap()["data"].clone();
        serde_json::from_str(data["releases"].as_str().unwrap()).unwrap()
    }

    /// The cluster as it stands: objects and helm's records.
    pub fn save(&self) -> (BTreeMap<String, Value>, BTreeMap<String, String>) {
        let entries = fs_err::read_dir(self.node.path("helm")).unwrap().map(Result::unwrap);
        let text = |path| fs_err::read_to_string(path).unwrap();
        let files = entries.map(|e| (e.file_name().into_string().unwrap(), text(e.path())));
        (self.api.objects(), files.collect())
    }

    pub fn restore(&self, (objects, files): &(BTreeMap<String, Value>, BTreeMap<String, String>)) {
        self.api.set_objects(objects.clone());
        fs_err::remove_dir_all(self.node.path("helm")).unwrap();
        fs_err::create_dir_all(self.node.path("helm")).unwrap();
        for (name, text) in files {
            self.node.put(&format!("helm/{name}"), text);
        }
    }

    /// What lasts: objects, what helm installed, and how its last records end.
    pub fn state(&self) -> BTreeMap<String, Value> {
        let mut all = self.api.state();
        for entry in fs_err::read_dir(self.node.path("helm")).unwrap() {
            let entry = entry.unwrap();
            let text = fs_err::read_to_string(entry.path()).unwrap();
            let last = text.lines().last().unwrap_or_default();
            let last = last.split(' ').next_back().unwrap_or_default();
            all.insert(entry.file_name().into_string().unwrap(), json!(last));
        }
        all
    }
}

fn node_object() -> Value {
    let info = json!({"bootID": "boot-1", "machineID": "", "systemUUID": "", "kernelVersion": "",
        "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "", "kubeProxyVersion": "",
        "operatingSystem": "", "architecture": ""});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "k3s-master"},
        "status": {"nodeInfo": info, "conditions": [{"type": "Ready", "status": "True"}]}})
}
