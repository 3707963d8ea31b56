//! What `builder` asks of a cluster's API, asked of a real one: evictions against a real disruption
//! budget, the end of a Node with its Secret and finalizers, a dead node's pods, local volumes, tokens.
//!
//! One cluster for all, in the order of a rebuild: a cluster takes half a minute to start.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use builder::kubernetes::Kube;
use builder::life::{Cluster as _, Drain, Failed, Health, Member};
use e2e::kubernetes::{Cluster, HELLO, NODE};
use node::config::Role;
use serde_json::{Value, json};

/// In every node's images; its program takes the name of another as an argument.
const BUSYBOX: &str = "docker.io/rancher/mirrored-library-busybox:1.37.0";
const SECOND: &str = "k3s-worker-02";
const SOON: Duration = Duration::from_mins(3);
const STRICT: Drain = Drain { empty_dirs: false, force: false };
const LOOSE: Drain = Drain { empty_dirs: true, force: true };

fn member(name: &str) -> Member {
    Member {
        name: name.parse().unwrap(),
        profile: "worker".parse().unwrap(),
        role: Role::Agent,
        host: "pve1".parse().unwrap(),
    }
}

/// Two pods, and a budget that lets none of them go.
fn guarded(replicas: u32, least: u32) -> [Value; 2] {
    let labels = json!({"app": "hello"});
    let container =
        json!({"name": "hello", "image": HELLO, "readinessProbe": {"httpGet": {"port": 8080}}});
    [
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "hello", "namespace": "default"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels},
                    "spec": {"containers": [container], "terminationGracePeriodSeconds": 1}}}}),
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "hello", "namespace": "default"},
            "spec": {"minAvailable": least, "selector": {"matchLabels": labels}}}),
    ]
}

fn bare(name: &str, volumes: &Value) -> Value {
    let container = json!({"name": "hello", "image": HELLO});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": NODE, "containers": [container], "volumes": volumes,
            "terminationGracePeriodSeconds": 1}})
}

/// Rounds until the node is empty.
fn emptied(cluster: &mut Cluster, kube: &Kube, node: &str, how: Drain) -> Result<()> {
    cluster.until("an empty node", SOON, |_| {
        let left = kube.drain(node, how, false)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn running(cluster: &Cluster, node: &str) -> Result<usize> {
    let path = format!("{{.items[?(@.spec.nodeName=='{node}')].metadata.name}}");
    let ready = cluster.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=hello",
        "--field-selector",
        "status.phase=Running",
        "-o",
        &format!("jsonpath={path}"),
    ])?;
    Ok(ready.split_whitespace().count())
}

fn a_budget_holds_pods_by_name(cluster: &mut Cluster, kube: &Kube) {
    for object in guarded(2, 2) {
        cluster.apply(&object).unwrap();
    }
    cluster
        .until("two pods and their budget", SOON, |c| {
            ensure!(running(c, NODE)? == 2, "pods");
            let seen = c.field("pdb/hello", "{.status.currentHealthy}")?;
            ensure!(seen == "2", "{seen}");
            Ok(())
        })
        .unwrap();
    kube.set_cordoned(NODE, true).unwrap();
    assert_eq!(cluster.field("node/k3s-worker-01", "{.spec.unschedulable}").unwrap(), "true");
    let left = kube.drain(NODE, STRICT, false).unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
    let words = "held by a PodDisruptionBudget: The disruption budget hello needs 2 healthy pods";
    assert!(
        left.iter().all(|text| text.starts_with("default/hello-") && text.contains(words)),
        "{left:?}"
    );
    println!("a budget holds: {}", left[0]);
    assert_eq!(running(cluster, NODE).unwrap(), 2, "nothing was evicted");
}

fn what_would_be_lost_stops_a_drain_before_it_begins(cluster: &mut Cluster, kube: &Kube) {
    cluster.apply(&guarded(2, 0)[1]).unwrap();
    cluster.apply(&bare("bare", &json!([]))).unwrap();
    let refused = |how| match kube.drain(NODE, how, false) {
        Err(Failed::Never(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(refused(STRICT).contains("default/bare has no controller"), "{}", refused(STRICT));
    assert_eq!(running(cluster, NODE).unwrap(), 2, "nothing was evicted");
    let volume = json!([{"name": "v", "emptyDir": {}}]);
    cluster.apply(&bare("scratch", &volume)).unwrap();
    let force = Drain { empty_dirs: false, force: true };
    assert!(
        refused(force).contains("default/scratch has an emptyDir volume"),
        "{}",
        refused(force)
    );
}

fn then_pods_move(cluster: &mut Cluster, kube: &Kube) {
    cluster.add_node(SECOND).unwrap();
    emptied(cluster, kube, NODE, LOOSE).unwrap();
    cluster
        .until("two pods elsewhere", SOON, |c| {
            ensure!(running(c, SECOND)? == 2, "pods");
            Ok(())
        })
        .unwrap();
}

/// After the deadline, and only with `--force`.
fn a_budget_gives_way_to_force(cluster: &mut Cluster, kube: &Kube) {
    cluster.apply(&guarded(2, 2)[1]).unwrap();
    cluster
        .until("the budget", SOON, |c| {
            let allowed = c.field("pdb/hello", "{.status.disruptionsAllowed}")?;
            ensure!(allowed == "0", "{allowed}");
            Ok(())
        })
        .unwrap();
    kube.set_cordoned(NODE, false).unwrap();
    kube.set_cordoned(SECOND, true).unwrap();
    assert_eq!(kube.drain(SECOND, STRICT, true).unwrap().len(), 2);
    assert_eq!(running(cluster, SECOND).unwrap(), 2, "without force nothing goes");
    kube.drain(SECOND, LOOSE, true).unwrap();
    emptied(cluster, kube, SECOND, STRICT).unwrap();
    kube.set_cordoned(SECOND, false).unwrap();
}

fn volumes_on_a_nodes_own_disk_are_seen(cluster: &mut Cluster, kube: &Kube) {
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [SECOND]}]}]}});
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "local": {"path": "/var/lib/data"}, "nodeAffinity": affinity, "storageClassName": ""}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "pv", "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.apply(&volume).unwrap();
    assert_eq!(kube.local_volumes(SECOND).unwrap(), vec![], "nobody has it yet");
    cluster.apply(&claim).unwrap();
    cluster
        .until("a bound claim", SOON, |_| {
            let found = kube.local_volumes(SECOND)?;
            ensure!(found.len() == 1, "{found:?}");
            ensure!(found[0].to_string() == "default/db (1Gi) in /var/lib/data", "{found:?}");
            Ok(())
        })
        .unwrap();
    assert_eq!(kube.local_volumes(NODE).unwrap(), vec![]);
}

