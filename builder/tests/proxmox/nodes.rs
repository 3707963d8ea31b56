//! `builder node enroll` and `fence`, `builder status`: the built program in a whole home.

use crate::api::SECRETS;
use crate::home::{Home, know_the_ca, three_servers};

/// Makes a clone as a person does in Proxmox' own pages: right name, own address, nothing else.
fn clone_by_hand(home: &Home, name: &str, vmid: u32) {
    home.double.world(|world| {
        let (_, template) = world.vms.iter().rfind(|(_, vm)| vm.is_template()).unwrap();
        let mut clone = template.clone();
        clone.config.remove("template");
        clone.config.insert("name".into(), name.into());
        clone.run = Some(pve_double::Run { agent_at: Some(0), ..pve_double::Run::default() });
        world.vms.insert(vmid, clone);
        world.pools.get_mut("k3s").unwrap().insert(vmid);
    });
}

fn payload(home: &Home, vmid: u32) -> String {
    home.double.world(|world| {
        let run = world.vms[&vmid].run.clone().unwrap_or_default();
        let file = run.files.get("/run/firstboot/join/payload").cloned().unwrap_or_default();
        String::from_utf8(file).unwrap()
    })
}

#[test]
fn a_clone_made_by_hand_gets_a_token_that_lasts_an_hour() {
    let home = Home::new();
    home.push("worker", 1);
    clone_by_hand(&home, "w1", 301);
    let said = home.done(&["node", "enroll", "w1"]);
    assert_eq!(said.out, "pve1 301\n");
    let join = node::join::Join::decode(payload(&home, 301).as_bytes()).unwrap();
    assert_eq!(join.node.as_str(), "w1");
    join.check_role(node::config::Role::Agent).unwrap();
    let store = home.api.store();
    let (path, secret) =
        store.objects.iter().find(|(path, _)| path.contains("bootstrap-token-")).unwrap();
    assert!(path.starts_with(SECRETS));
    let data = &secret["stringData"];
    let made = format!(
        "{}.{}",
        data["token-id"].as_str().unwrap(),
        data["token-secret"].as_str().unwrap()
    );
    assert_eq!(join.token, made);
    let end: jiff::Timestamp = data["expiration"].as_str().unwrap().parse().unwrap();
    let left = end.as_second() - jiff::Timestamp::now().as_second();
    assert!((3500..=3600).contains(&left), "{left}");
    drop(store);
    home.until("w1 Ready", |home| home.is_ready("w1"));
    let again = home.run(&["node", "enroll", "w1"]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("w1 is in the cluster already and Ready"), "{}", again.err);
}

