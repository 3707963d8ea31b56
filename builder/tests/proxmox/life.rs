//! `builder node create|rebuild|rollback|delete` and `builder rollout`: the built program in a whole home.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use crate::home::{Home, assert_clean, image_of, uid, with_server};

/// And w1, made of image 1; that image's id.
fn with_worker() -> (Home, String) {
    let home = Home::new();
    with_server(&home);
    let first = home.push("worker", 1);
    home.done(&["node", "create", "w1"]);
    (home, first)
}

/// VMs of w1.
fn vms(home: &Home) -> Vec<(u32, bool)> {
    let vms = home.vms().into_iter().filter(|(_, name, _)| name == "w1");
    vms.map(|(id, _, runs)| (id, runs)).collect()
}

#[test]
fn a_worker_is_made_rebuilt_rolled_back_and_removed() {
    let (home, first) = with_worker();
    assert_eq!(vms(&home), [(201, true)]);
    assert_eq!(image_of(&home, "w1"), first);
    let config = home.double.world(|world| world.vms[&201].config.clone());
    assert_eq!(config["onboot"], "1");
    assert!(config["ipconfig0"].starts_with("ip=127.0.3.21/24"), "{config:?}");
    let card = config["net0"].clone();
    assert_clean(&home);

    let second = home.push("worker", 2);
    home.api.pod("web", "w1", Some("ReplicaSet"));
    let before = uid(&home, "w1");
    home.done(&["node", "rebuild", "w1"]);
    assert_eq!(vms(&home), [(8000, true)]);
    assert_eq!(image_of(&home, "w1"), second);
    assert_ne!(uid(&home, "w1"), before);
    let config = home.double.world(|world| world.vms[&8000].config.clone());
    assert_eq!(config["net0"], card, "the card is the node's");
    let node = home.api.node("w1").unwrap();
    assert!(node["spec"]["unschedulable"].is_null(), "{node}");
    assert!(home.api.changes().iter().any(|c| c.ends_with("/pods/web/eviction")));
    assert_clean(&home);

    let said = home.done(&["node", "rollback", "w1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((json["outcome"].as_str(), json["vm"].as_u64()), (Some("done"), Some(201)));
    assert_eq!(image_of(&home, "w1"), first);
    assert_clean(&home);

    home.done(&["node", "delete", "w1"]);
    assert_eq!(vms(&home), []);
    assert!(home.api.node("w1").is_none());
    assert_clean(&home);
    let history = home.done(&["history", "--json"]);
    let lines: Vec<serde_json::Value> = serde_json::from_str(&history.out).unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|l| format!("{} {} {} -> {}", l["what"], l["outcome"], l["from"], l["to"]))
        .map(|line| line.replace('"', "").replace(&first, "FIRST").replace(&second, "SECOND"))
        .map(|line| line.replace(&image_of(&home, "m1"), "MASTER"))
        .collect();
    assert_eq!(
        told,
        [
            "create done null -> MASTER",
            "create done null -> FIRST",
            "rebuild done FIRST -> SECOND",
            "rollback done SECOND -> FIRST",
            "delete done FIRST -> null"
        ]
    );
    assert!(lines.iter().all(|l| l["who"].as_str().unwrap().starts_with("me@")));
    let page = home.root().join("status.html");
    home.run(&["status", "--html", page.to_str().unwrap()]);
    assert_eq!(fs_err::read_to_string(&page).unwrap().matches("<rect").count(), 5);
    assert_clean(&home);
}

#[test]
fn a_bad_image_goes_back_by_itself_and_is_never_placed_again() {
    let (home, first) = with_worker();
    let bad = home.push("worker", 2);
    home.spoilt.lock().unwrap().bad.insert(bad.clone());
    let said = home.run(&["node", "rebuild", "w1"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("the node is as it was before"), "{}", said.err);
    home.until("the old one", |home| home.is_ready("w1"));
    assert_eq!((vms(&home), image_of(&home, "w1")), (vec![(201, true)], first));
    let tagged = home.double.world(|world| {
        let mut tags = world.vms.values().filter(|vm| vm.is_template()).map(|vm| vm.get("tags"));
        tags.any(|tags| tags.is_some_and(|t| t.contains(&bad) && t.contains("quarantined")))
    });
    assert!(tagged, "other machines would push or place it");
    assert_clean(&home);
    let again = home.run(&["node", "rebuild", "w1", "--image", &bad]);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("is quarantined"), "{}", again.err);
    let rollout = home.done(&["rollout", "--dry-run"]);
    assert!(rollout.err.contains("nothing to do"), "{}", rollout.err);
    let history = home.done(&["history"]);
    assert!(history.out.contains("went-back"), "{}", history.out);
}

/// Killed at the first, the third, … change in Proxmox, and gone on with.
#[test]
fn a_killed_rebuild_is_gone_on_with() {
    for count in [1, 3, 5] {
        let (home, _) = with_worker();
        let second = home.push("worker", 2);
        let before = home.double.world(|world| world.seen.len());
        let changed = |home: &Home| {
            home.double.world(|world| {
                let seen = world.seen[before..].iter();
                seen.filter(|s| !s.on.starts_with("GET") && !s.on.ends_with("/ping")).count()
            })
        };
        let mut child = home.start(&["node", "rebuild", "w1"]);
        home.until("a change", |home| changed(home) >= count);
        child.kill().unwrap();
        child.wait().unwrap();
        let other = home.run(&["node", "delete", "w1"]);
        assert!(other.err.contains("rebuild w1 --resume"), "{count}: {}", other.err);
        home.done(&["node", "rebuild", "w1", "--resume"]);
        assert_eq!(image_of(&home, "w1"), second, "{count}");
        assert_eq!(vms(&home).len(), 1, "{count}");
        assert_clean(&home);
    }
}

#[test]
fn a_rebuild_that_was_cut_off_is_ended_by_abort() {
    let (home, first) = with_worker();
    home.push("worker", 2);
    let mut child = home.start(&["node", "rebuild", "w1"]);
    home.until("the clone", |home| vms(home).len() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = home.run(&["node", "rebuild", "w1", "--abort"]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("the node is as it was before: aborted"), "{}", said.err);
    home.until("the old one", |home| home.is_ready("w1"));
    assert_eq!((vms(&home), image_of(&home, "w1")), (vec![(201, true)], first));
    assert_clean(&home);
}

/// Answers every request, and keeps them.
fn listen() -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/nodes", listener.local_addr().unwrap().port());
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let (mut asked, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                asked.extend(&buffer[..n]);
            }
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            let _ = send.send(String::from_utf8(asked).unwrap()); // the test may have ended
        }
    });
    (url, receive)
}

