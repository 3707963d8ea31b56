//! The bundle of this image is in the cluster: [`crate::bundle`] applies it, this step tells of it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use node::bundle::FOLDER;
use node::report::{BundleReport, ReleaseOutcome, ReleaseReport};

use super::{Done, Step};
use crate::boot::Boot;
use crate::bundle::{News, Target, apply};
use crate::kubernetes::credentials;
use crate::runner::seconds;
use crate::{journal, systemd};

/// Where helm may write, on a tmpfs.
const SCRATCH: &str = "run/firstboot/helm";

/// The step.
pub const STEP: Step = Step {
    name: "bundle",
    lasting: false,
    fix: "see `helm history` and `kubectl describe` for what failed; a change comes with a bundle of a \
          higher revision; all that is not done is tried again by itself",
    satisfied: |_| Ok(false),
    apply: run,
};

fn run(boot: &mut Boot) -> Result<Done> {
    let machine = &boot.machine;
    let kubernetes = boot.kubernetes.as_ref().context("the step `api` has not run")?;
    let scratch = boot.path(SCRATCH);
    fs_err::create_dir_all(&scratch)?;
    let limit = |wait: Duration| machine.limit(wait);
    let say = |news: News<'_>| match news {
        News::Begins(what) => systemd::notify(&format!("STATUS=bundle: {what}")),
        News::Ended(release) => tell(boot, release),
    };
    let report = apply(&Target {
        kubernetes,
        kubeconfig: &credentials(&machine.root, boot.config.role),
        folder: &boot.path(FOLDER),
        holder: machine.hostname.clone(),
        scratch,
        helm: "helm".into(),
        limit: &limit,
        say: &say,
    })?;
    let done = judge(&report);
    boot.bundle = Some(report);
    done
}

/// One line per release that is not as it was.
fn tell(boot: &Boot, release: &ReleaseReport) {
    let ReleaseReport { release: name, outcome, millis, detail } = release;
    if *outcome == ReleaseOutcome::Satisfied {
        return;
    }
    let colon = if detail.is_empty() { "" } else { ": " };
    let took = seconds(*millis);
    let text = format!("bundle {name}: {}, {took} s{colon}{detail}", outcome.as_str());
    let log = if outcome.is_bad() { journal::warn } else { journal::info };
    log(&boot.machine.root, "bundle", &text);
}

/// The step's outcome: an error when the bundle is not whole, so that systemd runs the stage again.
fn judge(report: &BundleReport) -> Result<Done> {
    let revision = report.revision;
    if let Some(why) = &report.skipped {
        return Ok(Done::unchanged(format!("revision {revision}: {why}")));
    }
    let bad: Vec<_> = report.releases.iter().filter(|r| r.outcome.is_bad()).collect();
    if let Some(first) = bad.iter().find(|r| r.outcome == ReleaseOutcome::Failed) {
        let names: Vec<_> = bad.iter().map(|r| r.release.as_str()).collect();
        bail!(
            "revision {revision}: {} of {} releases are not there: {}; {}: {}",
            bad.len(),
            report.releases.len(),
            names.join(", "),
            first.release,
            first.detail
        );
    }
    Ok(Done::changed(summary(report)))
}

fn summary(report: &BundleReport) -> String {
    let outcomes = [
        (ReleaseOutcome::Applied, "applied"),
        (ReleaseOutcome::Satisfied, "unchanged"),
        (ReleaseOutcome::Removed, "removed"),
        (ReleaseOutcome::Kept, "kept though they left"),
        (ReleaseOutcome::LeftOut, "left out of this stand-in image"),
    ];
    let counts = outcomes.into_iter().map(|(outcome, word)| (report.count(outcome), word));
    let counts = counts.filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}"));
    format!("revision {}: {}", report.revision, counts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::values::Digest;

    fn report(outcomes: &[ReleaseOutcome]) -> BundleReport {
        let release = |(n, outcome): (usize, &ReleaseOutcome)| ReleaseReport {
            release: format!("apps/r{n}"),
            outcome: *outcome,
            millis: 0,
            detail: "why".to_owned(),
        };
        BundleReport {
            revision: 3,
            digest: Digest::of("x"),
            skipped: None,
            releases: outcomes.iter().enumerate().map(release).collect(),
        }
    }

    #[test]
    fn a_bundle_that_is_not_whole_is_an_error_that_names_all_and_the_first_cause() {
        use ReleaseOutcome::{Applied, Blocked, Failed, LeftOut};
        let text = judge(&report(&[Applied, Failed, Blocked])).unwrap_err().to_string();
        assert_eq!(
            text,
            "revision 3: 2 of 3 releases are not there: apps/r1, apps/r2; apps/r1: why"
        );
        let done = judge(&report(&[Applied, LeftOut])).unwrap();
        assert_eq!(done.detail, "revision 3: 1 applied, 1 left out of this stand-in image");
        let skipped = BundleReport { skipped: Some("unchanged".into()), ..report(&[]) };
        assert_eq!(judge(&skipped).unwrap().detail, "revision 3: unchanged");
    }
}
