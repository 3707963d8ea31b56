//! A cluster of three servers through the real commands: joined one by one, rebuilt by quorum, refused
//! without one.

use crate::home::{Home, assert_clean, image_of, know_the_ca, three_servers, uid, with_server};

/// m1, m2, m3, and w1 with image 1.
fn with_three() -> Home {
    let home = Home::new();
    three_servers(&home);
    with_server(&home);
    know_the_ca(&home);
    home.push("worker", 1);
    for name in ["m2", "m3", "w1"] {
        home.done(&["node", "create", name]);
        assert!(home.is_ready(name), "{name}");
    }
    home
}

/// Cuts the power behind everybody's back.
fn dies(home: &Home, name: &str) {
    home.double.world(|world| {
        let vm =
            world.vms.values_mut().find(|vm| !vm.is_template() && vm.get("name") == Some(name));
        vm.unwrap().run = None;
    });
    home.until("the Node is lost", |home| !home.is_ready(name));
}

/// How many servers were out of service at once while `work` ran, at most.
fn most_away(home: &Home, work: impl FnOnce() + Send) -> usize {
    let servers = ["m1", "m2", "m3"];
    let (mut most, done) = (0, std::sync::atomic::AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            work();
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            most = most.max(servers.iter().filter(|name| !home.is_ready(name)).count());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
    most
}

#[test]
fn servers_are_rolled_out_one_by_one_and_the_worker_before_them() {
    let home = with_three();
    let before = ["m1", "m2", "m3"].map(|name| uid(&home, name));
    let (master, worker) = (home.push("master", 2), home.push("worker", 2));
    let most = most_away(&home, || {
        home.done(&["rollout", "--max-unavailable", "2"]);
    });
    assert_eq!(most, 1, "servers out of service at once");
    for (name, before) in ["m1", "m2", "m3"].iter().zip(before) {
        assert_eq!(image_of(&home, name), master, "{name}");
        assert_ne!(uid(&home, name), before, "{name} joined anew, as its member was removed");
    }
    assert_eq!(image_of(&home, "w1"), worker);
    let order: Vec<serde_json::Value> =
        serde_json::from_str(&home.done(&["history", "--last", "4", "--json"]).out).unwrap();
    let order: Vec<_> = order.iter().map(|line| line["node"].as_str().unwrap()).collect();
    assert_eq!(order, ["w1", "m1", "m2", "m3"]);
    assert_eq!(home.vms().len(), 4);
    assert_clean(&home);
}

#[test]
fn without_a_majority_no_server_is_touched_and_the_dead_one_is_made_anew() {
    let home = with_three();
    let second = home.push("master", 2);
    dies(&home, "m3");
    let there = home.vms();
    let refused = home.run(&["node", "rebuild", "m2", "--max-unavailable", "2"]);
    assert_eq!(refused.code, 1);
    let words = "without m2 only 1 of 3 servers vote, and etcd needs 2";
    assert!(refused.err.contains(words), "{}", refused.err);
    assert_eq!(home.vms(), there, "nothing was changed");
    home.done(&["node", "rebuild", "m3"]);
    assert_eq!(image_of(&home, "m3"), second);
    home.done(&["node", "rebuild", "m2"]);
    home.done(&["node", "delete", "m2"]);
    assert!(home.api.node("m2").is_none());
    home.done(&["node", "create", "m2"]);
    assert!(home.is_ready("m2"));
    assert_clean(&home);
}