/// The end of a Node, and a new one of its name.
fn a_node_goes_with_its_password_and_comes_anew(cluster: &mut Cluster, kube: &Kube) {
    let worker = member(SECOND);
    let before = kube.node(SECOND).unwrap().unwrap();
    assert!(kube.has_password(SECOND).unwrap());
    let hold = json!([{"op": "add", "path": "/metadata/finalizers", "value": ["e2e/hold"]}]);
    let patch = |p: &Value| {
        ["patch", "node", SECOND, "--type", "json", "-p", &p.to_string()].map(str::to_owned)
    };
    let kubectl = |c: &Cluster, args: &[String]| {
        c.kubectl(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    kubectl(cluster, &patch(&hold)).unwrap();
    cluster.power_off(SECOND).unwrap();
    kube.forget(&worker).unwrap();
    let held = kube.node(SECOND).unwrap().unwrap();
    assert!(held.leaving && held.finalizers == ["e2e/hold"], "{held:?}");
    let traces = kube.traces(&worker).unwrap();
    assert!(traces.node && !traces.member, "{traces:?}");
    let let_go = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    kubectl(cluster, &patch(&let_go)).unwrap();
    cluster
        .until("no trace", SOON, |_| {
            kube.forget(&worker)?;
            let traces = kube.traces(&worker)?;
            ensure!(traces.is_clean(), "{traces:?}");
            Ok(())
        })
        .unwrap();
    // A new machine: a new password.
    std::fs::remove_dir_all(cluster.place().join(SECOND)).unwrap();
    cluster.add_node(SECOND).unwrap();
    let after = kube.node(SECOND).unwrap().unwrap();
    assert!(after.ready && after.uid != before.uid, "{after:?}");
    // The lease is another object, which comes a moment later.
    cluster
        .until("a lease", SOON, |_| {
            let node = kube.node(SECOND)?.unwrap_or_default();
            ensure!(node.renewed > 0, "{node:?}");
            Ok(())
        })
        .unwrap();
}

fn a_dead_nodes_pods_are_freed(cluster: &mut Cluster, kube: &Kube) {
    cluster.apply(&guarded(2, 0)[1]).unwrap();
    kube.set_cordoned(NODE, true).unwrap();
    emptied(cluster, kube, NODE, LOOSE).unwrap();
    cluster
        .until("two pods", SOON, |c| {
            ensure!(running(c, SECOND)? == 2, "pods");
            Ok(())
        })
        .unwrap();
    kube.set_cordoned(NODE, false).unwrap();
    cluster.power_off(SECOND).unwrap();
    let start = Instant::now();
    kube.set_cordoned(SECOND, true).unwrap();
    kube.set_out_of_service(SECOND).unwrap();
    let freed = kube.free_pods(SECOND).unwrap();
    // The taint may have been faster with one of them.
    assert!(freed.len() <= 2 && freed.iter().all(|p| p.name.starts_with("hello-")), "{freed:?}");
    cluster
        .until("two pods on the other node", SOON, |c| {
            ensure!(running(c, NODE)? == 2, "pods");
            Ok(())
        })
        .unwrap();
    println!("a dead node's pods run elsewhere after {:.1?}", start.elapsed());
    let taints = cluster.field(&format!("node/{SECOND}"), "{.spec.taints[*].key}").unwrap();
    assert!(taints.contains("unschedulable") && taints.contains("out-of-service"), "{taints}");
}

fn tokens_are_made_and_taken_back(cluster: &Cluster, kube: &Kube) {
    let token = kube.make_token("k3s-worker-03", Duration::from_mins(5), None).unwrap();
    assert_eq!(kube.tokens_of("k3s-worker-03").unwrap(), std::slice::from_ref(&token.id));
    let secret = format!("secret/bootstrap-token-{}", token.id);
    let kind =
        cluster.kubectl(&["-n", "kube-system", "get", &secret, "-o", "jsonpath={.type}"]).unwrap();
    assert_eq!(kind, "bootstrap.kubernetes.io/token");
    kube.delete_token(&token.id).unwrap();
    kube.delete_token(&token.id).unwrap();
    assert_eq!(kube.tokens_of("k3s-worker-03").unwrap(), Vec::<String>::new());
}

/// A gate of rollouts: asked again until its Job has ended, and made anew when it failed.
fn a_job_is_a_gate(cluster: &mut Cluster, kube: &Kube) {
    let manifest = |word: &str| {
        let container = json!({"name": "one", "image": BUSYBOX, "args": [word]});
        let pod =
            json!({"nodeName": "{node}", "restartPolicy": "Never", "containers": [container]});
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": word},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}}})
        .to_string()
    };
    let asked = |word: &str| kube.ask_job("gate.yaml", &manifest(word), NODE).unwrap();
    let why = |health| match health {
        Health::Bad(why) => why,
        Health::Good => "good".to_owned(),
    };
    assert!(why(asked("true")).ends_with("has just begun"));
    let mut until = |word: &'static str, want: &'static str| {
        cluster
            .until(want, SOON, |_| {
                let said = why(asked(word));
                ensure!(said.ends_with(want), "{said}");
                Ok(())
            })
            .unwrap();
    };
    until("true", "good");
    assert_eq!(asked("true"), Health::Good, "asked again, it is the same Job");
    until("false", "failed");
    until("false", "has just begun");
}

fn a_snapshot_is_asked_for(cluster: &Cluster, kube: &Kube) {
    kube.request_snapshot(NODE, "n1").unwrap();
    let path = "{.metadata.annotations.node\\.homelab/snapshot-request}";
    assert_eq!(cluster.field(&format!("node/{NODE}"), path).unwrap(), "n1");
    assert_eq!(kube.snapshot_answer(NODE, "n1").unwrap(), None);
    let missing = kube.request_snapshot("nobody", "n1");
    assert!(matches!(missing, Err(Failed::Never(_))), "{missing:?}");
}

#[test]
fn a_node_is_emptied_forgotten_and_freed_on_a_real_cluster() -> Result<()> {
    let mut cluster = Cluster::with_node()?;
    let kube = Kube::connect(&cluster.kubeconfig())?;
    kube.ready()?;
    let nodes = kube.nodes()?;
    ensure!(nodes.len() == 1 && nodes[NODE].ready, "{nodes:?}");
    let Some(hash) = kube.ca_hash()? else { bail!("the kubeconfig has no CA") };
    // What K3s puts into its tokens.
    let token = cluster.agent_token()?;
    ensure!(token.starts_with(&format!("K10{hash}::")), "the token pins another CA than {hash}");
    a_budget_holds_pods_by_name(&mut cluster, &kube);
    what_would_be_lost_stops_a_drain_before_it_begins(&mut cluster, &kube);
    then_pods_move(&mut cluster, &kube);
    a_budget_gives_way_to_force(&mut cluster, &kube);
    volumes_on_a_nodes_own_disk_are_seen(&mut cluster, &kube);
    tokens_are_made_and_taken_back(&cluster, &kube);
    a_snapshot_is_asked_for(&cluster, &kube);
    a_job_is_a_gate(&mut cluster, &kube);
    a_node_goes_with_its_password_and_comes_anew(&mut cluster, &kube);
    a_dead_nodes_pods_are_freed(&mut cluster, &kube);
    cluster.stop_server()?;
    let away = kube.node(NODE);
    ensure!(matches!(away, Err(Failed::Later(_))), "{away:?}");
    Ok(())
}
