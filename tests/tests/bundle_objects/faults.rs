//! A small home of the test's own, whose releases are cut short, break, and get well again. What they
//! wait for is a volume, as in a home whose NAS is away; the test makes it come.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::Running;
use e2e::home::Home;
use e2e::kubernetes::{Cluster, HELLO};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{ended, names};

/// For something that takes seconds on an idle machine.
const SOON: Duration = Duration::from_mins(2);
/// An image that is nowhere.
const LOST: &str = "docker.io/e2e/none:1";

/// As Traefik's chart asks: a cluster says yes, and so must what renders without one.
const BUDGET: &str = "{{- if .Capabilities.APIVersions.Has \"policy/v1/PodDisruptionBudget\" }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
{{- end }}
";

/// What changes from one bundle to the next.
struct Content<'a> {
    revision: u64,
    /// Claims of the release that holds data.
    claims: &'a [&'a str],
    /// How long Helm waits for them.
    timeout: &'a str,
    /// A text in the release that needs it.
    text: &'a str,
    /// Whether there is a release whose image is nowhere.
    lost: bool,
}

fn chart(home: &Home, name: &str, templates: &[Value]) {
    let head = json!({"apiVersion": "v2", "name": name, "version": "1.0.0"});
    home.put(&format!("charts/{name}/Chart.yaml"), &head.to_string()).unwrap();
    for (number, object) in templates.iter().enumerate() {
        // In lines, as builder looks for what makes a volume in a line of its own.
        let kind = object["kind"].as_str().unwrap();
        let mut rest = object.clone();
        rest.as_object_mut().unwrap().remove("kind");
        let rest: Vec<_> = rest
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| format!("{key}: {value}\n"))
            .collect();
        let text = format!("kind: {kind}\n{}", rest.concat());
        home.put(&format!("charts/{name}/templates/{number}.yaml"), &text).unwrap();
    }
}

fn claim(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name,
            "resources": {"requests": {"storage": "1Mi"}}}})
}

/// The NAS gives a volume.
fn volume_comes(cluster: &Cluster, name: &str) {
    cluster
        .apply(&json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"},
                "hostPath": {"path": "/nowhere"}}}))
        .unwrap();
}

fn deployment(name: &str, image: &str, text: &str) -> Value {
    let labels = json!({"app": name, "app.kubernetes.io/instance": name});
    let env = json!([{"name": "TEXT", "value": text}]);
    let container = json!({"name": "main", "image": image, "imagePullPolicy": "Never", "env": env});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}}})
}

fn object(home: &Home, release: &str, text: &str) {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": release, "namespace": "trial"}, "data": {"text": text}});
    home.put(&format!("trial/{release}/manifests/map.yaml"), &map.to_string()).unwrap();
}

/// `store` holds data, `web` needs it, `aside` needs nobody.
fn home(content: &Content<'_>) -> Home {
    let home = Home::empty().unwrap();
    let Content { revision, claims, timeout, text, lost } = content;
    home.put("bundle.toml", &format!("revision = {revision}\nwaves = [\"one\", \"two\"]\n"))
        .unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trial"}});
    home.put("trial/namespace.yaml", &namespace.to_string()).unwrap();
    chart(&home, "store", &claims.iter().map(|name| claim(name)).collect::<Vec<_>>());
    let release =
        format!("chart = \"store\"\nwave = \"one\"\nstateful = true\ntimeout = \"{timeout}\"\n");
    home.put("trial/store/release.toml", &release).unwrap();
    object(&home, "store", "kept");
    chart(&home, "web", &[deployment("web", HELLO, text)]);
    home.put("charts/web/templates/budget.yaml", BUDGET).unwrap();
    let gate = "healthy = [{ kind = \"Deployment\", name = \"web\", within = \"1m\" }]\n";
    let release = format!("chart = \"web\"\nwave = \"two\"\nafter = [\"store\"]\n{gate}");
    home.put("trial/web/release.toml", &release).unwrap();
    home.put("trial/aside/release.toml", "wave = \"two\"\n").unwrap();
    object(&home, "aside", text);
    if *lost {
        chart(&home, "lost", &[deployment("lost", LOST, text)]);
        let release = "chart = \"lost\"\nwave = \"two\"\ntimeout = \"20s\"\n";
        home.put("trial/lost/release.toml", release).unwrap();
    }
    home
}

/// A bundle that has nothing of the last one: what holds no data goes, what does stays.
pub fn another_home_takes_over(cluster: &mut Cluster) {
    let other = Home::empty().unwrap();
    other.put("bundle.toml", "revision = 9\nwaves = [\"one\"]\n").unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "trial"}});
    other.put("trial/namespace.yaml", &namespace.to_string()).unwrap();
    other.put("trial/aside/release.toml", "wave = \"one\"\n").unwrap();
    object(&other, "aside", "first");
    let (run, report) = other.apply(cluster).unwrap();
    assert_eq!(run.code(), Some(0), "{report:#}");
    let (removed, kept) = (names(&report, "removed"), names(&report, "kept"));
    assert!(
        removed.contains(&"infra/nfs-health") && kept.contains(&"infra/cert-manager"),
        "{report:#}"
    );
    let gone = cluster.kubectl(&["get", "daemonset,deployment", "-A", "-o", "name"]).unwrap();
    assert_eq!(gone, "", "what could run on a node");
    let issuers =
        cluster.kubectl(&["get", "clusterissuers.cert-manager.io", "-o", "name"]).unwrap();
    assert_eq!(issuers.lines().count(), 5, "{issuers}");
    println!("bundle: {} releases left and were removed, {} kept", removed.len(), kept.len());
}

