//! Surroundings that are not as they should be, without a fault of a call: the way around, or back.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use builder::life::{Op, Operation, Outcome, history};

use crate::model::{Effect, Killed, Model};
use crate::setup::{cluster, request, second_is, verdict};
use crate::single::run;
use crate::state::{GOOD, State, Traits};

fn model(spoil: impl Fn(&mut State)) -> Model {
    let mut state = cluster(1, 2);
    spoil(&mut state);
    Model::new(state)
}

fn new_worker() -> BTreeMap<String, u64> {
    BTreeMap::from([("worker-0".to_owned(), 2)])
}

#[test]
fn a_number_that_somebody_else_takes_is_given_up() {
    let model = model(|s| s.races = 2);
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    assert_eq!(journal.given_up.into_iter().collect::<Vec<_>>(), [1000, 1001]);
    let foreign = model.state().machines.values().filter(|m| m.name == "somebody").count();
    assert_eq!(foreign, 2, "they are left alone");
    model.state().machines.retain(|_, m| m.name != "somebody");
    verdict(&model, &new_worker(), None).unwrap();
}

/// No token can remove it: the operator is told how, and the node gets another number.
#[test]
fn a_copy_that_was_cut_off_is_told_and_left() {
    let model = model(|s| s.cut_off = true);
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    assert!(
        journal.notes[0].contains("`qm unlock 1000 && qm destroy 1000` as root on pve1"),
        "{:?}",
        journal.notes
    );
    assert!(model.state().machines.remove(&1000).unwrap().stuck);
    verdict(&model, &new_worker(), None).unwrap();
}

#[test]
fn a_guest_without_an_agent_gets_its_secret_by_a_drive_which_goes() {
    let model = model(|s| s.agents = false);
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    verdict(&model, &new_worker(), None).unwrap();
    assert!(!serde_json::to_string(&journal).unwrap().contains("K10"));
}

#[test]
fn a_guest_that_does_not_end_is_cut_off() {
    let model = model(|s| {
        s.traits.insert(crate::setup::image("worker", 1), Traits { obeys: false, ..GOOD });
    });
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    assert!(journal.notes[0].contains("was cut off"), "{:?}", journal.notes);
    verdict(&model, &new_worker(), None).unwrap();
}

/// A budget that never lets go: the node stays, and the image is not to blame.
#[test]
fn a_drain_that_is_held_goes_back_and_by_force_goes_on() {
    let model = model(|s| s.evictable = false);
    let mut wanted = request(Operation::Rebuild, "worker-0");
    let journal = run(&model, &wanted);
    assert_eq!(journal.outcome, Some(Outcome::WentBack), "{journal:#?}");
    let cause = journal.cause.as_deref().unwrap();
    assert!(cause.contains("drain: default/web-0: a disruption budget holds it"), "{cause}");
    assert!(history::all_bad(&model).unwrap().is_empty());
    assert_eq!(model.state().machines[&202].boot, 1, "it was not even turned off");
    verdict(&model, &BTreeMap::new(), None).unwrap();
    wanted.options.drain.force = true;
    assert_eq!(run(&model, &wanted).outcome, Some(Outcome::Done));
    verdict(&model, &new_worker(), None).unwrap();
}

#[test]
fn what_was_cordoned_stays_so() {
    let model = model(|s| {
        s.db.as_mut().unwrap().nodes.get_mut("worker-0").unwrap().cordoned = true;
        s.expected.remove("worker-0");
    });
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    assert!(model.state().db.as_ref().unwrap().nodes["worker-0"].cordoned);
}

/// A broken node is repaired by a rebuild; if that fails too, nobody waits for it.
#[test]
fn a_dead_node_is_rebuilt() {
    let dead = |s: &mut State| {
        s.power_off(201);
        s.advance(Duration::from_mins(3));
        s.allowed = 2;
        s.expected.remove("worker-0");
    };
    let model = model(dead);
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::Done), "{journal:#?}");
    verdict(&model, &new_worker(), None).unwrap();
    let model = self::model(|s| {
        dead(s);
        second_is(s, Traits { ready: false, ..GOOD });
    });
    let journal = run(&model, &request(Operation::Rebuild, "worker-0"));
    assert_eq!(journal.outcome, Some(Outcome::WentBack), "{journal:#?}");
    assert_eq!(journal.notes, ["the node was not Ready before either"]);
}

/// The number that is taken instead is on disk before anything is made under it.
#[test]
fn a_builder_killed_after_a_lost_number_finds_its_copy() {
    let raced = || model(|s| s.races = 1);
    let sound = raced();
    run(&sound, &request(Operation::Rebuild, "worker-0"));
    let made = sound.tape.lock().unwrap().made.clone();
    let clones: Vec<_> = (0..made.len()).filter(|n| made[*n].name == "clone").collect();
    for effect in [Effect::KilledWithin, Effect::KilledAfter] {
        let model = raced();
        model.tape.lock().unwrap().faults.push((clones[1], effect));
        let first = || run(&model, &request(Operation::Rebuild, "worker-0"));
        let end = catch_unwind(AssertUnwindSafe(first));
        assert!(end.is_err_and(|payload| payload.is::<Killed>()));
        let left = history::unfinished(&model).unwrap().remove(0);
        let mut op = Op::new(model.world(), left);
        op.run().unwrap();
        assert_eq!(op.journal().outcome, Some(Outcome::Done), "{:#?}", op.journal());
        verdict(&model, &new_worker(), None).unwrap();
    }
}
