//! One run over the whole bundle. The record is written before and after each piece of work, so that
//! a run that was cut short is taken up where it ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use node::bundle::{Bundle, Release};
use node::report::{ReleaseOutcome, ReleaseReport};
use node::values::Digest;

use super::gate;
use super::helm::Helm;
use super::lease::Lease;
use super::objects::{self, Objects};
use super::record::{Entry, Record, State};
use super::{News, Target, pods, prune};

/// How a release ended, with the cause.
type Ended = (ReleaseOutcome, String);

/// A run under way.
#[derive(Debug)]
pub struct Run<'a> {
    target: &'a Target<'a>,
    bundle: &'a Bundle,
    digest: Digest,
    lease: Lease<'a>,
    record: Record,
    objects: Objects<'a>,
    /// Namespaces that could not be made, with the cause.
    broken: BTreeMap<String, String>,
    reports: Vec<ReleaseReport>,
}

impl<'a> Run<'a> {
    /// A run under `lease`.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn new(
        target: &'a Target<'a>,
        bundle: &'a Bundle,
        digest: Digest,
        lease: Lease<'a>,
    ) -> Result<Self> {
        let record = Record::read(target.kubernetes)?;
        let objects = Objects::new(target.kubernetes, target.limit);
        let (broken, reports) = (BTreeMap::new(), Vec::new());
        Ok(Self { target, bundle, digest, lease, record, objects, broken, reports })
    }

    /// Applies everything and gives the Lease up, however it ends.
    ///
    /// # Errors
    /// What no release can go on without.
    pub fn run(mut self) -> Result<Vec<ReleaseReport>> {
        let done = self.all();
        let given = self.lease.give_up();
        done?;
        given?;
        Ok(self.reports)
    }

    fn all(&mut self) -> Result<()> {
        self.record.revision = self.bundle.revision;
        self.record.digest = None;
        self.record.write(self.target.kubernetes)?;
        self.crds()?;
        self.namespaces()?;
        for release in self.bundle.releases() {
            self.timed(&release.id(), |run| run.release(release))?;
        }
        // Nothing is removed on partial knowledge.
        if self.whole() {
            self.prune()?;
        }
        if self.whole() {
            self.record.digest = Some(self.digest);
            self.record.write(self.target.kubernetes)?;
        }
        Ok(())
    }

    fn whole(&self) -> bool {
        !self.reports.iter().any(|report| report.outcome.is_bad())
    }

    fn crds(&mut self) -> Result<()> {
        for file in &self.bundle.crds {
            (self.target.say)(News::Begins(&file.path));
            self.lease.keep(Duration::ZERO)?;
            for definition in objects::read(self.target.folder, file)? {
                self.objects.establish(&definition)?;
            }
        }
        Ok(())
    }

    /// A namespace that cannot be made stops its own releases only.
    fn namespaces(&mut self) -> Result<()> {
        self.lease.keep(Duration::ZERO)?;
        for namespace in &self.bundle.namespaces {
            let all = objects::read(self.target.folder, &namespace.file)?;
            let name = namespace.name.as_str();
            let applied = all.iter().try_for_each(|o| self.objects.apply(o, name).map(drop));
            if let Err(error) = applied {
                self.broken.insert(name.to_owned(), format!("{error:#}"));
            }
        }
        Ok(())
    }

    /// Does one release and reports it; only what ends the whole run is an error.
    fn timed(&mut self, id: &str, work: impl FnOnce(&mut Self) -> Result<Ended>) -> Result<()> {
        let start = Instant::now();
        let (outcome, detail) = work(self)?;
        let millis = start.elapsed().as_millis() as u64;
        let report = ReleaseReport { release: id.to_owned(), outcome, millis, detail };
        (self.target.say)(News::Ended(&report));
        self.reports.push(report);
        Ok(())
    }

    fn release(&mut self, release: &Release) -> Result<Ended> {
        if let Some(ended) = self.held_back(release) {
            return Ok(ended);
        }
        let (id, digest) = (release.id(), release.digest());
        let before = self.record.releases.get(&id);
        if before.is_some_and(|e| e.state == State::Deployed && e.digest == digest) {
            return Ok((ReleaseOutcome::Satisfied, String::new()));
        }
        (self.target.say)(News::Begins(&id));
        self.lease.keep(work(release))?;
        let objects = before.map(|entry| entry.objects.clone()).unwrap_or_default();
        let state = State::Applying;
        let stateful = release.stateful;
        let mut entry = Entry { digest, state, stateful, objects, cause: String::new() };
        self.note(&id, &entry)?;
        let done = self.work(release, &mut entry);
        let ended = match done {
            Ok(detail) => {
                entry.state = State::Deployed;
                (ReleaseOutcome::Applied, detail)
            }
            Err(error) => {
                let cause = self.cause(release, &error);
                entry.fail(&cause);
                (ReleaseOutcome::Failed, cause)
            }
        };
        self.note(&id, &entry)?;
        Ok(ended)
    }

    fn note(&mut self, id: &str, entry: &Entry) -> Result<()> {
        self.record.releases.insert(id.to_owned(), entry.clone());
        self.record.write(self.target.kubernetes)
    }

    /// Why a release is not tried.
    fn held_back(&self, release: &Release) -> Option<Ended> {
        if release.is_left_out() {
            let chart = release.chart.as_ref().map(|c| c.name.as_str()).unwrap_or_default();
            return Some((ReleaseOutcome::LeftOut, format!("chart {chart} is not in this image")));
        }
        let ended = |name: &str| {
            let own = |id: &str| id.rsplit('/').next() == Some(name);
            self.reports.iter().find(|r| own(&r.release)).map(|r| r.outcome)
        };
        for name in release.after.iter().map(node::values::Hostname::as_str) {
            match ended(name) {
                Some(ReleaseOutcome::LeftOut) => {
                    return Some((
                        ReleaseOutcome::LeftOut,
                        format!("needs {name}, which is left out"),
                    ));
                }
                Some(outcome) if outcome.is_bad() => {
                    let text = format!("not tried: needs {name}, which is {}", outcome.as_str());
                    return Some((ReleaseOutcome::Blocked, text));
                }
                _ => {}
            }
        }
        let broken = self.broken.get(release.namespace.as_str())?;
        Some((ReleaseOutcome::Failed, format!("its namespace: {broken}")))
    }

    /// Chart, objects, what is no more, health.
    fn work(&mut self, release: &Release, entry: &mut Entry) -> Result<String> {
        let helm = Helm::new(self.target);
        let mut detail = String::new();
        if let Some(chart) = release.chart.as_ref().and_then(|chart| chart.file.as_ref()) {
            for file in std::iter::once(chart).chain(&release.values) {
                file.read(self.target.folder)?; // helm must not see a damaged one
            }
            detail = helm.recover(release)?.unwrap_or_default();
            let values = release.values.as_ref().map(|file| self.target.folder.join(&file.path));
            helm.upgrade(release, &self.target.folder.join(&chart.path), values.as_deref())?;
        }
        self.manifests(release, entry)?;
        for gate in &release.healthy {
            gate::pass(self.target, &self.objects, gate, release.namespace.as_str())?;
        }
        Ok(detail)
    }

    fn manifests(&mut self, release: &Release, entry: &mut Entry) -> Result<()> {
        let mut now = std::collections::BTreeSet::new();
        let mut all = Vec::new();
        for file in &release.manifests {
            for object in objects::read(self.target.folder, file)? {
                now.insert(self.objects.name_of(&object, release.namespace.as_str())?);
                all.push(object);
            }
        }
        let before = entry.objects.clone();
        // Before they are made: whatever ends this run, the record knows of them.
        entry.objects.extend(now.iter().cloned());
        if entry.objects != before {
            self.note(&release.id(), entry)?;
        }
        for object in &all {
            self.objects.apply(object, release.namespace.as_str())?;
        }
        if !release.stateful {
            prune::dropped(&self.objects, before.difference(&now))?;
            entry.objects = now;
        }
        Ok(())
    }

    /// The error on one line, with what the pods say.
    fn cause(&self, release: &Release, error: &anyhow::Error) -> String {
        let (namespace, name) = (release.namespace.as_str(), release.name.as_str());
        let pods = pods::trouble(self.target.kubernetes, namespace, name);
        let parts = std::iter::once(format!("{error:#}")).chain(pods);
        parts.collect::<Vec<_>>().join("; ").replace('\n', " | ")
    }

    fn prune(&mut self) -> Result<()> {
        let gone: Vec<_> = self
            .record
            .releases
            .iter()
            .filter(|(id, _)| !self.bundle.releases().any(|r| r.id() == **id))
            .map(|(id, entry)| (id.clone(), entry.clone()))
            .collect();
        for (id, entry) in gone {
            self.timed(&id, |run| run.remove(&id, entry))?;
        }
        Ok(())
    }

    fn remove(&mut self, id: &str, mut entry: Entry) -> Result<Ended> {
        (self.target.say)(News::Begins(id));
        self.lease.keep(Duration::from_mins(10))?;
        match prune::release(self.target, &self.objects, id, &entry) {
            Ok((ReleaseOutcome::Removed, detail)) => {
                self.record.releases.remove(id);
                self.record.write(self.target.kubernetes)?;
                Ok((ReleaseOutcome::Removed, detail))
            }
            Ok(ended) => Ok(ended),
            Err(error) => {
                let cause = format!("failed to remove it: {error:#}").replace('\n', " | ");
                entry.fail(&cause);
                self.note(id, &entry).context("failed to note a failure")?;
                Ok((ReleaseOutcome::Failed, cause))
            }
        }
    }
}

/// How long one release may take at most.
fn work(release: &Release) -> Duration {
    let gates: u64 = release.healthy.iter().map(|gate| gate.within_seconds).sum();
    Helm::longest(release) + Duration::from_secs(gates)
}
