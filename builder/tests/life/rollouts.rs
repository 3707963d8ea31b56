//! Rollouts over random clusters, with random images, faults, kills and deaths of nodes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use builder::life::{End, Operation, Outcome, Rollout, Run, State as Row, Wish, history, plan};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::model::{Effect, Killed, Model};
use crate::sample;
use crate::setup::{cluster, image, request, second_is};
use crate::single::run;
use crate::state::{GOOD, Traits};

/// A case.
#[derive(Debug, Clone)]
struct Case {
    servers: usize,
    agents: usize,
    max_unavailable: usize,
    canary: Option<usize>,
    window: bool,
    bad_master: Option<Traits>,
    bad_worker: Option<Traits>,
    faults: Vec<(usize, Effect)>,
    death: Option<(usize, usize)>,
    abort: bool,
}

fn traits() -> impl Strategy<Value = Option<Traits>> {
    let bad = prop_oneof![
        Just(Traits { boots: false, ..GOOD }),
        Just(Traits { k3s: false, ..GOOD }),
        Just(Traits { ready: false, ..GOOD }),
        Just(Traits { healthy: false, ..GOOD }),
    ];
    prop_oneof![3 => Just(None), 1 => bad.prop_map(Some)]
}

fn effect() -> impl Strategy<Value = Effect> {
    prop_oneof![
        Just(Effect::Lost),
        Just(Effect::Unheard),
        Just(Effect::Refused),
        Just(Effect::KilledBefore),
        Just(Effect::KilledAfter),
        Just(Effect::KilledWithin),
        (1_u64..60).prop_map(Effect::Away),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (prop_oneof![Just(1_usize), Just(3), Just(5)], 0_usize..5, 1_usize..4);
    let how = (proptest::option::of(0_usize..5), any::<bool>(), any::<bool>());
    let faults = proptest::collection::vec((0_usize..1500, effect()), 0..5);
    let death = proptest::option::of((0_usize..1500, 0_usize..5));
    (sizes, how, traits(), traits(), faults, death).prop_map(
        |((servers, agents, max_unavailable), (canary, window, abort), m, w, faults, death)| Case {
            servers,
            agents,
            max_unavailable,
            canary,
            window,
            bad_master: m,
            bad_worker: w,
            faults,
            death: death.filter(|_| agents > 0),
            abort,
        },
    )
}

fn model(case: &Case) -> Model {
    let mut state = cluster(case.servers, case.agents);
    state.allowed = case.max_unavailable;
    state.traits.extend(case.bad_master.map(|t| (image("master", 2), t)));
    state.traits.extend(case.bad_worker.map(|t| (image("worker", 2), t)));
    let model = Model::new(state);
    let mut tape = model.tape.lock().unwrap();
    tape.faults.clone_from(&case.faults);
    tape.death = case.death.map(|(at, n)| (at, format!("worker-{}", n % case.agents)));
    drop(tape);
    model
}

fn wish(case: &Case, model: &Model) -> Wish {
    let mut wish = Wish { who: "operator@laptop".to_owned(), ..Wish::default() };
    wish.options.max_unavailable = case.max_unavailable;
    wish.canary = case.canary.map(|n| model.names[n % model.names.len()].name.clone());
    wish.window = case.window.then(|| "22:00-05:00".parse().unwrap());
    wish
}

/// One builder: it goes on, or begins. `None`: it was ended.
fn builder(case: &Case, model: &Model, abort: bool) -> Option<anyhow::Result<Rollout>> {
    let end = catch_unwind(AssertUnwindSafe(|| {
        let world = model.world();
        let open = history::rollouts(model)?.pop();
        let rollout = open.map_or_else(|| plan(&world, &wish(case, model)), Ok)?;
        let mut run = Run::new(world, rollout)?;
        if abort {
            model.state().may_lose = true;
            run.abort(true)?;
        }
        run.run()?;
        Ok(run.rollout().clone())
    }));
    match end {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Builders until it is over. An operator who is asked goes on twice, and then aborts.
fn live(case: &Case, model: &Model) -> Result<Rollout, String> {
    let mut asked = 0;
    let mut last = String::new();
    for _ in 0..24 {
        let abort = asked > 2 || (asked > 0 && case.abort);
        match builder(case, model, abort) {
            Some(Ok(rollout)) if rollout.outcome.is_some() => return Ok(rollout),
            Some(result) => {
                asked += usize::from(result.is_ok());
                last = format!("{result:?}");
                model.state().advance(Duration::from_hours(1));
            }
            None => {}
        }
    }
    let open = history::unfinished(model).unwrap();
    Err(format!("it never ends: {last}\n{open:#?}"))
}

fn judge(case: &Case) -> Result<End, String> {
    let model = model(case);
    let rollout = live(case, &model)?;
    model.state().advance(Duration::from_mins(5));
    let violations = model.state().violations.clone();
    if !violations.is_empty() {
        let text = violations.into_iter().collect::<Vec<_>>().join("\n");
        return Err(format!("{text}\n{:#?}", history::operations(&model).unwrap()));
    }
    let open = history::unfinished(&model).unwrap();
    if !open.is_empty() {
        return Err(format!("over with nodes under way: {open:#?}"));
    }
    let state = model.state();
    if !state.isos.is_empty() || state.templates.len() != 8 {
        let open = history::operations(&model).unwrap();
        return Err(format!(
            "a secret is left, or a template gone: {:?}, {} templates\n{open:#?}",
            state.isos,
            state.templates.len()
        ));
    }
    for row in &rollout.rows {
        let has: Vec<_> = state.machines.values().filter(|m| m.name == row.node.as_str()).collect();
        let wanted = if row.state == Row::Done { Some(row.to.clone()) } else { row.from.clone() };
        if has.len() != 1 || has[0].image != wanted {
            return Err(format!("{row:?} has {has:?}"));
        }
    }
    if rollout.outcome == Some(End::Done) && rollout.rows.iter().any(|row| row.state != Row::Done) {
        return Err("done, and not all are".to_owned());
    }
    Ok(rollout.outcome.unwrap())
}

#[test]
fn no_rollout_breaks_a_cluster_and_every_one_ends() {
    // In the gate always the same: what only chance finds is no reason for a commit to fail.
    let (cases, rng_seed) =
        if sample::is_full() { (2000, RngSeed::Random) } else { (25, RngSeed::Fixed(20)) };
    let config = ProptestConfig {
        cases,
        rng_seed,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let counts = std::cell::RefCell::new(std::collections::BTreeMap::new());
    proptest!(config, |(case in case())| {
        let end = judge(&case).map_err(TestCaseError::fail)?;
        *counts.borrow_mut().entry(format!("{end:?}")).or_insert(0) += 1;
    });
    println!("{cases} random rollouts: {:?}", counts.into_inner());
}

/// Found by the random cases of full runs.
#[test]
fn what_chance_found_ends_well() {
    let calm = Case {
        servers: 1,
        agents: 1,
        max_unavailable: 1,
        canary: None,
        window: false,
        bad_master: None,
        bad_worker: None,
        faults: Vec::new(),
        death: None,
        abort: false,
    };
    // A secret that was given again after the sweep.
    let killed = |at| (at, Effect::KilledBefore);
    let faults = vec![killed(557), killed(368), (367, Effect::Away(28))];
    judge(&Case { canary: Some(0), faults, death: Some((0, 0)), ..calm.clone() }).unwrap();
    // Proxmox away between the last look at a node, which had died just before, and its old VM's end.
    let faults = vec![(429, Effect::Away(6))];
    let death = Some((418, 0));
    judge(&Case { agents: 3, max_unavailable: 2, faults, death, ..calm.clone() }).unwrap();
    let (canary, faults) = (Some(2), vec![(392, Effect::Away(15))]);
    let death = Some((0, 3));
    judge(&Case { agents: 3, max_unavailable: 2, canary, faults, death, ..calm }).unwrap();
}

#[test]
fn agents_go_first_unless_they_would_be_newer_than_the_servers() {
    let order = |k3s: &str, canary: Option<&str>| {
        let mut state = cluster(3, 2);
        let newer = state.templates.iter_mut().filter(|t| t.made == 2);
        newer.for_each(|t| t.k3s = Some(k3s.to_owned()));
        let model = Model::new(state);
        let canary = canary.map(|name| name.parse().unwrap());
        let wish = Wish { canary, ..Wish::default() };
        plan(&model.world(), &wish)
            .map(|r| r.rows.iter().map(|row| row.node.to_string()).collect::<Vec<_>>().join(" "))
    };
    let same = "v1.36.5-k3s1";
    assert_eq!(order(same, None).unwrap(), "worker-0 worker-1 master-0 master-1 master-2");
    assert_eq!(
        order(same, Some("worker-1")).unwrap(),
        "worker-1 worker-0 master-0 master-1 master-2"
    );
    let newer = "v1.37.1-k3s1";
    assert_eq!(order(newer, None).unwrap(), "master-0 master-1 master-2 worker-0 worker-1");
    let text = order(newer, Some("worker-1")).unwrap_err().to_string();
    assert!(text.starts_with("the canary must be a server"), "{text}");
    let text = order(same, Some("worker-7")).unwrap_err().to_string();
    assert_eq!(text, "the canary worker-7 is no node that gets a new image");
}

#[test]
fn a_canary_that_is_not_healthy_saves_the_rest() {
    let mut state = cluster(1, 4);
    second_is(&mut state, Traits { healthy: false, ..GOOD });
    state.allowed = 3;
    let model = Model::new(state);
    let world = model.world();
    let mut wish = Wish { canary: Some("worker-3".parse().unwrap()), ..Wish::default() };
    wish.options.max_unavailable = 3;
    let mut run = Run::new(world, plan(&world, &wish).unwrap()).unwrap();
    run.run().unwrap();
    let rollout = run.rollout();
    assert_eq!(rollout.outcome, Some(End::Stopped));
    let cause = rollout.cause.as_deref().unwrap();
    assert!(cause.starts_with("worker-3: gates: the user's check fails (after 15 min)"), "{cause}");
    assert!(
        rollout.rows[1..].iter().all(|row| row.state == Row::Waiting && row.operation.is_none())
    );
    assert_eq!(history::operations(&model).unwrap().len(), 1);
    // The next plan has nothing for them: the bad image is nobody's target.
    let again = plan(&world, &Wish { profile: Some("worker".parse().unwrap()), ..Wish::default() });
    assert!(again.unwrap().rows.is_empty());
}

#[test]
fn many_nodes_are_rolled_out_in_waves() {
    println!("{}", in_waves(if sample::is_full() { 99 } else { 30 }));
}

/// What a builder holds grows by the plan's lines alone.
#[test]
#[ignore = "a benchmark; `just bench-builder` runs it"]
fn bench_a_thousand_nodes_are_rolled_out_in_bounded_memory() {
    let told = in_waves(1000);
    let mib = peak_kib() >> 10;
    println!("bench: rollout of 1,000 nodes, peak memory: {mib} MiB, the model's with it ({told})");
    assert!(mib <= 128, "more than 128 MiB");
}

/// Many nodes, ten at once; what it took.
fn in_waves(agents: usize) -> String {
    let mut state = cluster(1, agents);
    state.allowed = 10;
    let model = Model::new(state);
    let world = model.world();
    let mut wish = Wish { profile: Some("worker".parse().unwrap()), ..Wish::default() };
    wish.options.max_unavailable = 10;
    let (before, start) = (model.state().now, std::time::Instant::now());
    let mut run = Run::new(world, plan(&world, &wish).unwrap()).unwrap();
    run.run().unwrap();
    assert_eq!(run.rollout().outcome, Some(End::Done), "{:?}", run.rollout().cause);
    assert!(model.state().violations.is_empty(), "{:?}", model.state().violations);
    let calls = model.tape.lock().unwrap().made.len();
    let hours = model.state().now.saturating_sub(before).as_secs_f64() / 3600.0;
    let took = start.elapsed().as_secs_f64();
    format!(
        "{agents} nodes, ten at once: {calls} calls, {hours:.1} h of virtual time, {took:.1} s of real"
    )
}

/// Of this process, as the kernel says.
fn peak_kib() -> u64 {
    let text = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A node keeps its role: nothing is begun, by a rollout neither.
#[test]
fn a_node_that_changes_its_role_in_the_file_is_refused() {
    let mut model = Model::new(cluster(3, 2));
    let worker = model.names.iter_mut().find(|m| m.name.as_str() == "worker-1").unwrap();
    (worker.role, worker.profile) = (node::config::Role::Server, "master".parse().unwrap());
    let world = model.world();
    let text = plan(&world, &Wish::default()).unwrap_err().to_string();
    let words = "worker-1 is an agent in the cluster, and a server by its profile `master`";
    assert!(text.starts_with(words), "{text}");
    for operation in [Operation::Rebuild, Operation::Delete] {
        let journal = run(&model, &request(operation, "worker-1"));
        assert_eq!(journal.outcome, Some(Outcome::Refused), "{journal:#?}");
        let cause = journal.cause.as_deref().unwrap();
        assert!(cause.starts_with(&format!("role: {words}")), "{cause}");
    }
    let changes =
        model.tape.lock().unwrap().made.iter().filter(|c| c.changes && c.name != "put").count();
    assert_eq!(changes, 0);
}
