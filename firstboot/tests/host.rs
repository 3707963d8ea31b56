//! The host stage as a whole: tree before, tree after.

mod node;

use ::node::report::{Outcome, State};
use node::{Node, SECRET};

const SERVER_TOKEN: &str = "etc/rancher/k3s/secrets/server-token";
const AGENT_TOKEN: &str = "etc/rancher/k3s/secrets/agent-token";
const OWN: &str = "etc/rancher/k3s/config.yaml.d/50-node.yaml";
const PAYLOAD: &str = "run/firstboot/join/payload";

#[test]
fn a_worker_without_a_secret_waits_in_maintenance_mode_and_goes_on_when_it_comes() {
    let worker = Node::worker();
    let ran = worker.run(&["host"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = worker.report();
    assert_eq!(report.state, State::Waiting);
    let failure = report.failure.unwrap();
    assert_eq!((failure.step.as_str(), failure.cause.as_str()), ("secret", "no join secret"));
    assert!(failure.fix.contains("builder node enroll k3s-worker-01"), "{}", failure.fix);
    assert!(ran.stderr.contains("maintenance mode, K3s is not started: no join secret"));
    assert!(worker.calls().is_empty() && worker.get("run/firstboot/ready").is_none());

    worker.give_secret();
    let ran = worker.run(&["host"]);
    assert_eq!((ran.code, worker.report().state), (0, State::Starting), "{}", ran.stderr);
    assert_eq!(worker.get(AGENT_TOKEN).unwrap(), format!("{SECRET}-w\n"));
    assert!(worker.get(PAYLOAD).is_none() && worker.get("run/firstboot/ready").is_some());
    let calls = worker.calls();
    let start = "systemctl start --no-block k3s-agent.service firstboot-cluster.service";
    assert_eq!(calls.last().unwrap(), start, "{calls:?}");
    assert!(worker.get(OWN).unwrap().contains("https://127.0.0.1:6443"));
}

#[test]
fn a_master_initialises_once_and_starts_from_its_disk_ever_after() {
    let master = Node::master();
    master.give_secret();
    assert_eq!(master.run(&["host"]).code, 0);
    assert!(master.get(OWN).unwrap().contains("\"cluster-init\": true"));
    assert_eq!(master.get(SERVER_TOKEN).unwrap(), format!("{SECRET}-w\n"));
    assert_eq!(master.get(AGENT_TOKEN).unwrap(), format!("{SECRET}-a\n"));
    // Power was lost before K3s had made anything: the permission still holds.
    master.boot("2");
    assert_eq!(master.run(&["host"]).code, 0);
    assert!(master.get(OWN).unwrap().contains("\"cluster-init\": true"));
    // K3s has its database, and the cluster stage took the permission away.
    master.put("var/lib/rancher/k3s/server/db/etcd/member/snap/db", "");
    fs_err::remove_file(master.path("var/lib/firstboot/may-initialise")).unwrap();
    master.boot("3");
    assert_eq!(master.run(&["host"]).code, 0);
    assert!(!master.get(OWN).unwrap().contains("cluster-init"));
    // The disk is lost: never a new cluster without being told.
    std::fs::remove_dir_all(master.path("var/lib/rancher")).unwrap();
    master.boot("4");
    let ran = master.run(&["host"]);
    assert_eq!((ran.code, master.report().state), (1, State::Failed));
    assert!(ran.stderr.contains("its join secret does not permit a new cluster"));
    assert!(master.get("run/firstboot/ready").is_none());
}

#[test]
fn a_second_boot_changes_nothing_and_says_so() {
    let worker = Node::worker();
    worker.give_secret();
    assert_eq!(worker.run(&["host"]).code, 0);
    let after = worker.lasting(true);
    worker.boot("2");
    let ran = worker.run(&["host"]);
    assert_eq!((ran.code, worker.report().state), (0, State::Starting));
    assert_eq!(worker.lasting(true), after);
    let applied = worker.report().steps;
    let applied: Vec<_> = applied.iter().filter(|s| s.outcome == Outcome::Applied).collect();
    assert_eq!(applied.len(), 1, "{applied:?}");
    assert_eq!(applied[0].name, "start");
    let said = "host: done, nothing on disk to change, applied: start";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    // And once more in the same boot, with K3s running: nothing at all.
    worker.put("k3s-active", "");
    worker.calls();
    let ran = worker.run(&["host"]);
    assert!(ran.stderr.contains("host: done, nothing to change"), "{}", ran.stderr);
    assert_eq!(worker.calls(), ["systemctl is-active --quiet k3s-agent.service"]);
    assert_eq!(worker.lasting(true), after);
}

#[test]
fn a_payload_that_cannot_be_used_is_told_from_one_that_is_not_there() {
    let worker = Node::worker();
    let whole = worker.join().encode().unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut other = worker.join();
    other.node = "k3s-master".parse().unwrap();
    let cases = [
        (whole[..whole.len() / 2].to_vec(), 0, State::Waiting, "the join secret is incomplete: "),
        (flipped, 1, State::Failed, "the join secret is broken: its bytes do not have the"),
        (b"token=x\n".to_vec(), 1, State::Failed, "the join secret is broken: does not start"),
        (other.encode().unwrap(), 1, State::Failed, "the join secret is for node `k3s-master`"),
    ];
    for (payload, code, state, cause) in cases {
        worker.give(&payload);
        let ran = worker.run(&["host"]);
        let report = worker.report();
        assert_eq!((ran.code, report.state), (code, state), "{}", ran.stderr);
        let failure = report.failure.unwrap();
        assert!(failure.cause.starts_with(cause), "{}", failure.cause);
        assert!(failure.fix.contains("builder node enroll k3s-worker-01"), "{}", failure.fix);
        assert!(worker.get(AGENT_TOKEN).is_none() && worker.get("run/firstboot/ready").is_none());
    }
    worker.give(&whole);
    assert_eq!(worker.run(&["host"]).code, 0);
    // From its first join on, a node keeps its token.
    worker.put("var/lib/rancher/k3s/agent/client-kubelet.crt", "");
    let mut contradicts = worker.join();
    contradicts.token = format!("{SECRET}-other");
    worker.give(&contradicts.encode().unwrap());
    assert_eq!(worker.run(&["host"]).code, 1);
    let cause = worker.report().failure.unwrap().cause;
    assert!(cause.starts_with("the join secret contradicts /etc/rancher/k3s/secrets"), "{cause}");
    assert_eq!(worker.get(AGENT_TOKEN).unwrap(), format!("{SECRET}-w\n"));
}

#[test]
fn a_broken_configuration_is_reported_as_that_and_k3s_stays_down() {
    for (text, want) in [
        (
            Some("{\"schema\": 1"),
            "usr/lib/firstboot/node.json is not a node configuration: is no JSON: EOF",
        ),
        (Some("{}"), "is not a node configuration: missing field `schema`"),
        (None, "failed to open file"),
    ] {
        let worker = Node::worker();
        worker.give_secret();
        match text {
            Some(text) => worker.put("usr/lib/firstboot/node.json", text),
            None => fs_err::remove_file(worker.path("usr/lib/firstboot/node.json")).unwrap(),
        }
        let ran = worker.run(&["host"]);
        let report = worker.report();
        assert_eq!((ran.code, report.state, report.image_id), (2, State::Failed, None));
        let failure = report.failure.unwrap();
        assert_eq!(failure.step, "config");
        assert!(failure.cause.contains(want), "{}", failure.cause);
        assert!(failure.fix.contains("builder node rebuild k3s-worker-01"), "{}", failure.fix);
        assert!(worker.calls().is_empty() && worker.get("run/firstboot/ready").is_none());
    }
}

#[test]
fn the_console_and_the_second_serial_port_get_the_report_as_one_line() {
    let worker = Node::worker();
    worker.put("dev/ttyS1", "");
    worker.run(&["host"]);
    assert_eq!(worker.get("dev/ttyS1").unwrap(), "", "there is no such port");
    worker.put("sys/class/tty/ttyS1/type", "4\n");
    worker.put("dev/console", "");
    worker.run(&["host"]);
    let console = worker.get("dev/console").unwrap();
    let line = console.lines().find_map(|l| l.strip_prefix("FIRSTBOOT-REPORT ")).unwrap();
    assert_eq!(worker.get("dev/ttyS1").unwrap().trim_end(), line);
    let report: ::node::report::Report = serde_json::from_str(line).unwrap();
    assert_eq!(report, worker.report());
    assert_eq!((report.uptime_millis, report.boot_id.as_str()), (12_340, "boot-1"));
    assert_eq!(report.image_id.unwrap().to_string(), "worker-0123456789ab");
}

#[test]
fn a_console_that_is_not_there_fails_nothing() {
    let worker = Node::worker();
    fs_err::remove_file(worker.path("dev/console")).unwrap();
    assert_eq!(worker.run(&["host"]).code, 0);
}

#[test]
fn an_export_is_mounted_by_systemd_and_no_boot_waits_for_its_server() {
    let worker = Node::worker();
    worker.with_nfs();
    worker.give_secret();
    let ran = worker.run(&["host"]);
    assert_eq!((ran.code, worker.report().state), (0, State::Starting), "{}", ran.stderr);
    let nfs = |worker: &Node| worker.report().steps.into_iter().find(|s| s.name == "nfs").unwrap();
    let detail = "data (192.0.2.9) not mounted yet, tried again by itself";
    assert_eq!((nfs(&worker).outcome, nfs(&worker).detail.as_str()), (Outcome::Applied, detail));
    let calls = worker.calls();
    assert!(!calls.contains(&"systemctl daemon-reload".to_owned()), "{calls:?}");
    let start = "systemctl start --no-block srv-nfs-data.timer".to_owned();
    assert!(calls.contains(&start), "{calls:?}");

    // Still away, in the same boot: nothing to change, and still said.
    worker.put("run/timer-active", "");
    worker.put("k3s-active", "");
    let lasting = worker.lasting(true);
    worker.run(&["host"]);
    assert_eq!((nfs(&worker).outcome, nfs(&worker).detail.as_str()), (Outcome::Satisfied, detail));
    assert!(!worker.calls().iter().any(|c| c.contains("reload") || c.contains("start")));
    // The next boot starts the timer again, and writes nothing.
    worker.boot("2");
    worker.run(&["host"]);
    assert!(worker.calls().contains(&start));
    assert_eq!(worker.lasting(true), lasting);
}
