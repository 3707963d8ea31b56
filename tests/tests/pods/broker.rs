//! The broker of the chart `paperless`: tasks are taken by the Service's name and given out in order, memory
//! is bounded, and a pod that goes takes all with it, as Paperless expects. Paperless itself has no package.

use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::kubernetes::Cluster;
use fs_err as fs;

use crate::{SOON, applied, folder, names, rendered};

const WORKLOAD: &str = "deployment/paperless-broker";

/// The chart's objects of the broker, as the home has them.
fn install(cluster: &Cluster) {
    applied(cluster, "docs/namespace.yaml").unwrap();
    let values = rendered(cluster, "docs/paperless/values-homelab.yaml.tera").unwrap();
    let (chart, values) = (folder("paperless").display().to_string(), values.display().to_string());
    let args = ["template", "paperless", &chart, "-n", "docs", "-f", &values];
    let text = cluster.helm(&[&args[..], &["-s", "templates/broker.yaml"]].concat()).unwrap();
    let file = cluster.place().join("broker.yaml");
    fs::write(&file, text).unwrap();
    cluster.kubectl(&["apply", "--server-side", "-f", &file.display().to_string()]).unwrap();
    names::refresh(cluster).unwrap();
}

/// The name of the only pod, once it is Ready.
fn pod(cluster: &mut Cluster, but: &str) -> String {
    let ready = |cluster: &mut Cluster| -> Result<String> {
        let label = "app.kubernetes.io/component=broker";
        let path = "jsonpath={range .items[*]}{.metadata.name} \
            {.status.conditions[?(@.type==\"Ready\")].status}{end}";
        let found = cluster.kubectl(&["-n", "docs", "get", "pods", "-l", label, "-o", path])?;
        let name = found.strip_suffix(" True").unwrap_or_default().to_owned();
        ensure!(!name.is_empty() && !name.contains(' ') && name != but, "pods: {found:?}");
        Ok(name)
    };
    cluster.until("the broker's pod", SOON, ready).unwrap()
}

/// What the broker answers, asked by its Service's name as Paperless does.
fn ask(cluster: &Cluster, words: &[&str]) -> String {
    let exec = ["-n", "docs", "exec", WORKLOAD, "--", "valkey-cli", "-h"];
    let service = ["paperless-broker.docs.svc.cluster.local", "--raw"];
    cluster.kubectl(&[&exec[..], &service, words].concat()).unwrap()
}

pub fn tasks_are_taken_and_none_outlives_its_pod(cluster: &mut Cluster) {
    let start = Instant::now();
    install(cluster);
    let first = pod(cluster, "");
    println!("pods: the broker is Ready after {:.0?}", start.elapsed());
    assert_eq!(ask(cluster, &["RPUSH", "celery", "consume 1", "consume 2"]), "2");
    assert_eq!(ask(cluster, &["LPOP", "celery"]), "consume 1");
    // Full, it refuses: a task that was taken is not thrown away for another.
    assert_eq!(
        ask(cluster, &["CONFIG", "GET", "maxmemory-policy"]),
        "maxmemory-policy\nnoeviction"
    );
    let fill = "local s = string.rep('x', 16000) for i=1,6200 do redis.call('SET', i, s) end";
    ask(cluster, &["EVAL", fill, "0"]);
    let said = ask(cluster, &["RPUSH", "celery", "consume 3"]);
    assert!(said.contains("OOM command not allowed"), "{said}");
    assert_eq!(ask(cluster, &["LLEN", "celery"]), "1");
    cluster.kubectl(&["-n", "docs", "delete", "pod", &first, "--timeout=120s"]).unwrap();
    let second = pod(cluster, &first);
    assert_eq!(ask(cluster, &["DBSIZE"]), "0", "{second} has what {first} had");
}
