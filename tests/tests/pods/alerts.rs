//! A P1 from end to end (NFR5): the API's server stops, `PostgreSQL` cannot start any more, and what reaches
//! ntfy is measured from the failure on. Rules, routes and Prometheus' times are those that
//! `builder bundle render` makes of this home. Whom Prometheus scrapes is written here, as its operator and
//! its chart cannot be had.

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use builder::bundle::Part;
use e2e::home::Home;
use e2e::kubernetes::Cluster;
use e2e::lab::repository;
use fs_err as fs;
use serde_json::{Value, json};

use crate::ntfy::{Message, Ntfy};
use crate::{SOON, load, names, secret};

/// Their images.
pub const PROMETHEUS: &str = "docker.io/e2e/prometheus:1";
pub const ALERTMANAGER: &str = "docker.io/e2e/alertmanager:1";
/// NFR5.
const MINUTE: Duration = Duration::from_mins(1);
/// Until a message is given up, so that one that is late is still measured.
const LATE: Duration = Duration::from_mins(4);
/// Where a volume of the test has `PostgreSQL`'s file that it cannot start without.
const CONTROL: &str = "volumes/second/pgdata/global/pg_control";
/// Where the kubelet puts a pod's own credentials.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What this home's `builder` makes of `home-monitoring`.
fn rendered(home: &Home) -> Vec<Value> {
    let tree = home.render("tree").unwrap();
    let text = fs::read_to_string(tree.join("monitoring/home-monitoring/chart.yaml")).unwrap();
    let namespace = "monitoring".to_owned();
    Part { path: String::new(), namespace, helm: None, text }.objects().unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// A duration of Prometheus in the home's values.
fn setting(home: &Home, name: &str) -> Result<String> {
    let file = "cluster/monitoring/kube-prometheus-stack/values-homelab.yaml.tera";
    let text = fs::read_to_string(home.project.join(file))?;
    let found = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
    Ok(found.with_context(|| format!("{file} has no {name}"))?.to_owned())
}

/// The part of Prometheus' configuration that the operator writes.
fn configuration(home: &Home) -> Result<Value> {
    let meta = |label: &str| format!("__meta_kubernetes_{label}");
    let keep = |labels: &[&str], regex: &str| {
        let labels: Vec<_> = labels.iter().map(|label| meta(label)).collect();
        json!({"source_labels": labels, "regex": regex, "action": "keep"})
    };
    let copy = |from: &str, to: &str| json!({"source_labels": [meta(from)], "target_label": to});
    let facts = fs::read_to_string(home.project.join("cluster/cluster.toml"))?;
    let facts: toml::Table = facts.parse()?;
    Ok(json!({
        "global": {
            "scrape_interval": setting(home, "scrapeInterval")?,
            "scrape_timeout": setting(home, "scrapeTimeout")?,
            "evaluation_interval": setting(home, "evaluationInterval")?,
            "external_labels": {"cluster": facts["name"]},
        },
        "rule_files": ["/rules/*.json"],
        "alerting": {"alertmanagers": [{"static_configs": [
            {"targets": ["alertmanager.monitoring.svc.cluster.local:9093"]}]}]},
        "scrape_configs": [
            {"job_name": "data/postgres",
                "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": ["data"]}}],
                "relabel_configs": [
                    keep(&["pod_label_app_kubernetes_io_component"], "server"),
                    keep(&["pod_container_port_name"], "metrics"),
                    copy("namespace", "namespace"), copy("pod_name", "pod")]},
            {"job_name": "apiserver", "scheme": "https",
                "kubernetes_sd_configs": [{"role": "endpointslice", "namespaces": {"names": ["default"]}}],
                "authorization": {"credentials_file": format!("{ACCOUNT}/token")},
                "tls_config": {"ca_file": format!("{ACCOUNT}/ca.crt"), "server_name": "kubernetes"},
                "relabel_configs": [
                    keep(&["service_name", "endpointslice_port_name"], "kubernetes;https"),
                    copy("namespace", "namespace")]},
        ],
    }))
}

/// Prometheus may look for targets and scrape the API.
fn rights() -> [Value; 3] {
    let meta = json!({"name": "prometheus", "namespace": "monitoring"});
    let reads = json!(["get", "list", "watch"]);
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"});
    let who = json!({"kind": "ServiceAccount", "name": "prometheus", "namespace": "monitoring"});
    let rbac = "rbac.authorization.k8s.io/v1";
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}),
        json!({"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": "prometheus"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "services"], "verbs": reads},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": reads},
            {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}),
        json!({"apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": "prometheus"},
            "roleRef": role, "subjects": [who]}),
    ]
}

