//! Several servers, each by firstboot: the first makes the cluster, the others really join it while it
//! lives, one is lost and comes anew under its name. Real API servers, etcd and kubelets (the K3s
//! stand-in) in namespaces; what units do around firstboot is tested in `units.rs`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what cannot be")]

mod home;

use std::time::Instant;

use anyhow::ensure;
use home::{Home, Server};
use node::join::Bootstrap;
use node::report::{Report, State};

const OWN: &str = "etc/rancher/k3s/config.yaml.d/50-node.yaml";
const TOKEN: &str = "var/lib/rancher/k3s/server/token";
const CA: &str = "var/lib/rancher/k3s/server/tls/server-ca.crt";
/// What systemd shows of a unit that ends again and again.
const ENDS: &str = "ActiveState=activating\nSubState=auto-restart\nResult=exit-code\n\
                    ExecMainStatus=1\nNRestarts=3\n";

fn detail<'a>(report: &'a Report, step: &str) -> &'a str {
    let found = report.steps.iter().find(|s| s.name == step);
    &found.unwrap_or_else(|| panic!("no step {step}: {report:#?}")).detail
}

/// Nodes that are Ready and vote in etcd, by the API of one server.
fn voters(server: &Server) -> Vec<String> {
    let path = "{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='EtcdIsVoter')].status} \
                {.status.conditions[?(@.type=='Ready')].status}{\"\\n\"}{end}";
    let text = server.kubectl(&["get", "nodes", "-o", &format!("jsonpath={path}")]).unwrap();
    let names = text.lines().filter_map(|line| line.strip_suffix(" True True"));
    names.map(str::to_owned).collect()
}

/// Alone among silent peers and with the permission of its secret: it makes the cluster.
fn the_first_makes_the_cluster(home: &Home) -> (Server, String) {
    let mut first = home.server("k3s-master", "a").unwrap();
    first.give("s3cret", Bootstrap::Once).unwrap();
    let host = first.comes_to("host", State::Starting).unwrap();
    assert_eq!(detail(&host, "origin"), "a new cluster, recorded as home-test");
    assert!(first.get(OWN).unwrap().contains("\"cluster-init\": true"));
    first.becomes_ready().unwrap();
    first.kubectl(&["create", "secret", "generic", "kept", "--from-literal=a=b"]).unwrap();
    let token = first.get(TOKEN).unwrap().trim().to_owned();
    assert!(token.starts_with("K10") && token.ends_with("::server:s3cret"));
    (first, token)
}

/// A token in the short form can know nobody, so the live cluster is neither joined nor doubled.
fn a_short_token_joins_nobody(second: &Server) {
    second.give("s3cret", Bootstrap::Once).unwrap();
    let cause = second.comes_to("host", State::Failed).unwrap().failure.unwrap().cause;
    assert!(cause.contains("answers, and the token has no CA's hash to know it by"), "{cause}");
    assert!(second.get(OWN).is_err() && second.get("run/firstboot/ready").is_err());
}

/// With the permission to make a cluster it joins all the same, as one lives.
fn the_second_joins_it(second: &mut Server, first: &Server, token: &str) {
    second.give(token, Bootstrap::Once).unwrap();
    let host = second.comes_to("host", State::Starting).unwrap();
    let url = format!("https://{}:6443", first.machine.address);
    // Nothing is added about a record: it was there and its settings are this image's.
    assert_eq!(detail(&host, "origin"), format!("the cluster that answers at {url}"));
    let own = second.get(OWN).unwrap();
    assert!(own.contains(&format!("\"server\": \"{url}\"")) && !own.contains("init"), "{own}");
    let cluster = second.becomes_ready().unwrap();
    assert_eq!(second.get(CA).unwrap(), first.get(CA).unwrap());
    let path = "jsonpath={.metadata.uid}";
    let uid = first.kubectl(&["get", "namespace", "kube-system", "-o", path]).unwrap();
    assert_eq!(detail(&cluster, "node-ready"), format!("cluster {uid}"));
    let kept = second.kubectl(&["get", "secret", "kept", "-o", "jsonpath={.data.a}"]).unwrap();
    assert_eq!(kept, "Yg==");
    assert_eq!(voters(second), ["k3s-m2", "k3s-master"]);
}

