//! The commands for people, and the cluster stage where K3s cannot come up.

mod node;

use ::node::report::State;
use node::Node;

const BROKEN: &str = "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\n\
                      ExecMainStatus=203\nNRestarts=0\n";

#[test]
fn a_k3s_that_cannot_be_executed_is_reported_as_that() {
    let worker = Node::worker();
    worker.give_secret();
    worker.run(&["host"]);
    worker.put("unit-state", BROKEN);
    let ran = worker.run(&["cluster"]);
    let report = worker.report();
    assert_eq!((ran.code, report.state), (1, State::Failed));
    let failure = report.failure.unwrap();
    assert!(failure.fix.starts_with("the image is damaged"), "{}", failure.fix);
    let want = "k3s-agent.service does not run: its program cannot be executed (status 203/EXEC); \
                its last lines: exec format error, token (token)";
    assert_eq!(failure.cause, want);
    let stages: Vec<_> = report.steps.iter().map(|s| s.stage.as_str()).collect();
    // The host stage's steps stay in the report, its last one included.
    let (last, before) = stages.split_last().unwrap();
    assert!(*last == "cluster" && before.iter().all(|s| *s == "host"), "{stages:?}");
    assert!(report.steps.iter().any(|s| s.name == "start"), "{stages:?}");
}

#[test]
fn an_api_that_does_not_answer_ends_with_the_last_cause() {
    let master = Node::master();
    master.put("unit-state", "ActiveState=activating\nSubState=start\n");
    assert_eq!(master.run(&["cluster"]).code, 1);
    let failure = master.report().failure.unwrap();
    assert_eq!(failure.step, "api");
    assert!(failure.cause.contains("etc/rancher/k3s/k3s.yaml"), "{}", failure.cause);
    assert!(failure.cause.ends_with("(waited 0.0 s)"), "{}", failure.cause);
}

#[test]
fn status_shows_steps_and_ledger_and_tells_by_its_exit_code() {
    let worker = Node::worker();
    let ran = worker.run(&["status"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("no report of this boot yet"), "{}", ran.stderr);
    worker.give_secret();
    worker.run(&["host"]);
    let ran = worker.run(&["status"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stdout.starts_with("k3s-worker-01  worker-0123456789ab  starting\n"));
    assert!(ran.stdout.contains("  host    secret      * applied   "), "{}", ran.stdout);
    let ran = worker.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["ledger"]["secret"]["done"], true);
    assert_eq!(json["report"]["state"], "starting");
}

#[test]
fn check_says_what_a_file_is_or_what_is_wrong_with_it() {
    let worker = Node::worker();
    let ran = worker.run(&["check"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.starts_with("image worker-0123456789ab, role agent, cluster `home`"));
    worker.give_secret();
    let payload = worker.path("run/firstboot/join/payload");
    let ran = worker.run(&["check", payload.to_str().unwrap()]);
    assert_eq!(ran.stdout, "a join secret for node `k3s-worker-01`\n");
    worker.put("bad.json", "{\"schema\": 1, \"role\": \"boss\"}");
    let ran = worker.run(&["check", worker.path("bad.json").to_str().unwrap()]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("unknown variant `boss`, expected `server` or `agent`"));
}

#[test]
fn join_takes_a_secret_for_this_node_only_and_runs_the_host_stage() {
    let worker = Node::worker();
    let file = worker.path("secret");
    fs_err::write(&file, Node::master().join().encode().unwrap()).unwrap();
    let ran = worker.run(&["join", file.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is for node `k3s-master`, this is `k3s-worker-01`"));
    assert!(worker.calls().is_empty());
    fs_err::write(&file, worker.join().encode().unwrap()).unwrap();
    assert_eq!(worker.run(&["join", file.to_str().unwrap()]).code, 0);
    assert_eq!(worker.calls(), ["systemctl start firstboot-host.service"]);
    assert_eq!(worker.run(&["host"]).code, 0);
    assert_eq!(worker.report().state, State::Starting);
}
