//! The way back under faults: an image that is bad, and the builder killed, or a call failing, anywhere
//! on the way there and back; and an operator who aborts after any call.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use builder::life::{Journal, Op, Operation, Outcome, begin, history};

use crate::model::{Effect, Killed, Model};
use crate::sample;
use crate::setup::{cluster, image, request, second_is, verdict};
use crate::state::{GOOD, Traits};
use crate::sweep::effects;

/// Servers, agents, and the node.
type Site = (usize, usize, &'static str);

const SITES: [Site; 3] = [(1, 2, "worker-0"), (3, 1, "master-1"), (1, 1, "master-0")];

/// Goes on with what is open, or begins a rebuild to image 2.
fn run(model: &Model, node: &str) -> anyhow::Result<Journal> {
    let world = model.world();
    let mut wanted = request(Operation::Rebuild, node);
    wanted.to = Some(image(node.split('-').next().unwrap(), 2));
    let open = history::unfinished(model)?.pop();
    let journal = open.map_or_else(|| begin(&world, &wanted), Ok)?;
    let mut op = Op::new(world, journal);
    op.run()?;
    Ok(op.journal().clone())
}

/// Runs; `None` when it was killed, or could not write or begin: then an hour passes.
fn survive(model: &Model, node: &str) -> Option<Journal> {
    match catch_unwind(AssertUnwindSafe(|| run(model, node))) {
        Ok(Ok(journal)) => Some(journal),
        Ok(Err(_)) => {
            model.state().advance(Duration::from_hours(1));
            None
        }
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

fn model(site: Site, traits: Traits) -> Model {
    let mut state = cluster(site.0, site.1);
    second_is(&mut state, traits);
    Model::new(state)
}

/// Until the image is known to be bad and the old node serves.
fn returns(site: Site, traits: Traits, at: usize, effect: Effect) -> Result<(), String> {
    let model = model(site, traits);
    model.tape.lock().unwrap().faults.push((at, effect));
    for _ in 0..8 {
        let journal = survive(&model, site.2);
        let hour = if journal.is_some() { Duration::from_hours(1) } else { Duration::ZERO };
        model.state().advance(hour);
        let Some(journal) = journal else { continue };
        if journal.asks.as_ref().is_some_and(|asks| asks.contains("--accept-loss")) {
            // After a gap nobody can know what was written: the operator says.
            model.state().may_lose = true;
            let mut op = Op::new(model.world(), journal);
            op.abort(true).map_err(|e| e.to_string())?;
            op.run().map_err(|e| e.to_string())?;
        }
        let profile = site.2.split('-').next().unwrap();
        let known = history::bad(&model, &image(profile, 2)).unwrap();
        if known.is_some() && history::unfinished(&model).unwrap().is_empty() {
            return verdict(&model, &BTreeMap::new(), None);
        }
    }
    Err("it never ends".to_owned())
}

#[test]
fn the_old_node_comes_back_whatever_happens_on_the_way() {
    let (mut failures, mut ran, mut all) = (Vec::new(), 0, 0);
    let bad = [Traits { k3s: false, ..GOOD }, Traits { healthy: false, ..GOOD }];
    for (site, traits) in SITES.into_iter().flat_map(|site| bad.map(|traits| (site, traits))) {
        let sound = model(site, traits);
        survive(&sound, site.2).unwrap();
        let made = sound.tape.lock().unwrap().made.clone();
        // A wait of minutes asks the same again and again: what is near a change will do.
        let near = |n: &usize| {
            let range = n.saturating_sub(3)..(n + 4).min(made.len());
            made[range].iter().any(|other| other.changes)
        };
        let edges: Vec<_> = (0..made.len()).filter(near).collect();
        let cases: Vec<_> =
            edges.iter().flat_map(|n| effects(&made[*n]).into_iter().map(|e| (*n, e))).collect();
        all += cases.len();
        let name = format!("return of {} from {traits:?}", site.2);
        for n in sample::chosen(&name, cases.len(), 8) {
            ran += 1;
            let (at, effect) = cases[n];
            if let Err(e) = returns(site, traits, at, effect) {
                failures.push(format!("{name}, call {at} {}, {effect:?}: {e}", made[at].name));
            }
        }
    }
    println!("{ran} of {all} faults and kills on the way back");
    let first: Vec<_> = failures.iter().take(8).cloned().collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), first.join("\n"));
}

/// Killed after a call, then aborted: the node is as before, or it is proven and goes on.
fn aborted(site: Site, at: usize, effect: Effect) -> Result<bool, String> {
    let model = model(site, GOOD);
    model.tape.lock().unwrap().faults.push((at, effect));
    if survive(&model, site.2).is_some() {
        return Err("it was not killed".to_owned());
    }
    let Some(journal) = history::unfinished(&model).unwrap().pop() else { return Ok(false) };
    model.state().may_lose = true;
    let mut op = Op::new(model.world(), journal);
    let goes_back = op.abort(true).is_ok();
    op.run().map_err(|e| e.to_string())?;
    let wanted = if goes_back { Outcome::WentBack } else { Outcome::Done };
    if op.journal().outcome != Some(wanted) {
        return Err(format!("{:#?}", op.journal()));
    }
    let images = BTreeMap::from([(site.2.to_owned(), if goes_back { 1 } else { 2 })]);
    verdict(&model, &images, None).map(|()| goes_back)
}

#[test]
fn an_operator_may_abort_after_any_call() {
    let (mut failures, mut ran, mut all, mut back) = (Vec::new(), 0, 0, 0);
    for site in SITES {
        let sound = model(site, GOOD);
        survive(&sound, site.2).unwrap();
        let made = sound.tape.lock().unwrap().made.clone();
        let changes = (0..made.len()).filter(|n| made[*n].changes);
        let mut cases: Vec<_> = changes.map(|n| (n, Effect::KilledAfter)).collect();
        let slow = (0..made.len()).filter(|n| made[*n].slow);
        cases.extend(slow.map(|n| (n, Effect::KilledWithin)));
        all += cases.len();
        for n in sample::chosen(&format!("abort of {}", site.2), cases.len(), 8) {
            ran += 1;
            let (at, effect) = cases[n];
            match aborted(site, at, effect) {
                Ok(went) => back += usize::from(went),
                Err(e) => failures.push(format!("{}, call {at}, {effect:?}: {e}", site.2)),
            }
        }
    }
    println!("{ran} of {all} kills with an abort, of which {back} went back");
    let first: Vec<_> = failures.iter().take(8).cloned().collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), first.join("\n"));
}

