//! `builder quarantine`: a bad image is listed, cleared and named, by the built program in a whole home.

use crate::home::{Home, assert_clean, image_of, with_server};

/// How many templates carry the tag.
fn tagged(home: &Home, image: &str) -> usize {
    home.double.world(|world| {
        let tags = world.vms.values().filter(|vm| vm.is_template()).filter_map(|vm| vm.get("tags"));
        tags.filter(|tags| tags.contains(image) && tags.contains("quarantined")).count()
    })
}

/// w1 with image 1, and image 2 pushed; both ids.
fn with_two_images() -> (Home, String, String) {
    let home = Home::new();
    with_server(&home);
    let first = home.push("worker", 1);
    home.done(&["node", "create", "w1"]);
    let second = home.push("worker", 2);
    (home, first, second)
}

/// A fault of the surroundings that looks like the image's: afterwards the same image is rolled out.
#[test]
fn an_image_that_was_not_to_blame_is_cleared_and_rolled_out() {
    let (home, first, second) = with_two_images();
    home.spoilt.lock().unwrap().bad.insert(second.clone());
    assert_eq!(home.run(&["rollout"]).code, 1);
    home.until("the old one", |home| home.is_ready("w1"));
    let nothing = home.done(&["rollout"]);
    let words = format!("{second} is newer and quarantined");
    assert!(nothing.err.contains(&words), "{}", nothing.err);
    let status = home.run(&["status"]);
    assert!(status.out.contains(&words), "{}", status.out);
    let list = home.done(&["quarantine", "ls"]);
    assert!(list.out.contains("template 9002 on pve1"), "{}", list.out);
    assert!(list.out.contains("on w1, ready: it has not registered"), "{}", list.out);
    let json: serde_json::Value =
        serde_json::from_str(&home.done(&["quarantine", "ls", "--json"]).out).unwrap();
    assert_eq!(json[&second]["templates"].as_array().unwrap().len(), 1);

    let wrong = home.run(&["quarantine", "lift", &first]);
    assert_eq!(wrong.code, 1);
    let words = format!("{first} is not quarantined; those that are: {second}");
    assert!(wrong.err.contains(&words), "{}", wrong.err);
    home.spoilt.lock().unwrap().bad.clear();
    home.done(&["quarantine", "lift", &second]);
    assert_eq!(tagged(&home, &second), 0);
    assert!(home.done(&["quarantine", "ls"]).err.contains("no image is quarantined"));
    home.done(&["rollout"]);
    assert_eq!(image_of(&home, "w1"), second);
    assert_clean(&home);
    // What showed once is still known, and by whom it was cleared.
    let record = home.kept().into_iter().find(|(path, _)| path.ends_with(format!("{second}.json")));
    let record = record.unwrap().1;
    assert!(record.contains("\"lifted\"") && record.contains("\"who\": \"me@"), "{record}");
}

#[test]
fn an_image_that_a_person_names_is_not_placed_and_another_machine_sees_why_not() {
    let (home, first, second) = with_two_images();
    let typo = home.run(&["quarantine", "add", "worker-000000000000", "--reason", "x"]);
    assert_eq!(typo.code, 1);
    assert!(typo.err.contains("worker-000000000000 is no template"), "{}", typo.err);
    home.done(&["quarantine", "add", &second, "--reason", "DNS is slow"]);
    let refused = home.run(&["node", "rebuild", "w1", "--image", &second]);
    assert!(refused.err.contains("is quarantined: DNS is slow (me@"), "{}", refused.err);
    assert!(
        refused.err.contains(&format!("`builder quarantine lift {second}`")),
        "{}",
        refused.err
    );
    assert!(home.done(&["rollout", "--dry-run"]).err.contains("nothing to do"));
    assert_eq!(image_of(&home, "w1"), first);
    // Another machine has the tag alone.
    home.forget_state();
    let list = home.done(&["quarantine", "ls"]);
    assert!(list.out.contains("tagged, template"), "{}", list.out);
    let refused = home.run(&["node", "rebuild", "w1", "--image", &second]);
    assert!(refused.err.contains("is quarantined: by a tag"), "{}", refused.err);
    let pushed = home.run(&["push", "--profile", "worker"]);
    assert!(pushed.err.contains("is quarantined"), "{}", pushed.err);
    home.done(&["quarantine", "lift", &second]);
    home.done(&["node", "rebuild", "w1"]);
    assert_eq!(image_of(&home, "w1"), second);
}
