//! One run of a stage from start to exit code: open, walk, report.

use anyhow::Error;
use node::config::Role;
use node::report::{Failure, Outcome, Report, State};

use crate::boot::{Boot, Machine};
use crate::runner::{End, walk};
use crate::steps::{BUNDLE, Step, secret};
use crate::{EXIT_WRONG, journal, ntfy, reporting, systemd};

/// The timer that runs the host stage once more.
const AGAIN: &str = "firstboot-again.timer";

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
    let later = if name == "cluster" { bundle_steps(boot) } else { &[] };
    let all = steps.len() + later.len();
    let mut end = walk(name, steps, (0, all), boot, &mut report);
    let is_ready = name == "cluster" && end == End::Done;
    if is_ready && !later.is_empty() {
        announce(boot, &mut report);
        end = walk(name, later, (steps.len(), all), boot, &mut report);
        report.bundle = boot.bundle.take();
    }
    let code = u8::from(matches!(end, End::Failed(_)));
    if matches!(end, End::Waiting(_)) && std::mem::take(&mut boot.retry) {
        look_again(&boot.machine);
    }
    let waits = name == "host" && end != End::Done;
    (report.state, report.failure) = match end {
        End::Done if is_ready => (State::Ready, None),
        // The node is as it should be: what runs on it is another matter, and is told.
        End::Failed(failure) if is_ready => (State::Ready, Some(failure)),
        End::Done => (State::Starting, None),
        End::Waiting(failure) => (State::Waiting, Some(failure)),
        End::Failed(failure) => (State::Failed, Some(failure)),
    };
    if report.state == State::Starting && !boot.k3s_changed {
        keep_ready(&mut report, before);
    }
    finish(name, &[steps, later].concat(), &boot.machine, &mut report);
    // Last, when everyone who waits for this stage has its answer.
    ntfy::start(&boot.machine, &boot.config, &report);
    (code, waits)
}

/// The steps that come when the node is Ready: on servers whose image has a bundle.
fn bundle_steps(boot: &Boot) -> &'static [Step] {
    let has_bundle = boot.path(node::bundle::FOLDER).join(node::bundle::INDEX).exists();
    if boot.config.role == Role::Server && has_bundle { BUNDLE } else { &[] }
}

/// Says that the node is Ready before the bundle, which may take long: nobody who waits for the node
/// waits for what runs on it.
fn announce(boot: &Boot, report: &mut Report) {
    report.state = State::Ready;
    report.applying = true;
    reporting::save_quietly(&boot.machine, report);
    report.applying = false;
}

/// Has systemd run this stage again soon: a restart of its own would count the wait as a failure.
fn look_again(machine: &Machine) {
    if let Err(error) = systemd::start(&[AGAIN], true) {
        journal::warn(&machine.root, "again", &format!("failed to start {AGAIN}: {error:#}"));
    }
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
        Some(f) if report.state == State::Ready => {
            format!("{stage}: the node is Ready, but {}: {}. To fix: {}", f.step, f.cause, f.fix)
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
