//! The chart `postgres`: rows are written, dumped by the `CronJob`'s own job, lost with their volume, and
//! are there again after the job of the runbook `postgres-restore.md`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::kubernetes::Cluster;
use fs_err as fs;
use serde_json::json;

use crate::{SOON, applied, folder, names, rendered, secret};

/// Rows that are written.
const ROWS: u32 = 10_000;
/// The user of the official image, to whom the volume must belong.
const USER: u32 = 999;

/// A volume of the class that the home's NFS provisioner makes, for one claim of the namespace `data`.
fn volume(cluster: &Cluster, name: &str, claim: &str, mode: &str) {
    let path = cluster.place().join("volumes").join(name);
    fs::create_dir_all(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(USER), Some(USER)).unwrap();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": "20Gi"}, "accessModes": [mode],
            "hostPath": {"path": path, "type": "Directory"}, "storageClassName": "nfs-client",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": "data", "name": claim}}});
    cluster.apply(&volume).unwrap();
}

/// What psql prints for a statement, as the superuser in the server's pod.
fn sql(cluster: &Cluster, database: &str, statement: &str) -> Result<String> {
    let psql = ["psql", "-U", "postgres", "-Atq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c"];
    let exec = ["-n", "data", "exec", "postgres-0", "-c", "postgres", "--"];
    cluster.kubectl(&[&exec[..], &psql, &[statement]].concat())
}

/// As the application n8n connects: by the Service's name, with its password.
fn rows_of_application(cluster: &Cluster) -> Result<String> {
    let exec = ["-n", "data", "exec", "postgres-0", "-c", "postgres", "--"];
    let psql = ["env", "PGPASSWORD=of-n8n", "psql", "-h", "postgres.data.svc.cluster.local"];
    let ask = ["-U", "n8n", "-d", "n8n", "-Atqc", "SELECT count(*) FROM flow"];
    cluster.kubectl(&[&exec[..], &psql, &ask].concat())
}

/// Runs the job of a `CronJob` now, as the runbooks do, and gives what it said.
pub fn job(cluster: &mut Cluster, of: &str, name: &str) -> String {
    let start = Instant::now();
    let from = format!("--from=cronjob/{of}");
    cluster.kubectl(&["-n", "data", "create", "job", &from, name]).unwrap();
    let job = format!("job/{name}");
    let ended = |cluster: &mut Cluster| {
        let status = cluster.kubectl(&["-n", "data", "get", &job, "-o", "jsonpath={.status}"])?;
        ensure!(status.contains("\"succeeded\":1"), "{status}");
        Ok(())
    };
    let ended = cluster.until(&format!("the end of {name}"), SOON, ended);
    let said = cluster.kubectl(&["-n", "data", "logs", &job]).unwrap_or_default();
    ended.with_context(|| said.clone()).unwrap();
    println!("pods: {name} took {:.0?}: {}", start.elapsed(), said.lines().last().unwrap_or("-"));
    said
}

/// Scales the server and waits until it is so.
pub fn scale(cluster: &mut Cluster, replicas: &str) {
    let count = format!("--replicas={replicas}");
    cluster.kubectl(&["-n", "data", "scale", "statefulset/postgres", &count]).unwrap();
    let there = |cluster: &mut Cluster| {
        let path = "jsonpath={.status.replicas}{.status.readyReplicas}";
        let found = cluster.kubectl(&["-n", "data", "get", "statefulset/postgres", "-o", path])?;
        let wanted = if replicas == "0" { vec!["0", "00"] } else { vec!["11"] };
        ensure!(wanted.contains(&found.as_str()), "replicas and ready ones: {found:?}");
        Ok(())
    };
    cluster.until("the server's pods", SOON, there).unwrap();
}

/// Installs the release as the home has it.
fn install(cluster: &Cluster) {
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "nfs-client"}, "provisioner": "kubernetes.io/no-provisioner"});
    cluster.apply(&class).unwrap();
    volume(cluster, "first", "data-postgres-0", "ReadWriteOnce");
    volume(cluster, "dumps", "postgres-backups", "ReadWriteMany");
    applied(cluster, "data/namespace.yaml").unwrap();
    let words = json!({"postgres-password": "of-postgres", "exporter-password": "of-exporter",
        "n8n-password": "of-n8n"});
    secret(cluster, "data", "postgres-auth", &words).unwrap();
    let values = rendered(cluster, "data/postgres/values-homelab.yaml").unwrap();
    let (chart, values) = (folder("postgres").display().to_string(), values.display().to_string());
    let install = ["install", "postgres", &chart, "-n", "data", "-f", &values];
    names::helm(cluster, &[&install[..], &["--wait", "--timeout", "8m"]].concat()).unwrap();
}

/// The pod gets an empty volume in the place of the one it had, which is gone with all in it.
fn lose_the_volume(cluster: &mut Cluster) {
    scale(cluster, "0");
    let claim = "pvc/data-postgres-0";
    cluster.kubectl(&["-n", "data", "delete", claim, "--timeout=120s"]).unwrap();
    cluster.kubectl(&["delete", "pv/first", "--timeout=120s"]).unwrap();
    fs::remove_dir_all(cluster.place().join("volumes/first")).unwrap();
    volume(cluster, "second", "data-postgres-0", "ReadWriteOnce");
    scale(cluster, "1");
}

pub fn rows_come_back_after_their_volume_is_lost(cluster: &mut Cluster) {
    let start = Instant::now();
    install(cluster);
    println!("pods: the release postgres took {:.0?}", start.elapsed());
    let rows = format!(
        "CREATE TABLE flow (id int PRIMARY KEY, body text); ALTER TABLE flow OWNER TO n8n;
         INSERT INTO flow SELECT n, E'tab\\t line\\n ü ' || n FROM generate_series(1, {ROWS}) n"
    );
    sql(cluster, "n8n", &rows).unwrap();
    let sum = "SELECT md5(string_agg(id || body, ',' ORDER BY id)) FROM flow";
    let before = sql(cluster, "n8n", sum).unwrap();
    assert_eq!(before.len(), 32, "{before}");
    assert_eq!(rows_of_application(cluster).unwrap(), ROWS.to_string());

    let said = job(cluster, "postgres-backup", "dump-now");
    assert!(said.contains("dumping n8n") && said.contains("dumped 2 databases"), "{said}");
    let said = job(cluster, "postgres-verify", "prove-now");
    let proof = format!("n8n: {ROWS} rows in the dump, {ROWS} in the restored database");
    assert!(said.contains(&proof), "{said}");

    lose_the_volume(cluster);
    let found = "SELECT count(*) FROM pg_database WHERE datname = 'n8n'";
    assert_eq!(sql(cluster, "postgres", found).unwrap(), "0", "the volume was not lost");
    let lost = Instant::now();
    let said = job(cluster, "postgres-restore", "restore-now");
    assert!(said.contains("restored: n8n postgres"), "{said}");
    assert_eq!(sql(cluster, "n8n", sum).unwrap(), before);
    // Roles and their passwords are back too.
    assert_eq!(rows_of_application(cluster).unwrap(), ROWS.to_string());
    let time: Duration = lost.elapsed();
    println!("pods: {ROWS} rows of PostgreSQL are back {time:.0?} after the new server was ready");
}
