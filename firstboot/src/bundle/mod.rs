//! Applies the bundle of this image: CRDs, namespaces, then releases in their order by the baked
//! `helm`, each with its objects and its health. One server at a time (a Lease); a record in the
//! cluster says what was applied, so that an unchanged bundle costs one question and a lower revision
//! never replaces a higher one.
//!
//! One release that fails stops only those that need it. Every write is safe to repeat: whatever a
//! power cut leaves, the next run ends in the same state.

mod apply;
mod diff;
mod gate;
mod helm;
mod lease;
mod objects;
mod pods;
mod prune;
mod record;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use node::bundle::Bundle;
use node::report::{BundleReport, ReleaseReport};
use node::values::Digest;

pub use diff::{Change, diff};
pub use helm::Helm;

use crate::kubernetes::Kubernetes;
use crate::retry::{Look, until};
use lease::Lease;
use record::Record;

/// How long another server may be at work on the bundle: a first installation with all its images.
const PATIENCE: Duration = Duration::from_hours(1);
/// Between two looks at another server's work.
const PAUSE: Duration = Duration::from_secs(5);

/// The cluster a bundle goes to, and what is needed to get it there.
pub struct Target<'a> {
    /// The connection.
    pub kubernetes: &'a Kubernetes,
    /// The same credentials as a file, for helm.
    pub kubeconfig: &'a Path,
    /// The packed bundle.
    pub folder: &'a Path,
    /// Who applies it; the same name takes over its own unfinished work at once.
    pub holder: String,
    /// An empty folder for helm's caches.
    pub scratch: PathBuf,
    /// The helm program.
    pub helm: PathBuf,
    /// Cuts a wait short; tests do.
    pub limit: &'a dyn Fn(Duration) -> Duration,
    /// Told what is under way.
    pub say: &'a dyn Fn(News<'_>),
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What is told while the bundle is applied.
#[derive(Debug)]
pub enum News<'a> {
    /// This begins, and may take long.
    Begins(&'a str),
    /// This release ended.
    Ended(&'a ReleaseReport),
}

/// Applies the bundle, unless the cluster has it or a newer one.
///
/// # Errors
/// What no release can go on without: the bundle cannot be read, the API does not answer, another
/// server does not come to its end, a CRD is refused. A release that fails is in the report.
pub fn apply(target: &Target<'_>) -> Result<BundleReport> {
    let (bundle, digest) = Bundle::load(target.folder)?;
    let skipped = |why: Option<String>| BundleReport {
        revision: bundle.revision,
        digest,
        skipped: why,
        releases: Vec::new(),
    };
    let record = Record::read(target.kubernetes)?;
    if let Some(why) = settled(&bundle, digest, &record) {
        return Ok(skipped(Some(why)));
    }
    let Some(lease) = take(target, &bundle, digest)? else {
        return Ok(skipped(Some("another server has applied it".to_owned())));
    };
    let applied = apply::Run::new(target, &bundle, digest, lease)?.run();
    applied.map(|releases| BundleReport { releases, ..skipped(None) })
}

/// Releases in the cluster that a bundle has no more, by `NAMESPACE/NAME`.
#[derive(Debug, Default)]
pub struct Leaving {
    /// Those that applying it would remove.
    pub removed: Vec<String>,
    /// Those that stay for their data.
    pub kept: Vec<String>,
}

/// What becomes of the releases that `bundle` has no more.
///
/// # Errors
/// The API does not answer.
pub fn leaving(kubernetes: &Kubernetes, bundle: &Bundle) -> Result<Leaving> {
    let record = Record::read(kubernetes)?;
    let mut leaving = Leaving::default();
    for (id, entry) in record.releases {
        if bundle.releases().any(|r| r.id() == id) {
            continue;
        }
        let kept = prune::stays(kubernetes, &id, &entry)?.is_some();
        if kept { leaving.kept.push(id) } else { leaving.removed.push(id) }
    }
    Ok(leaving)
}

/// Why nothing is to do, if so.
fn settled(bundle: &Bundle, digest: Digest, record: &Record) -> Option<String> {
    if record.revision > bundle.revision {
        return Some(format!(
            "the cluster has revision {}, this image has {}: a lower one changes nothing",
            record.revision, bundle.revision
        ));
    }
    (record.digest == Some(digest)).then(|| "unchanged".to_owned())
}

/// Becomes the one server that applies; `None` when another brought the work to its end meanwhile.
fn take<'a>(target: &Target<'a>, bundle: &Bundle, digest: Digest) -> Result<Option<Lease<'a>>> {
    let mut told = false;
    until((target.limit)(PATIENCE), PAUSE, || {
        let holder = match Lease::take(target.kubernetes, &target.holder)? {
            Ok(lease) => return Ok(Look::Done(Some(lease))),
            Err(holder) => holder,
        };
        if !std::mem::replace(&mut told, true) {
            (target.say)(News::Begins(&format!("waiting for {holder}, which applies the bundle")));
        }
        let record = Record::read(target.kubernetes)?;
        if settled(bundle, digest, &record).is_some() {
            return Ok(Look::Done(None));
        }
        Ok(Look::NotYet(format!("{holder} holds the lease {}", lease::NAME)))
    })
    .context("failed to become the one server that applies the bundle")
}
