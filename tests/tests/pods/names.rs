//! Names of Services for pods: dnsmasq in `CoreDNS`' place, at the address that every kubelet gives its
//! pods. It reads them from a folder, into which the test writes what Services there are.

use anyhow::{Result, ensure};
use e2e::Running;
use e2e::kubernetes::Cluster;
use fs_err as fs;
use serde_json::json;

use crate::SOON;

/// Its image.
pub const IMAGE: &str = "docker.io/e2e/dnsmasq:1";
/// Where K3s puts its DNS.
const ADDRESS: &str = "10.43.0.10";

/// Starts it and waits until it answers.
pub fn start(cluster: &mut Cluster) {
    let folder = cluster.place().join("names");
    fs::create_dir_all(&folder).unwrap();
    let labels = json!({"k8s-app": "kube-dns"});
    let container = json!({"name": "dnsmasq", "image": IMAGE,
        "args": ["--keep-in-foreground", "--log-facility=-", "--user=root", "--no-resolv",
            "--no-hosts", "--hostsdir=/names", "--local=/cluster.local/"],
        "readinessProbe": {"tcpSocket": {"port": 53}, "periodSeconds": 1},
        "volumeMounts": [{"name": "names", "mountPath": "/names"}]});
    let volume = json!({"name": "names", "hostPath": {"path": folder, "type": "Directory"}});
    let meta = json!({"name": "kube-dns", "namespace": "kube-system"});
    let objects = [
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels},
                "spec": {"containers": [container], "volumes": [volume]}}}}),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"clusterIP": ADDRESS, "selector": labels, "ports": [
                {"name": "udp", "port": 53, "protocol": "UDP"},
                {"name": "tcp", "port": 53, "protocol": "TCP"}]}}),
    ];
    for object in objects {
        cluster.apply(&object).unwrap();
    }
    let ready = |cluster: &mut Cluster| {
        let path = "{.status.readyReplicas}";
        let args = ["-n", "kube-system", "get", "deployment/kube-dns", "-o"];
        let ready = cluster.kubectl(&[&args[..], &[&format!("jsonpath={path}")]].concat())?;
        ensure!(ready == "1", "{ready:?} of dnsmasq is ready");
        Ok(())
    };
    cluster.until("dnsmasq", SOON, ready).unwrap();
    refresh(cluster).unwrap();
}

/// Tells it the Services there are now.
pub fn refresh(cluster: &Cluster) -> Result<()> {
    let path = "{range .items[*]}{.spec.clusterIP} {.metadata.name}.{.metadata.namespace}.svc\
        .cluster.local{'\\n'}{end}";
    let text =
        cluster.kubectl(&["get", "services", "-A", "-o", &format!("jsonpath={path}")])? + "\n";
    let file = cluster.place().join("names/hosts");
    node::files::ensure_file(&file, text.as_bytes(), 0o644)?;
    Ok(())
}

/// `helm` to its end, while the Services it makes get their names: what it waits for asks for them.
pub fn helm(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let mut running = Running::start(&mut cluster.helm_command(args))?.within(SOON * 2);
    while !running.has_ended()? {
        refresh(cluster)?;
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    running.end()?.ok()?;
    // Small pods are ready before the next look at the Services, which then nobody would know.
    refresh(cluster)
}