/// One program of the two, its Service, and what it reads: `(path in there, volume)`.
fn server(
    name: &str,
    image: &str,
    port: u16,
    args: &[&str],
    reads: &[(&str, Value)],
) -> [Value; 2] {
    let meta = json!({"name": name, "namespace": "monitoring"});
    let labels = json!({"app.kubernetes.io/name": name});
    let mut mounts = vec![json!({"name": "data", "mountPath": "/data"})];
    let mut volumes = vec![json!({"name": "data", "emptyDir": {}})];
    for (number, (path, volume)) in reads.iter().enumerate() {
        let mut volume = volume.clone();
        volume["name"] = format!("read{number}").into();
        mounts.push(json!({"name": volume["name"], "mountPath": path}));
        volumes.push(volume);
    }
    let ready = json!({"httpGet": {"path": "/-/ready", "port": port}, "periodSeconds": 1});
    let container = json!({"name": name, "image": image, "args": args, "volumeMounts": mounts,
        "readinessProbe": ready});
    let mut pod = json!({"containers": [container], "volumes": volumes});
    if name == "prometheus" {
        pod["serviceAccountName"] = name.into();
    }
    [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"selector":
            {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": labels, "ports": [{"port": port}]}}),
    ]
}

/// Both programs as the home has them.
fn programs(home: &Home, objects: &[Value]) -> Result<Vec<Value>> {
    let map = |name: &str, data: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": name, "namespace": "monitoring"}})
    };
    let rules = of_kind(objects, "PrometheusRule").map(|rule| {
        let name = rule["metadata"]["name"].as_str().unwrap_or_default();
        (format!("{name}.json"), Value::from(rule["spec"].to_string()))
    });
    let rules = Value::Object(rules.collect());
    let settings = json!({"prometheus.json": configuration(home)?.to_string()});
    let prometheus = server(
        "prometheus",
        PROMETHEUS,
        9090,
        &["--config.file=/config/prometheus.json", "--storage.tsdb.path=/data"],
        &[
            ("/config", json!({"configMap": {"name": "prometheus"}})),
            ("/rules", json!({"configMap": {"name": "rules"}})),
        ],
    );
    // Where the operator mounts them.
    let told = "/etc/alertmanager/secrets/alert-receivers";
    let alertmanager = server(
        "alertmanager",
        ALERTMANAGER,
        9093,
        &[
            "--config.file=/config/alertmanager.yaml",
            "--storage.path=/data",
            "--cluster.listen-address=",
        ],
        &[
            ("/config", json!({"secret": {"secretName": "alertmanager-routes"}})),
            (told, json!({"secret": {"secretName": "alert-receivers"}})),
        ],
    );
    let routes = of_kind(objects, "Secret").cloned();
    let maps = [map("prometheus", settings), map("rules", rules)];
    Ok(routes.chain(maps).chain(rights()).chain(prometheus).chain(alertmanager).collect())
}

/// What a query of Prometheus finds.
fn query(cluster: &Cluster, expression: &str) -> Result<Vec<Value>> {
    let escaped: Vec<_> = expression.bytes().map(|byte| format!("%%{byte:02X}")).collect();
    let expression = escaped.concat();
    let ask = format!(
        "exec 3<>/dev/tcp/127.0.0.1/9090; \
         printf 'GET /api/v1/query?query={expression} HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"
    );
    let exec = ["-n", "monitoring", "exec", "deployment/prometheus", "--", "bash", "-c", &ask];
    let said = cluster.kubectl(&exec)?;
    let mut said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let found = said["data"]["result"].as_array_mut().map(std::mem::take);
    found.with_context(|| said.to_string())
}

/// Waits until both targets answer and nobody need be told of anything.
fn at_rest(cluster: &mut Cluster) {
    let rests = |cluster: &mut Cluster| {
        let targets = query(cluster, "up")?;
        let up = targets.iter().filter(|target| target["value"][1] == "1").count();
        ensure!(up == 2 && targets.len() == 2, "targets: {targets:?}");
        let alerts = query(cluster, "ALERTS{priority=\"P1\"}")?;
        ensure!(alerts.is_empty(), "alerts: {alerts:?}");
        Ok(())
    };
    cluster.until("targets that answer and no alert", SOON, rests).unwrap();
}