/// Applies until helm's newest record of `store` says `status`, then cuts the power.
fn cut(cluster: &mut Cluster, home: &Home, status: &str) {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let args = ["bundle", "apply", "--offline", "--kubeconfig", &kubeconfig];
    let run = Running::start(&mut home.builder_in_a_jar(&args)).unwrap();
    let path = "{range .items[*]}{.metadata.labels.status}\n{end}";
    let records = ["get", "secrets", "--namespace", "trial", "-l", "owner=helm,name=store", "-o"];
    cluster
        .until(status, SOON, |cluster| {
            let path = format!("jsonpath={path}");
            let seen = cluster.kubectl(&[&records[..], &[path.as_str()]].concat())?;
            ensure!(seen.lines().any(|line| line == status), "{seen}");
            Ok(())
        })
        .unwrap();
    run.signal(Signal::SIGKILL).unwrap();
    assert_eq!(run.end().unwrap().code(), None, "killed");
}

/// What tells a claim from a new one of its name.
fn bound(cluster: &Cluster, name: &str) -> Result<String> {
    let path = "jsonpath={.status.phase} {.metadata.uid}";
    let seen = cluster.kubectl(&["get", "pvc", name, "--namespace", "trial", "-o", path])?;
    ensure!(seen.starts_with("Bound "), "{seen}");
    Ok(seen)
}

/// The text that the release `web` runs with.
fn text_of_web(cluster: &Cluster) -> String {
    let path =
        "jsonpath={.status.availableReplicas} {.spec.template.spec.containers[0].env[0].value}";
    cluster.kubectl(&["get", "deployment", "web", "--namespace", "trial", "-o", path]).unwrap()
}

fn apply_whole(cluster: &Cluster, home: &Home) -> Value {
    let (run, report) = home.apply(cluster).unwrap();
    assert_eq!(run.code(), Some(0), "{report:#}\n{}", run.stderr());
    let (_, found) = home.diff(cluster).unwrap();
    assert_eq!((&found["changes"], &found["leaving"]), (&json!([]), &json!([])), "{found:#}");
    report
}

pub fn a_cut_installation_is_taken_up(cluster: &mut Cluster) {
    let content =
        Content { revision: 10, claims: &["one"], timeout: "2m", text: "first", lost: false };
    let home = home(&content);
    cut(cluster, &home, "pending-install");
    volume_comes(cluster, "one");
    let report = apply_whole(cluster, &home);
    let store = ("trial/store", "forgot an installation that was cut short");
    assert!(ended(&report, "applied").contains(&store), "{report:#}");
    assert_eq!(text_of_web(cluster), "1 first");
    let rendered = home.render("rendered").unwrap().join("trial/web/chart.yaml");
    assert!(fs_err::read_to_string(rendered).unwrap().contains("kind: PodDisruptionBudget"));
    println!("bundle: an installation cut short by a kill was taken up");
}

pub fn a_broken_release_keeps_its_data_and_stops_who_needs_it(cluster: &mut Cluster) {
    let data = bound(cluster, "one").unwrap();
    let content = Content {
        revision: 11,
        claims: &["one", "two"],
        timeout: "5s",
        text: "second",
        lost: true,
    };
    let (run, report) = home(&content).apply(cluster).unwrap();
    assert_eq!(run.code(), Some(1), "{report:#}");
    assert_eq!(names(&report, "failed"), ["trial/store", "trial/lost"], "{report:#}");
    let failed = ended(&report, "failed");
    assert!(failed[0].1.contains("PersistentVolumeClaim/trial/two"), "{report:#}");
    assert!(failed[1].1.contains(LOST) && failed[1].1.contains("ErrImageNeverPull"), "{report:#}");
    let blocked = ("trial/web", "not tried: needs store, which is failed");
    assert_eq!(ended(&report, "blocked"), [blocked]);
    assert_eq!(names(&report, "applied"), ["trial/aside"], "who needs nobody goes on");
    assert_eq!(bound(cluster, "one").unwrap(), data);
    let kept = ["get", "configmap", "store", "--namespace", "trial", "-o", "jsonpath={.data.text}"];
    assert_eq!(cluster.kubectl(&kept).unwrap(), "kept");
    assert_eq!(text_of_web(cluster), "1 first");
    println!(
        "bundle: two broken releases were named with their cause, one waits, the data is there"
    );
}

pub fn a_cut_upgrade_is_taken_up(cluster: &mut Cluster) {
    let data = bound(cluster, "one").unwrap();
    let content = Content {
        revision: 12,
        claims: &["one", "two"],
        timeout: "2m",
        text: "third",
        lost: false,
    };
    let home = home(&content);
    cut(cluster, &home, "pending-upgrade");
    volume_comes(cluster, "two");
    let new = cluster.until("the second volume", SOON, |cluster| bound(cluster, "two")).unwrap();
    let report = apply_whole(cluster, &home);
    let store = ("trial/store", "forgot an upgrade that was cut short");
    assert!(ended(&report, "applied").contains(&store), "{report:#}");
    assert_eq!(names(&report, "removed"), ["trial/lost"]);
    assert_eq!(bound(cluster, "one").unwrap(), data);
    assert_eq!(bound(cluster, "two").unwrap(), new, "what the cut upgrade made is still that");
    assert_eq!(text_of_web(cluster), "1 third");
    println!("bundle: an upgrade cut short by a kill was taken up");
}