/// Its next boot is from its own disk.
fn a_later_boot_asks_nobody(server: &mut Server) {
    server.machine.stop().unwrap();
    server.boot().unwrap();
    let host = server.comes_to("host", State::Starting).unwrap();
    assert_eq!(detail(&host, "origin"), "the database on this disk");
    assert!(!server.get(OWN).unwrap().contains("init"));
    server.becomes_ready().unwrap();
}

/// Traps J1 and J2: the machine is lost, and one of its name comes before its Node was deleted. K3s
/// refuses it, firstboot says why and what helps, and that helps.
fn a_lost_one_comes_anew_when_its_node_is_deleted(home: &Home, first: &mut Server, token: &str) {
    let mut again = home.server("k3s-m2", "d").unwrap();
    again.give(token, Bootstrap::No).unwrap();
    again.comes_to("host", State::Starting).unwrap();
    again.start().unwrap();
    let start = Instant::now();
    while again.machine.lives().is_ok() {
        assert!(start.elapsed() < e2e::kubernetes::LIMIT, "K3s goes on: {}", again.machine.log());
        std::thread::sleep(std::time::Duration::from_millis(250));
    }
    again.k3s_is(ENDS).unwrap();
    let failure = again.comes_to("cluster", State::Failed).unwrap().failure.unwrap();
    assert!(failure.cause.contains("duplicate node name found"), "{}", failure.cause);
    assert!(failure.fix.contains("kubectl delete node k3s-m2"), "{}", failure.fix);

    first.kubectl(&["delete", "node", "k3s-m2", "--timeout=50s"]).unwrap();
    let secret = "k3s-m2.node-password.k3s";
    let gone = |s: &Server| {
        let names = s.kubectl(&["-n", "kube-system", "get", "secrets", "-o", "name"])?;
        ensure!(!names.contains(secret), "{names}");
        Ok(())
    };
    first.until("the end of its password", gone).unwrap();
    again.becomes_ready().unwrap();
    assert_eq!(voters(first), ["k3s-m2", "k3s-master"]);
}

#[test]
fn servers_join_a_live_one_by_firstboot_and_a_lost_one_comes_back() {
    let start = Instant::now();
    let home = Home::new().unwrap();
    let (mut first, token) = the_first_makes_the_cluster(&home);
    println!("the first server is Ready: {:.0?}", start.elapsed());
    let mut second = home.server("k3s-m2", "b").unwrap();
    a_short_token_joins_nobody(&second);
    the_second_joins_it(&mut second, &first, &token);
    println!("the second has joined and votes: {:.0?}", start.elapsed());
    // The third without a kubelet, to be quicker: it is there for the majority.
    let mut third = home.server("k3s-m3", "c").unwrap();
    third.put("etc/rancher/k3s/config.yaml.d/95-alone.yaml", b"disable-agent: true\n").unwrap();
    third.give(&token, Bootstrap::No).unwrap();
    third.comes_to("host", State::Starting).unwrap();
    third.start().unwrap();
    third.until("the third's API", |s| s.kubectl(&["get", "--raw", "/readyz"]).map(drop)).unwrap();
    println!("the third has joined: {:.0?}", start.elapsed());
    a_later_boot_asks_nobody(&mut first);
    println!("the first is back from its disk: {:.0?}", start.elapsed());
    drop(second);
    a_lost_one_comes_anew_when_its_node_is_deleted(&home, &mut first, &token);
    println!("a lost one was refused, then joined anew: {:.0?}", start.elapsed());
}