/// Holds a message against what the home says of it.
fn is_as_the_home_has_it(cluster: &Cluster, message: &Message, alert: &str, runbook: &str) {
    assert_eq!(message.line, "POST /home");
    assert_eq!(message.header("authorization"), "Bearer tk_of_the_test");
    assert_eq!((message.header("x-template"), message.header("x-priority")), ("yes", "urgent"));
    let (title, text) = message.shown(cluster).unwrap();
    let word = if message.body["status"] == "resolved" { "resolved" } else { "P1" };
    assert_eq!(title, format!("{word}: {alert} in home"));
    assert!(text.starts_with("critical: "), "{text}");
    let (_, file) = text.trim_end().rsplit_once("/docs/runbooks/").unwrap();
    assert_eq!(file, runbook, "{text}");
    assert!(repository().join("docs/runbooks").join(file).is_file(), "{text}");
}

/// Waits for the alert of a failure, and holds how long it took to NFR5.
fn is_told(cluster: &Cluster, ntfy: &Ntfy, alert: &str, runbook: &str, failed: Instant) {
    let message = ntfy.wait(alert, LATE, |message| message.is(alert, "firing")).unwrap();
    let time = message.came.duration_since(failed);
    println!("pods: {alert} was told {time:.1?} after the failure, load {}", load());
    is_as_the_home_has_it(cluster, &message, alert, runbook);
    assert!(time <= MINUTE, "{alert} took {time:?}");
}

/// Waits for the message that it is over.
fn is_over(cluster: &Cluster, ntfy: &Ntfy, alert: &str, runbook: &str, mended: Instant) {
    let message = ntfy.wait(alert, LATE, |message| message.is(alert, "resolved")).unwrap();
    let time = message.came.duration_since(mended);
    println!("pods: the end of {alert} was told {time:.1?} after it was mended");
    is_as_the_home_has_it(cluster, &message, alert, runbook);
}

fn a_database_that_cannot_start_is_told(cluster: &mut Cluster, ntfy: &Ntfy) {
    let control = cluster.place().join(CONTROL);
    let away = control.with_extension("away");
    fs::rename(&control, &away).unwrap();
    let failed = Instant::now();
    // Its first process takes this for a shutdown at once.
    let kill =
        ["-n", "data", "exec", "postgres-0", "-c", "postgres", "--", "sh", "-c", "kill -QUIT 1"];
    cluster.kubectl(&kill).unwrap();
    is_told(cluster, ntfy, "PostgresDown", "postgres-down.md", failed);
    fs::rename(&away, &control).unwrap();
    let mended = Instant::now();
    // Or the kubelet would wait longer after each start.
    cluster.kubectl(&["-n", "data", "delete", "pod", "postgres-0", "--timeout=120s"]).unwrap();
    let ready = ["-n", "data", "rollout", "status", "statefulset/postgres", "--timeout=240s"];
    cluster.kubectl(&ready).unwrap();
    is_over(cluster, ntfy, "PostgresDown", "postgres-down.md", mended);
}

fn an_api_that_has_ended_is_told(cluster: &mut Cluster, ntfy: &Ntfy) {
    let api = cluster.api();
    let end = std::thread::spawn(move || {
        while TcpStream::connect_timeout(&api, Duration::from_secs(1)).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        Instant::now()
    });
    cluster.stop_server().unwrap();
    let failed = end.join().unwrap();
    is_told(cluster, ntfy, "KubernetesApiDown", "api-down.md", failed);
    let mended = Instant::now();
    cluster.start_server().unwrap();
    is_over(cluster, ntfy, "KubernetesApiDown", "api-down.md", mended);
}

fn start(cluster: &mut Cluster, home: &Home, ntfy: &Ntfy) {
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}});
    cluster.apply(&namespace).unwrap();
    let keys = json!({"ntfy-url": format!("http://{}/home", ntfy.address), "ntfy-token": "tk_of_the_test"});
    secret(cluster, "monitoring", "alert-receivers", &keys).unwrap();
    for object in programs(home, &rendered(home)).unwrap() {
        cluster.apply(&object).unwrap();
    }
    names::refresh(cluster).unwrap();
    for name in ["alertmanager", "prometheus"] {
        let deployment = format!("deployment/{name}");
        let wait = ["-n", "monitoring", "rollout", "status", &deployment, "--timeout=240s"];
        cluster.kubectl(&wait).unwrap();
    }
}

pub fn what_fails_is_told_within_a_minute(cluster: &mut Cluster) {
    let home = Home::of_repository().unwrap();
    // This host in the cluster's network, as pods see it.
    let [first, second, third, _] = cluster.server().address.octets();
    let ntfy = Ntfy::start(Ipv4Addr::new(first, second, third, 1)).unwrap();
    start(cluster, &home, &ntfy);
    at_rest(cluster);
    a_database_that_cannot_start_is_told(cluster, &ntfy);
    at_rest(cluster);
    an_api_that_has_ended_is_told(cluster, &ntfy);
}