#[test]
fn a_rollout_asks_its_gates_tells_people_and_then_has_nothing_to_do() {
    let (home, _) = with_worker();
    let second = home.push("worker", 2);
    let (url, told) = listen();
    let gate = home.root().join("gates/web");
    fs_err::create_dir_all(gate.parent().unwrap()).unwrap();
    // Good at the third time.
    let script = "#!/bin/sh\necho $1 >>\"$0.asked\"\n[ $(wc -l <\"$0.asked\") -ge 3 ]\n";
    fs_err::write(&gate, script).unwrap();
    fs_err::set_permissions(&gate, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let more =
        format!("[rollout]\ngates = [\"gates/web\"]\n\n[notify]\nntfy = \"{url}\"\n\n[proxmox]");
    home.edit("[proxmox]", &more);
    let plan = home.done(&["rollout", "--dry-run"]);
    assert!(plan.out.starts_with("w1  worker-") && plan.out.contains("waits"), "{}", plan.out);
    let said = home.done(&["rollout", "--canary", "w1"]);
    assert!(said.err.contains("the rollout is done"), "{}", said.err);
    assert_eq!(image_of(&home, "w1"), second);
    let asked = fs_err::read_to_string(gate.with_extension("asked")).unwrap();
    assert_eq!(asked, "w1\nw1\nw1\n");
    let message = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(message.contains("lab: rollout done, 1 nodes"), "{message}");
    assert_clean(&home);
    let again = home.done(&["rollout"]);
    assert!(again.err.contains("nothing to do"), "{}", again.err);
}

#[test]
fn a_rollout_of_a_bad_image_stops_and_says_so() {
    let (home, first) = with_worker();
    let bad = home.push("worker", 2);
    home.spoilt.lock().unwrap().bad.insert(bad);
    let (url, told) = listen();
    home.edit("[proxmox]", &format!("[notify]\nntfy = \"{url}\"\n\n[proxmox]"));
    let said = home.run(&["rollout", "--json"]);
    assert_eq!(said.code, 1);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (json["outcome"].as_str(), json["nodes"][0]["state"].as_str()),
        (Some("stopped"), Some("went-back"))
    );
    let message = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(message.contains("rollout needs you"), "{message}");
    home.until("the old one", |home| home.is_ready("w1"));
    assert_eq!(image_of(&home, "w1"), first);
}

