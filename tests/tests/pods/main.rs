//! What the charts of ours do once their pods run: real pods on the Kubernetes bench, of Debian's programs
//! in images made here under the names that the charts use, by the real helm with this home's values.
//!
//! What is not as in the home: the programs are those of Debian 13, not of the images that the charts name
//! (`PostgreSQL` 17 for 18), all images share one root file system, names are answered by dnsmasq in
//! `CoreDNS`' place, and volumes of the class `nfs-client` are folders of this host, made by the test in the
//! provisioner's place. The bench enforces no `NetworkPolicy`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

mod alerts;
mod broker;
mod dev;
mod names;
mod ntfy;
mod postgres;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kubernetes::{Cluster, Image};
use e2e::lab::repository;
use fs_err as fs;
use node::command::Run as _;
use serde_json::{Value, json};

/// For a step of pods: seconds on an idle machine.
const SOON: Duration = Duration::from_mins(5);
/// What `builder` puts into files that end in `.tera`, as far as the files used here ask.
const FACTS: [(&str, &str); 3] = [
    ("{{ cluster.domain }}", "home.example"),
    ("{{ cluster.k3s.cluster_domain }}", "cluster.local"),
    ("{{ cluster.network.cidr }}", "192.168.2.0/24"),
];

/// A value of a chart's `values.yaml`, by its JSON pointer.
fn default(chart: &str, pointer: &str) -> String {
    let text = fs::read_to_string(folder(chart).join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let value = values.pointer(pointer).and_then(Value::as_str);
    value.with_context(|| format!("{chart} has no {pointer}")).unwrap().to_owned()
}

/// How busy the machine is, beside a time that was measured.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Where a chart of ours lies.
fn folder(chart: &str) -> PathBuf {
    repository().join("cluster/charts").join(chart)
}

/// A file of `cluster/` as this home has it.
fn rendered(cluster: &Cluster, path: &str) -> Result<PathBuf> {
    let mut text = fs::read_to_string(repository().join("cluster").join(path))?;
    for (name, fact) in FACTS {
        text = text.replace(name, fact);
    }
    ensure!(!text.contains("{{ "), "{path} asks for more facts than FACTS has:\n{text}");
    let to = cluster.place().join(path.replace('/', "-").trim_end_matches(".tera"));
    fs::write(&to, text)?;
    Ok(to)
}

/// Applies a file of `cluster/`.
fn applied(cluster: &Cluster, path: &str) -> Result<()> {
    let file = rendered(cluster, path)?;
    cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).map(drop)
}

/// A Secret of the operator's.
fn secret(cluster: &Cluster, namespace: &str, name: &str, content: &Value) -> Result<()> {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace}, "stringData": content}))
}

/// The images of Debian's programs, under the names that the charts ask for.
fn images(root: &Path) -> Vec<Image> {
    let image = |reference: &str, config: Value| Image::of_tar(reference, root, config);
    let path = "PATH=/usr/lib/postgresql/17/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    vec![
        // The official image is stopped by SIGINT too: the server does not wait for its clients.
        image(
            &default("postgres", "/image"),
            json!({"Entrypoint": ["/usr/bin/postgres-entrypoint.sh"], "Env": [path],
                "StopSignal": "SIGINT"}),
        ),
        image(
            &default("postgres", "/metrics/image"),
            json!({"Entrypoint": ["/usr/bin/prometheus-postgres-exporter"]}),
        ),
        image(&default("paperless", "/broker/image"), json!({"Env": [path]})),
        image(&default("dev-proxy", "/image"), json!({"Env": [path]})),
        image(
            &default("dev-containers", "/image"),
            json!({"Cmd": ["/usr/sbin/sshd", "-D", "-e", "-f", "/etc/dev-container/sshd_config"],
                "Env": [path], "User": "dev", "WorkingDir": "/workspace"}),
        ),
        image(names::IMAGE, json!({"Entrypoint": ["/usr/sbin/dnsmasq"]})),
        image(alerts::PROMETHEUS, json!({"Entrypoint": ["/usr/bin/prometheus"]})),
        image(alerts::ALERTMANAGER, json!({"Entrypoint": ["/usr/bin/prometheus-alertmanager"]})),
    ]
}

#[test]
fn what_the_charts_run_works_in_real_pods() {
    let start = Instant::now();
    let mut make = Command::new(repository().join("tests/bundle/pods.sh"));
    let root = PathBuf::from(make.stdout_text().unwrap().trim());
    println!("pods: the root file system of the images after {:.0?}", start.elapsed());
    let mut cluster = Cluster::with_node().unwrap();
    cluster.import_all(&images(&root)).unwrap();
    println!("pods: a node with the images after {:.0?}", start.elapsed());
    names::start(&mut cluster);
    postgres::rows_come_back_after_their_volume_is_lost(&mut cluster);
    println!("pods: PostgreSQL after {:.0?}", start.elapsed());
    broker::tasks_are_taken_and_none_outlives_its_pod(&mut cluster);
    println!("pods: Paperless' broker after {:.0?}", start.elapsed());
    dev::routes_change_and_a_dev_container_is_reached(&mut cluster);
    println!("pods: the dev proxy and a dev container after {:.0?}", start.elapsed());
    alerts::what_fails_is_told_within_a_minute(&mut cluster);
    println!("pods: alerts after {:.0?}", start.elapsed());
}
