//! The fault sweep: at every call of every operation each fault, and the builder killed before, after and
//! within it; then it goes on, and the world must be as if nothing had been.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::Result;
use builder::life::Operation::{self, Create, Delete, Rebuild, Rollback};
use builder::life::{End, Op, Outcome, Request, Run, Wish, begin, history, plan};

use crate::model::{Effect, Killed, Made, Model};
use crate::sample;
use crate::setup::{cluster, request, verdict};

/// What is wanted of the cluster.
#[derive(Debug, Clone)]
pub enum Wanted {
    Node(Request),
    All(Wish),
}

/// One row of the sweep.
struct Scenario {
    name: &'static str,
    servers: usize,
    agents: usize,
    wanted: Wanted,
    /// Before it begins.
    first: fn(&Model),
}

fn nothing(_: &Model) {}

fn scenarios() -> Vec<Scenario> {
    let node = |name, servers, agents, operation, node: &str, first| Scenario {
        name,
        servers,
        agents,
        wanted: Wanted::Node(request(operation, node)),
        first,
    };
    let all = |name, servers, agents, max_unavailable| {
        let mut wish = Wish { who: "operator@laptop".to_owned(), ..Wish::default() };
        wish.options.max_unavailable = max_unavailable;
        Scenario { name, servers, agents, wanted: Wanted::All(wish), first: nothing }
    };
    vec![
        node("rebuild of an agent", 1, 2, Rebuild, "worker-0", nothing),
        node("rebuild of a server", 3, 1, Rebuild, "master-1", nothing),
        node("rebuild with a number taken", 1, 2, Rebuild, "worker-0", |m| m.state().races = 1),
        node("rebuild of the sole server", 1, 1, Rebuild, "master-0", nothing),
        node("rollback of an agent", 1, 2, Rollback, "worker-0", |m| rebuilt(m, "worker-0")),
        node("rollback of a server", 3, 1, Rollback, "master-1", |m| rebuilt(m, "master-1")),
        node("rollback of the sole server", 1, 1, Rollback, "master-0", |m| rebuilt(m, "master-0")),
        node("delete of an agent", 1, 2, Delete, "worker-0", |m| leaves(m, "worker-0")),
        node("delete of a server", 3, 1, Delete, "master-1", |m| leaves(m, "master-1")),
        node("create of an agent", 1, 2, Create, "worker-0", |m| deleted(m, "worker-0")),
        node("create of a server", 3, 1, Create, "master-1", |m| deleted(m, "master-1")),
        all("rollout over three servers and two agents", 3, 2, 1),
        all("rollout over a server and three agents, two at once", 1, 3, 2),
    ]
}

fn rebuilt(model: &Model, node: &str) {
    run(model, &Wanted::Node(request(Operation::Rebuild, node))).unwrap();
}

fn leaves(model: &Model, node: &str) {
    model.state().expected.remove(node);
}

fn deleted(model: &Model, node: &str) {
    leaves(model, node);
    run(model, &Wanted::Node(request(Operation::Delete, node))).unwrap();
}

impl Scenario {
    fn model(&self) -> Model {
        let model = Model::new(cluster(self.servers, self.agents));
        (self.first)(&model);
        if let Wanted::All(wish) = &self.wanted {
            model.state().allowed = wish.options.max_unavailable;
        }
        model.tape.lock().unwrap().made.clear();
        model
    }

    fn node(&self) -> Option<(&str, Operation)> {
        match &self.wanted {
            Wanted::Node(request) => Some((request.node.as_str(), request.operation)),
            Wanted::All(_) => None,
        }
    }

    /// Image numbers before and after.
    fn images(&self, done: bool) -> BTreeMap<String, u64> {
        match (self.node(), done) {
            (Some((node, Operation::Rollback)), false) => BTreeMap::from([(node.to_owned(), 2)]),
            (Some((node, Operation::Rebuild | Operation::Create)), true) => {
                BTreeMap::from([(node.to_owned(), 2)])
            }
            _ => BTreeMap::new(),
        }
    }

    fn is_done(&self, model: &Model) -> bool {
        if let Some((_, operation)) = self.node() {
            let last = history::operations(model).unwrap().pop();
            return last
                .is_some_and(|j| j.operation == operation && j.outcome == Some(Outcome::Done));
        }
        let last = history::rollouts(model).unwrap().pop();
        last.is_some_and(|r| r.outcome == Some(End::Done))
    }

    fn check(&self, model: &Model) -> Result<(), String> {
        let open = history::unfinished(model).unwrap();
        if let Some(open) = open.first() {
            return Err(format!("not over: {open:#?}"));
        }
        let Some((node, operation)) = self.node() else { return check_rollouts(model) };
        let last = history::operations(model).unwrap().pop();
        let last = last.filter(|j| j.operation == operation);
        let done = last.is_some_and(|j| j.outcome == Some(Outcome::Done));
        let gone =
            (operation == Operation::Delete && done) || (operation == Operation::Create && !done);
        verdict(model, &self.images(done), gone.then_some(node))
    }
}

