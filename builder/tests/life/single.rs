//! Operations without a fault of the builder: the way forward, and what stands in it.

use std::collections::BTreeMap;

use builder::life::{Journal, Op, Operation, Outcome, Request, begin, history};

use crate::model::Model;
use crate::setup::{cluster, image, request, second_is, verdict};
use crate::state::{GOOD, State, Traits};

/// Begins it and runs it once.
pub fn run(model: &Model, request: &Request) -> Journal {
    let world = model.world();
    let journal = begin(&world, request).unwrap();
    let mut op = Op::new(world, journal);
    op.run().unwrap();
    op.journal().clone()
}

fn images(name: &str, n: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(name.to_owned(), n)])
}

#[test]
fn nodes_of_every_kind_are_rebuilt() {
    for (servers, agents, node) in [(1, 2, "worker-0"), (1, 2, "master-0"), (3, 1, "master-1")] {
        let model = Model::new(cluster(servers, agents));
        let journal = run(&model, &request(Operation::Rebuild, node));
        assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
        verdict(&model, &images(node, 2), None)
            .unwrap_or_else(|e| panic!("{node}: {e}\n{journal:#?}"));
        let steps: Vec<_> = journal.steps.iter().map(|t| t.step.as_str()).collect();
        println!("{node}: {} calls: {}", model.tape.lock().unwrap().made.len(), steps.join(" "));
        // And back again, by the history.
        let journal = run(&model, &request(Operation::Rollback, node));
        assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
        verdict(&model, &images(node, 1), None).unwrap();
    }
}

#[test]
fn nodes_are_deleted_and_made_again() {
    for (servers, agents, node) in [(1, 2, "worker-1"), (3, 0, "master-2")] {
        let model = Model::new(cluster(servers, agents));
        model.state().expected.remove(node);
        let journal = run(&model, &request(Operation::Delete, node));
        assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
        verdict(&model, &BTreeMap::new(), Some(node)).unwrap();
        let journal = run(&model, &request(Operation::Create, node));
        assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
        verdict(&model, &images(node, 2), None).unwrap();
    }
}

/// An image that is bad in one way: the old VM comes back by itself, and the image is not placed again.
#[test]
fn a_bad_image_goes_and_the_old_node_comes_back() {
    let bad = [
        Traits { boots: false, ..GOOD },
        Traits { k3s: false, ..GOOD },
        Traits { ready: false, ..GOOD },
        Traits { healthy: false, ..GOOD },
    ];
    for (servers, agents, node) in [(1, 2, "worker-0"), (3, 1, "master-1"), (1, 1, "master-0")] {
        for traits in bad {
            let mut state = cluster(servers, agents);
            second_is(&mut state, traits);
            let model = Model::new(state);
            let journal = run(&model, &request(Operation::Rebuild, node));
            let what = format!("{node} {traits:?}: {journal:#?}");
            let answers = traits.boots && traits.k3s;
            if node == "master-0" && servers == 1 && answers {
                let asks = journal.asks.as_deref().unwrap_or_else(|| panic!("{what}"));
                assert!(asks.contains("--abort --accept-loss") && asks.contains("save-"), "{asks}");
                asked(&model);
            } else {
                assert_eq!(journal.outcome, Some(Outcome::WentBack), "{what}");
            }
            verdict(&model, &BTreeMap::new(), None).unwrap_or_else(|e| panic!("{e}\n{what}"));
            let profile = node.split('-').next().unwrap();
            let known =
                history::bad(&model, &image(profile, 2)).unwrap().expect("it is quarantined");
            assert_eq!(known.node.unwrap().as_str(), node);
            assert!(model.state().templates.iter().any(|t| t.quarantined), "{what}");
            let mut again = request(Operation::Rebuild, node);
            again.to = Some(image(profile, 2));
            let refused = run(&model, &again);
            assert_eq!(refused.outcome, Some(Outcome::Refused));
            assert!(
                refused.cause.as_ref().unwrap().contains("is quarantined"),
                "{:?}",
                refused.cause
            );
        }
    }
}