/// A copy that is under way is in no pool, and its VM is not seen: it is waited for, and then removed.
#[test]
fn a_copy_that_is_not_seen_yet_is_not_forgotten() {
    for site in SITES {
        let sound = model(site, GOOD);
        survive(&sound, site.2).unwrap();
        let at = sound.tape.lock().unwrap().made.iter().position(|made| made.slow).unwrap();
        assert_eq!(aborted(site, at, Effect::KilledWithin), Ok(true), "{}", site.2);
    }
}

/// A server that came up, took writes and died while no builder watched: it cannot be told from one that
/// never came up, so the operator is asked.
#[test]
fn what_nobody_watched_is_not_taken_for_nothing() {
    let site = (1, 1, "master-0");
    let sound = model(site, GOOD);
    survive(&sound, site.2).unwrap();
    let made = sound.tape.lock().unwrap().made.clone();
    let given = made.iter().position(|made| made.name == "deliver").unwrap();
    let away = Effect::Away(10);
    for (effect, at) in [(Effect::KilledAfter, given), (away, given + 2)] {
        let model = model(site, GOOD);
        model.tape.lock().unwrap().faults.push((at, effect));
        let world = model.world();
        let killed = effect != away && survive(&model, site.2).is_none();
        let journal = if killed {
            model.state().advance(Duration::from_mins(10));
            history::unfinished(&model).unwrap().remove(0)
        } else {
            begin(&world, &request(Operation::Rebuild, site.2)).unwrap()
        };
        let mut op = Op::new(world, journal);
        while !killed && model.tape.lock().unwrap().made.len() < at + 40 {
            if let builder::life::Tick::Wait(time) = op.tick().unwrap() {
                model.state().advance(time);
            }
        }
        second_is(&mut model.state(), Traits { k3s: false, ..GOOD });
        op.run().unwrap();
        let asks = op.journal().asks.clone();
        assert!(asks.is_some_and(|asks| asks.contains("was not watched")), "{:#?}", op.journal());
        assert!(model.state().violations.is_empty());
    }
}