/// Each node has the image that its last operation ended with.
fn check_rollouts(model: &Model) -> Result<(), String> {
    let mut images = BTreeMap::new();
    for journal in history::operations(model).unwrap() {
        if journal.outcome == Some(Outcome::Done) {
            images.insert(journal.member.name.to_string(), 2);
        }
    }
    verdict(model, &images, None)
}

/// As a builder that is started: it goes on with what is there, or begins. Whether it ended as meant.
pub fn run(model: &Model, wanted: &Wanted) -> Result<bool> {
    let world = model.world();
    if let Some(rollout) = history::rollouts(model)?.into_iter().find(|r| r.outcome.is_none()) {
        let mut run = Run::new(world, rollout)?;
        run.run()?;
        return Ok(run.rollout().outcome == Some(End::Done));
    }
    if let Some(journal) = history::unfinished(model)?.pop() {
        let mut op = Op::new(world, journal);
        op.run()?;
        return Ok(op.journal().outcome == Some(Outcome::Done));
    }
    match wanted {
        Wanted::Node(request) => {
            let mut op = Op::new(world, begin(&world, request)?);
            op.run()?;
            Ok(op.journal().outcome == Some(Outcome::Done))
        }
        Wanted::All(wish) => {
            let mut run = Run::new(world, plan(&world, wish)?)?;
            run.run()?;
            Ok(run.rollout().outcome == Some(End::Done))
        }
    }
}

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    /// The first builder did it.
    AtOnce,
    /// A later one did it, from the journal.
    Resumed,
    /// It was refused or went back, and the next one did it.
    Again,
}

/// One case: the fault, then builders until nothing is open; then the invariants; then, where it was not
/// done, once more in a sound world.
fn suffer(scenario: &Scenario, at: usize, effect: Effect) -> Result<How, String> {
    let model = scenario.model();
    model.tape.lock().unwrap().faults.push((at, effect));
    let mut how = How::AtOnce;
    for _ in 0..6 {
        let end = catch_unwind(AssertUnwindSafe(|| run(&model, &scenario.wanted)));
        let killed = match &end {
            Err(payload) if payload.is::<Killed>() => true,
            Err(payload) => return Err(format!("the engine panics: {payload:?}")),
            Ok(_) => false,
        };
        let open = !history::unfinished(&model).unwrap().is_empty()
            || history::rollouts(&model).unwrap().iter().any(|r| r.outcome.is_none());
        if let Ok(Ok(done)) = end
            && !open
        {
            scenario.check(&model)?;
            if done {
                return Ok(how);
            }
            how = How::Again;
        } else if !open && scenario.is_done(&model) {
            // Killed when all was done and written.
            return scenario.check(&model).map(|()| how);
        } else if how != How::Again {
            how = How::Resumed;
        }
        // Somebody starts it again: at once after a kill, in an hour after what was told.
        if !killed {
            model.state().advance(Duration::from_hours(1));
        }
    }
    Err("it never ends well".to_owned())
}

/// Faults that make sense at a call.
pub fn effects(made: &Made) -> Vec<Effect> {
    let mut effects = vec![
        Effect::Lost,
        Effect::Refused,
        Effect::KilledBefore,
        Effect::Away(2),
        Effect::Away(45),
    ];
    if made.changes {
        effects.extend([Effect::Unheard, Effect::KilledAfter]);
    }
    if made.slow {
        effects.push(Effect::KilledWithin);
    }
    effects
}

/// Whether a fault is one that an operation must get over without going back.
fn passes(made: &Made, effect: Effect) -> bool {
    match effect {
        Effect::Lost => made.name != "put",
        Effect::Refused | Effect::Away(3..) => false,
        _ => true,
    }
}

/// All cases of a scenario.
fn cases(scenario: &Scenario) -> Vec<(usize, Made, Effect)> {
    let model = scenario.model();
    assert!(run(&model, &scenario.wanted).unwrap(), "{}", scenario.name);
    scenario.check(&model).unwrap_or_else(|e| panic!("{}: {e}", scenario.name));
    let made = model.tape.lock().unwrap().made.clone();
    let each = made.into_iter().enumerate();
    each.flat_map(|(at, made)| {
        effects(&made).into_iter().map(move |effect| (at, made.clone(), effect)).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn whatever_happens_at_whichever_call_it_ends_well() {
    let mut failures = Vec::new();
    let (mut ran, mut all) = (0, 0);
    for scenario in scenarios() {
        let cases = cases(&scenario);
        all += cases.len();
        let chosen = sample::chosen(scenario.name, cases.len(), 10);
        let mut counts: BTreeMap<How, usize> = BTreeMap::new();
        for (at, made, effect) in chosen.iter().map(|n| &cases[*n]) {
            ran += 1;
            let what = format!("{}, call {at} {}, {effect:?}", scenario.name, made.name);
            match suffer(&scenario, *at, *effect) {
                Ok(How::Again) if passes(made, *effect) => {
                    failures.push(format!("{what}: went back"));
                }
                Ok(how) => *counts.entry(how).or_default() += 1,
                Err(e) => failures.push(format!("{what}: {e}")),
            }
        }
        println!("{}: {} of {} cases: {counts:?}", scenario.name, chosen.len(), cases.len());
    }
    println!("{ran} of {all} faults and kills");
    let first: Vec<_> = failures.iter().take(12).cloned().collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), first.join("\n"));
}
