use node::config::Role;

use super::*;
use crate::boot::facts::tests::facts;
use crate::boot::plan::tests::sample;

const BORN: &str = "1789200000";

/// Facts of a sound node in maintenance mode.
const SOUND: [(&str, &str); 14] = [
    ("hostname", "k3s-worker-01\n"),
    ("instance-id", "abc"),
    ("cloud-init", r#"{"v1":{"datasource":"DataSourceNoCloud [seed=/dev/sr0]","errors":[]}}"#),
    (
        "network",
        "1: lo inet 127.0.0.1/8 scope host lo\n2: eth0 inet 192.168.2.21/24 scope global eth0\n\
         default via 192.168.2.1 dev eth0 proto static\n192.168.2.0/24 dev eth0",
    ),
    ("os-release", "ID=debian\nIMAGE_VERSION=\"3f9c2a71b0de\"\n"),
    ("failed", ""),
    ("born", BORN),
    ("machine-id", "7ac472f8cbd85d588e0804dc2ce80571\n1789200003\n"),
    ("host-keys", "1789200009 /etc/ssh/ssh_host_ed25519_key\n"),
    ("old-logs", ""),
    ("journals", "1"),
    ("root", "8000000000 300000000"),
    (
        "ports",
        "udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*\ntcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\n\
               udp UNCONN 0 0 192.168.2.21:41234 0.0.0.0:*\ntcp LISTEN 0 128 [::]:22 [::]:*\ntcp LISTEN 0 128 127.0.0.1:10248 0.0.0.0:*",
    ),
    ("analyze", "Startup finished"),
];

fn report(state: State) -> Report {
    Report {
        modified: vec![],
        schema: 1,
        image_id: Some("worker-3f9c2a71b0de".parse().unwrap()),
        node: "k3s-worker-01".into(),
        role: Some(Role::Agent),
        boot_id: "b".into(),
        state,
        uptime_millis: 1,
        steps: vec![],
        applying: false,
        bundle: None,
        failure: None,
    }
}

/// Sound facts with one of them replaced.
fn with<'a>(name: &'a str, text: &'a str) -> Facts {
    let pairs: Vec<_> =
        SOUND.iter().map(|(n, t)| if *n == name { (name, text) } else { (*n, *t) }).collect();
    facts(&pairs)
}

fn failing(plan: &BootPlan, facts: &Facts, report: Option<&Report>) -> Vec<String> {
    let case = Case { plan, instance_id: "abc", facts, report };
    judge(&case).into_iter().filter(|c| !c.passed).map(|c| c.name).collect()
}

#[test]
fn a_sound_node_passes_every_check() {
    let waiting = report(State::Waiting);
    assert_eq!(failing(&sample(), &with("", ""), Some(&waiting)), [""; 0]);
}

#[test]
fn an_export_that_waits_for_its_server_is_no_failed_unit_and_hides_none() {
    let waiting = report(State::Waiting);
    let mount = "srv-nfs-data.mount loaded failed failed NFS export";
    let failed = |text: &str| failing(&sample(), &with("failed", text), Some(&waiting));
    assert_eq!(failed(mount), [""; 0]);
    assert_eq!(failed(&format!("{mount}\nx.service loaded failed failed X")), ["failed units"]);
    assert_eq!(failed("srv-nfs-data.timer loaded failed failed X"), ["failed units"]);
}

