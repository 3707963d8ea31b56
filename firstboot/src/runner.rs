//! Walks a table of steps: ask the system, record the intent, act, record the success.

use std::time::Instant;

use anyhow::Result;
use node::report::{Failure, Outcome, Report, StepReport};

use crate::boot::Boot;
use crate::steps::{Done, Step, fix_of};
use crate::{journal, systemd};

/// How the walk ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Every step was satisfied or applied.
    Done,
    /// A step waits for something that a person or `builder` may still bring.
    Waiting(Failure),
    /// A step failed; later ones were not tried.
    Failed(Failure),
}

/// Walks `steps` in their order and adds each to `report`; ends at the first that does not hold.
/// They are counted after the `before` steps of their stage, of which there are `all`.
pub fn walk(
    stage: &str,
    steps: &[Step],
    (before, all): (usize, usize),
    boot: &mut Boot,
    report: &mut Report,
) -> End {
    for (number, step) in (before + 1..).zip(steps) {
        systemd::notify(&format!("STATUS=step {number}/{all} {}", step.name));
        let start = Instant::now();
        let done = one(step, boot);
        let (outcome, detail, fix) = match done {
            Ok(Done { outcome, detail, fix }) => (outcome, detail, fix),
            // On one line, as console and status have room for one.
            Err(error) => {
                let cause = format!("{error:#}").replace('\n', " | ");
                (Outcome::Failed, cause, fix_of(&error, step))
            }
        };
        let millis = start.elapsed().as_millis() as u64;
        let line =
            StepReport { name: step.name.into(), stage: stage.into(), outcome, millis, detail };
        say(boot, number, all, &line);
        let failure = Failure { step: line.name.clone(), cause: line.detail.clone(), fix };
        report.steps.push(line);
        match outcome {
            Outcome::Applied | Outcome::Satisfied => {}
            Outcome::Waiting => return End::Waiting(failure),
            Outcome::Failed => return End::Failed(failure),
        }
    }
    End::Done
}

fn one(step: &Step, boot: &mut Boot) -> Result<Done> {
    if (!step.lasting || boot.ledger.is_done(step.name)) && (step.satisfied)(boot)? {
        return Ok(Done::unchanged(""));
    }
    if !step.lasting {
        return (step.apply)(boot);
    }
    boot.ledger.intend(step.name)?;
    let done = (step.apply)(boot)?;
    if done.outcome != Outcome::Waiting {
        boot.ledger.finish(step.name)?;
    }
    Ok(done)
}

fn say(boot: &Boot, number: usize, all: usize, step: &StepReport) {
    let outcome = match step.outcome {
        Outcome::Applied => "applied",
        Outcome::Satisfied => "satisfied",
        Outcome::Waiting => "waiting",
        Outcome::Failed => "failed",
    };
    let StepReport { name, millis, detail, .. } = step;
    let colon = if detail.is_empty() { "" } else { ": " };
    let took = seconds(*millis);
    let text = format!("step {number}/{all} {name}: {outcome}, {took} s{colon}{detail}");
    let log = if step.outcome == Outcome::Failed { journal::warn } else { journal::info };
    log(&boot.machine.root, name, &text);
}

/// Milliseconds as seconds with one digit behind the point.
pub fn seconds(millis: u64) -> String {
    format!("{}.{}", millis / 1000, millis % 1000 / 100)
}