#[test]
fn with_watch_it_waits_for_the_clone_and_sweeps_the_token() {
    let home = Home::new();
    home.push("worker", 1);
    let mut child = home.start(&["node", "enroll", "w1", "--watch"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it does not wait");
    clone_by_hand(&home, "w1", 301);
    assert!(child.wait().unwrap().success());
    assert!(home.is_ready("w1"));
    let store = home.api.store();
    assert!(!store.objects.keys().any(|path| path.contains("bootstrap-token-")));
}

#[test]
fn a_drive_takes_the_secret_where_the_agent_cannot_and_is_removed() {
    let home = Home::new();
    home.push("worker", 1);
    clone_by_hand(&home, "w1", 301);
    home.done(&["node", "enroll", "w1", "--drive", "--watch"]);
    let left = home.double.world(|world| world.leftovers());
    assert_eq!((left.isos, left.secrets), (vec![], vec![]));
    let drive = home.double.world(|world| world.vms[&301].get("ide3").map(str::to_owned));
    assert_eq!(drive.as_deref(), Some("none,media=cdrom"));
}

#[test]
fn a_file_takes_the_secret_for_a_node_that_only_ssh_reaches() {
    let home = Home::new();
    let file = home.root().join("../join");
    let join = |args: &[&str]| {
        let base = ["node", "enroll", args[0], "--file", file.to_str().unwrap()];
        home.done(&[&base, &args[1..]].concat());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs_err::metadata(&file).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        node::join::Join::decode(&fs_err::read(&file).unwrap()).unwrap()
    };
    let server = join(&["m1", "--bootstrap"]);
    server.check_role(node::config::Role::Server).unwrap();
    assert_eq!(server.bootstrap, node::join::Bootstrap::Once);
    // A sole server restores without a permission.
    assert_eq!(join(&["m1", "--restore"]).bootstrap, node::join::Bootstrap::No);
    join(&["w1"]).check_role(node::config::Role::Agent).unwrap();

    three_servers(&home);
    let refused = home.run(&["node", "enroll", "m2", "--file", file.to_str().unwrap()]);
    assert!(refused.err.contains("the cluster's CA is not known yet"), "{}", refused.err);
    let hash = know_the_ca(&home);
    let second = join(&["m2"]);
    assert!(second.token.starts_with(&format!("K10{hash}::server:")));
    assert_eq!(join(&["m2", "--restore"]).bootstrap, node::join::Bootstrap::Restore);
}

/// Everything a person can get wrong: the message, and nothing changed.
#[test]
fn what_cannot_be_enrolled_or_fenced_says_why_and_nothing_is_changed() {
    type Spoil = fn(&Home);
    let nothing: Spoil = |_| ();
    let cases: [(&str, Spoil, &[&str]); 6] = [
        ("unknown node", nothing, &["node", "enroll", "w2"]),
        (
            "another profile's clone",
            |home| {
                home.push("master", 1);
                clone_by_hand(home, "w1", 301);
            },
            &["node", "enroll", "w1"],
        ),
        ("no Node to fence", nothing, &["node", "fence", "w1"]),
        (
            "no VM to fence",
            |home| {
                home.push("worker", 1);
                clone_by_hand(home, "w1", 301);
                home.done(&["node", "enroll", "w1", "--watch"]);
                home.double.world(|world| world.vms.remove(&301));
            },
            &["node", "fence", "w1"],
        ),
        (
            "no credentials",
            |home| fs_err::remove_file(home.kubeconfig()).unwrap(),
            &["node", "fence", "w1"],
        ),
        (
            "no secrets",
            |home| fs_err::remove_file(home.root().join("cluster/secrets.age")).unwrap(),
            &["node", "enroll", "w1"],
        ),
    ];
    let mut told = Vec::new();
    for (name, spoil, args) in cases {
        let home = Home::new();
        spoil(&home);
        home.api.changes();
        let before = home.double.world(|world| world.seen.len());
        let said = home.run(args);
        assert!(said.code == 1 || said.code == 2, "{name}: {}", said.err);
        assert_eq!(said.out, "", "{name}");
        let wrote = |on: &&String| !on.starts_with("GET") && !on.ends_with("/agent/ping");
        let seen =
            home.double.world(|world| world.seen.iter().map(|s| s.on.clone()).collect::<Vec<_>>());
        assert_eq!(seen[before..].iter().filter(wrote).count(), 0, "{name}: {seen:?}");
        assert_eq!(home.api.changes(), Vec::<String>::new(), "{name}");
        let err = said.err.replace(home.root().parent().unwrap().to_str().unwrap(), "PLACE");
        told.push(format!("## {name}: {}\n{err}", said.code));
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_fenced_node_is_off_and_its_pods_are_freed() {
    let home = Home::new();
    home.push("worker", 1);
    clone_by_hand(&home, "w1", 301);
    home.done(&["node", "enroll", "w1", "--watch"]);
    home.api.pod("web-1", "w1", Some("ReplicaSet"));
    home.api.pod("db-0", "w1", Some("StatefulSet"));
    home.api.pod("log", "w1", Some("DaemonSet"));
    home.api.pod("other", "w9", Some("ReplicaSet"));
    let said = home.done(&["node", "fence", "w1"]);
    assert_eq!(said.out, "apps/db-0\napps/web-1\n");
    assert_eq!(home.vms(), [(301, "w1".to_owned(), false)]);
    let node = home.api.node("w1").unwrap();
    assert_eq!(node["spec"]["unschedulable"], true);
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/out-of-service");
    let config = home.double.world(|world| world.vms[&301].config.clone());
    assert!(config["net0"].ends_with(",link_down=1"), "{config:?}");
    let status = home.run(&["status"]);
    assert_eq!(status.code, 3, "{}", status.out);
}

#[test]
fn status_shows_who_runs_what_and_ends_with_three_when_that_is_not_the_newest() {
    let home = Home::new();
    home.push("worker", 1);
    clone_by_hand(&home, "w1", 301);
    home.done(&["node", "enroll", "w1", "--watch"]);
    let before = home.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&before.out).unwrap();
    assert_eq!(json["nodes"][1]["current"], true);
    assert_eq!(json["nodes"][1]["state"], "healthy");
    home.push("worker", 2);
    let after = home.run(&["status"]);
    let age = regex::Regex::new(r" \d+s  ").unwrap();
    insta::assert_snapshot!(
        age.replace_all(&format!("{}\n{}---\n{}", after.code, after.out, after.err), " …s  ")
    );
    let page = home.root().join("status.html");
    let said = home.run(&["status", "--html", page.to_str().unwrap()]);
    assert_eq!(said.code, 3);
    let html = fs_err::read_to_string(page).unwrap();
    assert!(html.contains("N-1") && html.ends_with("</body></html>\n"));
}

#[test]
fn status_without_proxmox_or_cluster_says_so_and_is_not_sound() {
    let home = Home::new();
    home.api.store().away = true;
    let said = home.run(&["status"]);
    assert_eq!(said.code, 3);
    assert!(said.out.contains("note: the cluster's API does not answer"), "{}", said.out);
}

/// One question to Proxmox and two to the cluster, however many nodes there are.
#[test]
fn the_status_of_a_hundred_nodes_takes_three_calls() {
    // The list, the hosts, and each template's configuration.
    assert_eq!(status_of_a_hundred().0, 3, "calls to Proxmox");
}

#[test]
#[ignore = "a benchmark; `just bench-builder` runs it"]
fn bench_the_status_of_a_hundred_nodes_is_a_matter_of_a_second() {
    let (asked, took) = status_of_a_hundred();
    println!("bench: status of 100 nodes: {took:.2} s ({asked} calls to Proxmox)");
    assert!(took <= 1.0);
}

/// How often Proxmox is asked, and seconds.
fn status_of_a_hundred() -> (usize, f64) {
    let home = Home::new();
    home.push("worker", 1);
    clone_by_hand(&home, "w1", 301);
    let nodes = |n: u32| {
        let address = 120 + n;
        format!(
            "[[node]]\nname = \"x{n}\"\nprofile = \"worker\"\naddress = \"127.0.3.{address}\"\n\
             vmid = {}\nhost = \"pve1\"\n\n",
            400 + n
        )
    };
    let all: String = (1..=98).map(nodes).collect();
    home.edit("[[node]]\nname = \"w1\"", &format!("{all}[[node]]\nname = \"w1\""));
    home.double.world(|world| {
        for n in 1..=98 {
            let mut vm = world.vms[&301].clone();
            vm.config.insert("name".into(), format!("x{n}"));
            world.vms.insert(400 + n, vm);
            world.pools.get_mut("k3s").unwrap().insert(400 + n);
        }
    });
    let start = std::time::Instant::now();
    let before = home.double.world(|world| world.seen.len());
    let said = home.run(&["status", "--json"]);
    let took = start.elapsed();
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 100);
    let asked = home.double.world(|world| world.seen.len()) - before;
    (asked, took.as_secs_f64())
}
