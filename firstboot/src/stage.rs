//! One run of a stage from start to exit code: open, walk, report.

use anyhow::Error;
use node::report::{Failure, Outcome, Report, State};

use crate::boot::{Boot, Machine};
use crate::runner::{End, walk};
use crate::steps::{Step, secret};
use crate::{EXIT_WRONG, journal, reporting, systemd};

/// How often a payload that came while we looked is looked at again within one run; systemd's
/// path unit starts us again for any later one.
const LOOKS: usize = 5;

/// Runs `steps` as the stage `name` and returns the exit code: 0 also while waiting, so that
/// systemd counts a node in maintenance mode as sound.
pub fn run(name: &str, steps: &[Step], machine: &Machine) -> u8 {
    let mut boot = match Boot::open(machine.clone()) {
        Ok(boot) => boot,
        Err(error) => return refuse(name, machine, &error),
    };
    journal::connect(name, &boot.config.image_id.to_string());
    if let Some(why) = &boot.ledger.lost {
        let text = format!("the ledger is lost, so every step runs again: {why}");
        journal::warn(&machine.root, "ledger", &text);
    }
    let mut looks = 1;
    loop {
        let payload = secret::mark(machine);
        let (code, waits) = once(name, steps, &mut boot);
        if !waits || looks == LOOKS || secret::mark(machine) == payload {
            return code;
        }
        looks += 1;
    }
}

/// Walks once; returns the exit code and whether a new join secret could help.
fn once(name: &str, steps: &[Step], boot: &mut Boot) -> (u8, bool) {
    let before = reporting::earlier(&boot.machine);
    let mut report = reporting::empty(&boot.machine, Some(&boot.config));
    if name == "cluster" {
        let host = before.iter().flat_map(|r| &r.steps).filter(|s| s.stage == "host");
        report.steps.extend(host.cloned());
    }
    let end = walk(name, steps, boot, &mut report);
    let code = u8::from(matches!(end, End::Failed(_)));
    let waits = name == "host" && end != End::Done;
    (report.state, report.failure) = match end {
        End::Done if name == "cluster" => (State::Ready, None),
        End::Done => (State::Starting, None),
        End::Waiting(failure) => (State::Waiting, Some(failure)),
        End::Failed(failure) => (State::Failed, Some(failure)),
    };
    if report.state == State::Starting && !boot.k3s_changed {
        keep_ready(&mut report, before);
    }
    finish(name, steps, &boot.machine, &mut report);
    (code, waits)
}

/// A host stage that ran again on a node that is Ready, and changed nothing, leaves it Ready.
fn keep_ready(report: &mut Report, before: Option<Report>) {
    if let Some(before) = before.filter(|b| b.state == State::Ready) {
        report.state = State::Ready;
        report.steps.extend(before.steps.into_iter().filter(|s| s.stage == "cluster"));
    }
}

fn finish(stage: &str, steps: &[Step], machine: &Machine, report: &mut Report) {
    let text = match &report.failure {
        Some(f) if report.state == State::Waiting => {
            format!(
                "{stage}: maintenance mode, K3s is not started: {}. To go on: {}",
                f.cause, f.fix
            )
        }
        Some(f) => format!("{stage}: FAILED at {}: {}. To fix: {}", f.step, f.cause, f.fix),
        None => format!("{stage}: done, {}", applied(stage, steps, report)),
    };
    let log = if report.failure.is_some() { journal::warn } else { journal::info };
    log(&machine.root, stage, &text);
    reporting::publish(machine, report);
    systemd::notify(&format!("READY=1\nSTATUS={text}"));
}

/// What a stage that came to its end did.
fn applied(stage: &str, steps: &[Step], report: &Report) -> String {
    let applied = report.steps.iter().filter(|s| s.stage == stage && s.outcome == Outcome::Applied);
    let names: Vec<_> = applied.map(|s| s.name.as_str()).collect();
    let lasting = |name: &&str| steps.iter().any(|s| s.lasting && s.name == *name);
    match (names.is_empty(), names.iter().any(lasting)) {
        (true, _) => "nothing to change".to_owned(),
        (false, true) => format!("applied: {}", names.join(", ")),
        (false, false) => format!("nothing on disk to change, applied: {}", names.join(", ")),
    }
}

/// The baked configuration cannot be read: nothing else is tried, K3s stays down, SSH is up.
fn refuse(stage: &str, machine: &Machine, error: &Error) -> u8 {
    journal::connect(stage, "unknown");
    let mut report = reporting::empty(machine, None);
    report.state = State::Failed;
    report.failure = Some(Failure {
        step: "config".into(),
        cause: format!("{error:#}"),
        fix: format!(
            "the image is damaged: rebuild the node from one that passed `builder boot`, \
             with `builder node rebuild {}`",
            machine.hostname
        ),
    });
    finish("config", &[], machine, &mut report);
    EXIT_WRONG
}