/// A sole server that has answered goes back only with a word.
fn asked(model: &Model) {
    let left = history::unfinished(model).unwrap().remove(0);
    let mut op = Op::new(model.world(), left);
    let text = op.abort(false).unwrap_err().to_string();
    assert!(text.contains("is lost"), "{text}");
    model.state().may_lose = true;
    op.abort(true).unwrap();
    op.run().unwrap();
    assert_eq!(op.journal().outcome, Some(Outcome::WentBack), "{:#?}", op.journal());
}

fn second_has(s: &mut State, k3s: &str) {
    s.templates.iter_mut().filter(|t| t.made == 2).for_each(|t| t.k3s = Some(k3s.to_owned()));
}

/// What stops an operation before anything is changed, with its words.
#[test]
fn what_must_not_be_touched_is_not_touched() {
    type Spoil = fn(&mut State);
    let cases: [(Operation, &str, Spoil, &str); 7] = [
        (
            Operation::Rebuild,
            "worker-0",
            |s| drop(s.local.insert("worker-0".into(), "data/pg".into())),
            "data/pg",
        ),
        (
            Operation::Rebuild,
            "worker-0",
            |s| s.snapshots = false,
            "has not answered for a snapshot",
        ),
        (Operation::Rebuild, "worker-0", |s| s.power_off(204), "worker-1 is out of service"),
        (Operation::Rebuild, "master-0", |s| s.power_off(201), "master-1 is out of service"),
        (Operation::Create, "worker-0", |_| (), "VM 203 on pve1 is there"),
        (
            Operation::Rebuild,
            "worker-0",
            |s| second_has(s, "v1.37.1-k3s1"),
            "newer than a server's",
        ),
        (
            Operation::Rebuild,
            "master-0",
            |s| second_has(s, "v1.35.1"),
            "older than what wrote the cluster's data",
        ),
    ];
    for (operation, node, spoil, words) in cases {
        let mut state = cluster(3, 2);
        spoil(&mut state);
        state.advance(std::time::Duration::from_mins(2));
        let before = format!("{:?}", state.machines.keys());
        let model = Model::new(state);
        let journal = run(&model, &request(operation, node));
        assert_eq!(journal.outcome, Some(Outcome::Refused), "{words}: {journal:#?}");
        assert!(journal.cause.as_ref().unwrap().contains(words), "{words}: {:?}", journal.cause);
        assert_eq!(format!("{:?}", model.state().machines.keys()), before);
        let made = model.tape.lock().unwrap().made.clone();
        let changes =
            made.iter().filter(|m| m.changes && m.name != "put" && m.name != "request_snapshot");
        assert_eq!(changes.count(), 0, "{words}");
    }
}

/// More may be out of service than one, but never so many servers that the rest has no majority.
#[test]
fn a_majority_of_the_servers_stays_whatever_is_allowed() {
    let mut state = cluster(3, 1);
    state.allowed = 2;
    state.power_off(201);
    state.advance(std::time::Duration::from_mins(2));
    let model = Model::new(state);
    let mut wanted = request(Operation::Rebuild, "master-0");
    wanted.options.max_unavailable = 2;
    let journal = run(&model, &wanted);
    let cause = journal.cause.as_deref().unwrap();
    assert_eq!(cause, "room: without master-0 only 1 of 3 servers vote, and etcd needs 2");
    assert_eq!(journal.outcome, Some(Outcome::Refused));
    // The one that is away can be rebuilt.
    let journal = run(&model, &request(Operation::Rebuild, "master-1"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    verdict(&model, &images("master-1", 2), None).unwrap();
}

/// What a snapshot brings back says Ready, and carries the image that is wanted: it is of before all the same.
#[test]
fn a_restored_node_is_not_taken_for_the_new_one() {
    let model = Model::new(cluster(1, 1));
    let mut wanted = request(Operation::Rebuild, "master-0");
    wanted.to = Some(image("master", 1));
    let journal = run(&model, &wanted);
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    let state = model.state();
    let own = &state.machines[&journal.new.unwrap().vmid];
    let boot = state.db.as_ref().unwrap().nodes["master-0"].boot_id.clone();
    assert_eq!(boot, format!("boot-{}-1", own.disk));
}