#[test]
fn each_defect_fails_its_own_check_and_no_other() {
    let waiting = report(State::Waiting);
    let table = [
        ("hostname", "localhost", "hostname"),
        ("instance-id", "iid-datasource-none", "instance-id"),
        ("cloud-init", "", "cloud-init"),
        ("cloud-init", r#"{"v1":{"datasource":"DataSourceNone","errors":[]}}"#, "cloud-init"),
        (
            "cloud-init",
            r#"{"v1":{"datasource":"DataSourceNoCloud","errors":["('ssh', E())"]}}"#,
            "cloud-init",
        ),
        ("network", "2: eth0 inet 192.168.2.21/24 scope global eth0", "network"),
        ("network", "default via 192.168.2.1 dev eth0\ninet 192.168.2.210/24", "network"),
        ("os-release", "IMAGE_VERSION=000000000000", "image-id"),
        ("os-release", "ID=debian", "image-id"),
        ("failed", "nfs.mount loaded failed failed /srv", "failed units"),
        ("machine-id", "uninitialized\n1789200003", "machine-id"),
        ("machine-id", "7ac472f8cbd85d588e0804dc2ce80571\n1780000000", "machine-id"),
        ("machine-id", "00000000000000000000000000000000\n1789200003", "machine-id"),
        ("host-keys", "", "host keys"),
        ("host-keys", "1780000000 /etc/ssh/ssh_host_rsa_key", "host keys"),
        ("old-logs", "/var/log/dpkg.log", "old logs"),
        ("journals", "2", "journals"),
        ("root", "1500000000 300000000", "root file system"),
        ("ports", "", "ports"),
        ("ports", "tcp LISTEN 0 128 *:22 *:*\nudp UNCONN 0 0 0.0.0.0:111 0.0.0.0:*", "ports"),
        ("ports", "tcp LISTEN 0 128 *:22 *:*\ntcp LISTEN 0 128 *:10250 *:*", "ports"),
    ];
    for (fact, text, check) in table {
        assert_eq!(failing(&sample(), &with(fact, text), Some(&waiting)), [check], "{fact}={text}");
    }
}

#[test]
fn a_fact_that_never_came_fails_its_check() {
    let waiting = report(State::Waiting);
    let judged = failing(&sample(), &facts(&[]), Some(&waiting));
    let all = RULES
        .iter()
        .map(|r| r.name)
        .filter(|n| !["clock", "state", "report's image-id"].contains(n));
    assert_eq!(judged, all.collect::<Vec<_>>());
}

#[test]
fn a_clock_that_is_off_fails_either_way() {
    let waiting = report(State::Waiting);
    for (skew, failed) in [(4.9, 0), (-4.9, 0), (5.1, 1), (-3600.0, 1)] {
        let mut facts = with("", "");
        facts.skew = skew;
        assert_eq!(failing(&sample(), &facts, Some(&waiting)).len(), failed, "{skew}");
    }
}

#[test]
fn the_ports_of_a_ready_node_follow_its_role() {
    let ss = |ports: &[&str]| -> String {
        let line = |p: &&str| {
            let (kind, port) = p.split_once('/').unwrap();
            format!("{kind} LISTEN 0 128 *:{port} *:*\n")
        };
        ports.iter().map(line).collect()
    };
    let table = [
        (Role::Agent, vec!["tcp/22", "tcp/10250"], true),
        (Role::Agent, vec!["tcp/22", "tcp/10250", "udp/8472"], true),
        (Role::Agent, vec!["tcp/22"], false),
        (Role::Agent, vec!["tcp/22", "tcp/10250", "tcp/6443"], false),
        (Role::Server, vec!["tcp/22", "tcp/10250", "tcp/6443"], true),
        (Role::Server, vec!["tcp/22", "tcp/10250", "tcp/6443", "tcp/2379", "tcp/2381"], true),
        (Role::Server, vec!["tcp/22", "tcp/10250"], false),
    ];
    for (role, ports, passes) in table {
        let mut plan = sample();
        (plan.role, plan.expect) = (role, Expect::Ready);
        let text = ss(&ports);
        let judged = failing(&plan, &with("ports", &text), Some(&report(State::Ready)));
        assert_eq!(judged.is_empty(), passes, "{role:?} {ports:?}: {judged:?}");
    }
}

#[test]
fn what_went_wrong_is_said_by_its_cause() {
    let said = |plan: &BootPlan, facts: &Facts, report: Option<&Report>| -> String {
        let case = Case { plan, instance_id: "abc", facts, report };
        diagnosis(&case, &judge(&case)).unwrap().0
    };
    let mut failed = report(State::Failed);
    failed.failure = Some(node::report::Failure {
        step: "configuration".into(),
        cause: "node.json is no JSON".into(),
        fix: "build the image again".into(),
    });
    let waits = Report { state: State::Waiting, ..failed.clone() };
    let mut ready = sample();
    ready.expect = Expect::Ready;
    let unnamed = facts(&[("hostname", "localhost")]);
    let mut missing = sample();
    missing.seed = Seed::Missing;
    let text = [
        said(&sample(), &unnamed, Some(&failed)),
        said(&missing, &unnamed, None),
        said(&sample(), &with("", ""), Some(&failed)),
        said(&sample(), &with("", ""), None),
        said(&sample(), &with("journals", "2"), Some(&report(State::Waiting))),
        said(&ready, &with("", ""), Some(&waits)),
        said(&sample(), &with("journals", "2"), Some(&waits)),
    ];
    insta::assert_snapshot!(text.join("\n"));
}