#[test]
fn the_only_server_is_made_and_rebuilt_by_way_of_a_snapshot() {
    let home = Home::new();
    let first = home.push("master", 1);
    // No cluster answers yet.
    home.api.store().away = true;
    let said = home.done(&["node", "create", "m1", "--bootstrap"]);
    assert_eq!(said.out, "pve1 200\n");
    home.until("m1 Ready", |home| home.is_ready("m1"));
    assert_eq!(image_of(&home, "m1"), first);
    let uid_before = uid(&home, "m1");
    let second = home.push("master", 2);
    home.done(&["node", "rebuild", "m1"]);
    assert_eq!(image_of(&home, "m1"), second);
    assert_eq!(uid(&home, "m1"), uid_before, "the Node of a sole server is not deleted");
    assert_eq!(home.vms().len(), 1);
    let node = home.api.node("m1").unwrap();
    let marks = &node["metadata"]["annotations"];
    let nonce = marks["node.homelab/snapshot-request"].as_str().unwrap();
    assert!(marks["node.homelab/snapshot-done"].as_str().unwrap().starts_with(nonce));
    assert_clean(&home);
    let refused = home.run(&["node", "delete", "m1"]);
    assert!(refused.err.contains("without it there is no cluster"), "{}", refused.err);
    let agent = home.run(&["node", "create", "w1", "--bootstrap"]);
    assert!(agent.err.contains("w1 is an agent"), "{}", agent.err);
}

/// The history has it as one operation, whoever ended it.
#[test]
fn the_first_server_that_was_cut_off_is_gone_on_with_or_found_done() {
    for by_hand in [false, true] {
        let home = Home::new();
        assert!(home.done(&["history"]).err.contains("nothing was done yet"), "says so");
        assert_eq!(home.done(&["history", "--json"]).out, "[]\n");
        home.push("master", 1);
        home.api.store().away = true;
        let mut child = home.start(&["node", "create", "m1", "--bootstrap"]);
        home.until("the clone", |home| !home.vms().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        let open = home.done(&["history"]);
        assert!(open.out.contains("m1") && open.out.contains("open"), "{}", open.out);
        if by_hand {
            home.until("the whole clone", |home| {
                home.double.world(|world| world.vms[&200].get("lock").is_none())
            });
            let run = pve_double::Run { agent_at: Some(0), ..pve_double::Run::default() };
            home.double.world(|world| world.vms.get_mut(&200).unwrap().run = Some(run));
            home.done(&["node", "enroll", "m1", "--bootstrap", "--watch"]);
        }
        home.done(&["node", "create", "m1", "--bootstrap"]);
        home.until("m1 Ready", |home| home.is_ready("m1"));
        let lines: Vec<serde_json::Value> =
            serde_json::from_str(&home.done(&["history", "--json"]).out).unwrap();
        assert_eq!((lines.len(), lines[0]["outcome"].as_str()), (1, Some("done")), "{lines:?}");
        let again = home.run(&["node", "create", "m1", "--bootstrap"]);
        assert!(again.err.contains("there is a cluster already"), "{}", again.err);
        let unknown = home.run(&["history", "--node", "w7"]);
        assert_eq!(unknown.code, 2, "{}", unknown.err);
    }
}
