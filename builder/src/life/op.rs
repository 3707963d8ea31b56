//! One operation under way: a journal, and the walk along its table. [`Op::tick`] does one thing and says
//! when to come again, so that a rollout can have several under way in one thread.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;

use super::failed::Failed;
use super::journal::{Direction, Journal, Kind, Outcome, Trace};
use super::seams::{Cluster, Gates, Hypervisor, Member, Time};
use super::shelf::Shelf;
use super::step::{Blame, Seen, Step};
use super::tables;

/// Between two looks at the same thing: a person at the terminal sees progress, and 20 minutes of
/// waiting are 240 cheap questions.
pub const PAUSE: Duration = Duration::from_secs(5);

/// Everything outside.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Proxmox.
    pub hypervisor: &'a dyn Hypervisor,
    /// Kubernetes.
    pub cluster: &'a dyn Cluster,
    /// The user's own checks.
    pub gates: &'a dyn Gates,
    /// Time.
    pub time: &'a dyn Time,
    /// The state folder.
    pub shelf: &'a dyn Shelf,
    /// The nodes of the cluster's file, in its order.
    pub members: &'a [Member],
    /// Hears each step, for the terminal.
    pub say: &'a dyn Fn(&str),
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("members", &self.members).finish_non_exhaustive()
    }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    /// The next tick, at once.
    Again,
    /// The next tick, after so long.
    Wait(Duration),
    /// It is over, or waits for the operator: see the journal.
    Stopped,
}

/// An operation under way.
#[derive(Debug)]
pub struct Op<'a> {
    pub(super) world: World<'a>,
    pub(super) journal: Journal,
    /// What this process knows of the step it is in; a new process begins the step anew.
    pub(super) at: Visit,
}

/// One step's visit.
#[derive(Debug, Default)]
pub(super) struct Visit {
    /// The step; `None` between two.
    step: Option<&'static str>,
    /// When it was entered.
    pub(super) since: Duration,
    /// Whether the act was called since the last pause.
    acted: bool,
    /// What was wrong last, and whether it was seen or only not answered.
    last: Option<(String, bool)>,
    /// What an act said last that did not succeed.
    said: Option<String>,
    /// For acts that are made once: this one was.
    pub(super) once: bool,
    /// What a drain left.
    pub(super) left: Vec<String>,
    /// When the secret was written last.
    pub(super) delivered: Option<Duration>,
    /// When another number was taken.
    pub(super) numbered: Option<Duration>,
    /// The time is up: a drain may use force.
    pub(super) last_chance: bool,
}

impl<'a> Op<'a> {
    /// Goes on with a journal as it lies there: a new one, or one of a builder that was ended. What
    /// an operator was asked is asked again only if it is so again.
    pub fn new(world: World<'a>, mut journal: Journal) -> Self {
        journal.asks = None;
        let watched = journal.did("gates") || !journal.meant("start");
        if journal.kind == Kind::Sole && !watched && !journal.is_ended() {
            journal.marks.unwatched = true;
        }
        Self { world, journal, at: Visit::default() }
    }

    /// The journal as it is.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether it goes back to the old VM.
    pub fn is_going_back(&self) -> bool {
        self.journal.direction == Direction::Back
    }

    /// Whether there is no way back any more, as none is needed.
    pub fn is_proven(&self) -> bool {
        let journal = &self.journal;
        let table = tables::of(journal.operation, journal.kind, Direction::Forward);
        table.iter().any(|step| step.blame == Blame::Onward && journal.meant(step.name))
    }

    /// Ends the wish to go on and goes back. `lossy`: also where a new sole server may have taken
    /// writes, which are then lost.
    ///
    /// # Errors
    /// The new VM is proven already, or the loss was not allowed.
    pub fn abort(&mut self, lossy: bool) -> Result<()> {
        if self.is_going_back() || self.journal.is_ended() {
            return Ok(());
        }
        let (journal, proven) = (&self.journal, self.is_proven());
        let way = if journal.to.is_some() { "the new VM is proven" } else { "the node has left" };
        ensure!(!proven, "the {} cannot go back: {way}; go on with --resume", journal.title());
        let loss = loss(journal);
        ensure!(lossy || loss.is_none(), "{}", loss.unwrap_or_default());
        self.go_back("aborted by the operator".to_owned())
    }

    /// Runs to the end, or to a question.
    ///
    /// # Errors
    /// The journal cannot be written. Everything else is in the journal.
    pub fn run(&mut self) -> Result<()> {
        loop {
            match self.tick()? {
                Tick::Again => {}
                Tick::Wait(time) => self.world.time.pause(time),
                Tick::Stopped => return Ok(()),
            }
        }
    }

    /// Does the next thing.
    ///
    /// # Errors
    /// As [`Op::run`].
    pub fn tick(&mut self) -> Result<Tick> {
        if self.journal.is_ended() || self.journal.asks.is_some() {
            return Ok(Tick::Stopped);
        }
        let Some(step) = self.next_step() else { return self.end() };
        self.enter(step)?;
        match (step.look)(self) {
            Ok(Seen::Done) => return self.leave(step),
            Ok(Seen::Refused(why)) => return self.fail(step, &why, true),
            Ok(Seen::Not(why)) => self.at.last = Some((why, true)),
            Err(Failed::Later(why)) => self.at.last = Some((why, false)),
            Err(e) => return self.fail(step, e.text(), false),
        }
        let age = self.age();
        if age >= step.limit && self.at.last_chance {
            return self.time_is_up(step, age);
        }
        if self.at.acted {
            self.at.acted = false;
            return Ok(Tick::Wait(PAUSE));
        }
        // One more act when the time is up, as some have stronger means then.
        self.at.last_chance = age >= step.limit;
        self.act(step)
    }

    fn act(&mut self, step: &'static Step) -> Result<Tick> {
        match (step.act)(self) {
            Ok(()) => {
                self.at.acted = true;
                Ok(Tick::Again)
            }
            Err(Failed::Later(why)) => {
                self.at.said = Some(why);
                self.at.acted = false;
                Ok(Tick::Wait(PAUSE))
            }
            Err(e) => self.fail(step, e.text(), false),
        }
    }

    fn time_is_up(&mut self, step: &'static Step, age: Duration) -> Result<Tick> {
        let (mut why, seen) = self.at.last.take().unwrap_or_default();
        if let Some(said) = self.at.said.take() {
            why = format!("{why}; last answer: {said}");
        }
        self.fail(step, &format!("{why} (after {} min)", age.as_secs() / 60), seen)
    }

    /// How long this process is at the step.
    pub(super) fn age(&self) -> Duration {
        self.world.time.now().saturating_sub(self.at.since)
    }

    fn next_step(&self) -> Option<&'static Step> {
        let journal = &self.journal;
        let table = tables::of(journal.operation, journal.kind, journal.direction);
        table.iter().find(|step| !journal.did(&self.name(step)))
    }

    /// Steps of the way back stand beside those of the way forward in one list.
    fn name(&self, step: &Step) -> String {
        match self.journal.direction {
            Direction::Forward => step.name.to_owned(),
            Direction::Back => format!("back: {}", step.name),
        }
    }

    /// Records the intent before the first look.
    fn enter(&mut self, step: &'static Step) -> Result<()> {
        if self.at.step == Some(step.name) {
            return Ok(());
        }
        self.at = Visit { step: Some(step.name), since: self.world.time.now(), ..Visit::default() };
        let name = self.name(step);
        if !self.journal.meant(&name) {
            let began = self.world.time.wall();
            self.journal.steps.push(Trace { step: name, began, ended: None });
        }
        self.save()
    }

    fn leave(&mut self, step: &'static Step) -> Result<Tick> {
        let (name, now) = (self.name(step), self.world.time.wall());
        if let Some(trace) = self.journal.steps.iter_mut().find(|trace| trace.step == name) {
            trace.ended = Some(now);
        }
        self.at = Visit::default();
        (self.world.say)(&format!("{}: {name}", self.journal.member.name));
        self.save()?;
        Ok(Tick::Again)
    }

    fn end(&mut self) -> Result<Tick> {
        if self.journal.direction == Direction::Back {
            return self.finish(Outcome::WentBack);
        }
        self.journal.cause = None;
        self.journal.marks.suspect = false;
        self.finish(Outcome::Done)
    }

    fn finish(&mut self, outcome: Outcome) -> Result<Tick> {
        self.journal.outcome = Some(outcome);
        self.journal.ended = Some(self.world.time.wall());
        self.save()?;
        Ok(Tick::Stopped)
    }

    /// `guilty`: the new node was seen to be wrong, rather than that somebody did not answer.
    fn fail(&mut self, step: &'static Step, why: &str, guilty: bool) -> Result<Tick> {
        let cause = format!("{}: {why}", self.name(step));
        (self.world.say)(&format!("{}: {cause}", self.journal.member.name));
        self.at = Visit::default();
        match step.blame {
            Blame::Nothing => {
                self.journal.cause = Some(cause);
                self.finish(Outcome::Refused)
            }
            Blame::Onward => self.ask(&cause, None),
            // A sole server that never answers shows itself by just that.
            Blame::Image => {
                // The image before is known to be good.
                self.journal.marks.suspect = guilty && self.journal.from != self.journal.to;
                self.turn_back(cause)
            }
            Blame::World => self.turn_back(cause),
        }
    }

    fn turn_back(&mut self, cause: String) -> Result<Tick> {
        match loss(&self.journal) {
            Some(loss) => self.ask(&cause, Some(&loss)),
            None => self.go_back(cause).map(|()| Tick::Again),
        }
    }

    fn go_back(&mut self, cause: String) -> Result<()> {
        self.journal.cause.get_or_insert(cause);
        self.journal.direction = Direction::Back;
        self.at = Visit::default();
        self.save()
    }

    fn ask(&mut self, cause: &str, loss: Option<&str>) -> Result<Tick> {
        let on = "when the cause is gone, go on with --resume";
        let asks = loss.map_or_else(|| on.to_owned(), |loss| format!("{on}; {loss}"));
        self.journal.cause.get_or_insert_with(|| cause.to_owned());
        self.journal.asks = Some(format!("{cause}; {asks}"));
        self.save()?;
        Ok(Tick::Stopped)
    }

    pub(super) fn save(&self) -> Result<()> {
        self.journal.save(self.world.shelf)
    }

    /// Writes down what an act is about to rely on.
    pub(super) fn note_down(&self) -> Result<(), Failed> {
        self.save().map_err(|e| Failed::Never(format!("{e:#}")))
    }

    /// Now, by the calendar.
    pub(super) fn wall(&self) -> Timestamp {
        self.world.time.wall()
    }
}

/// What going back would lose, where it would.
fn loss(journal: &Journal) -> Option<String> {
    let marks = &journal.marks;
    if journal.kind != Kind::Sole || !(marks.answered || marks.unwatched) {
        return None;
    }
    let why = if marks.answered { "has answered" } else { "was not watched for a while" };
    let since =
        marks.snapshot.as_ref().map_or("the old VM was turned off".to_owned(), |snapshot| {
            format!("the snapshot {} was made", snapshot.file)
        });
    let old = match &journal.old {
        Some(old) => format!("the old {old} comes back"),
        None => "the new VM is removed".to_owned(),
    };
    Some(format!(
        "the new server {why} and may have taken writes: with --abort --accept-loss {old}, and \
         everything written since {since} is lost"
    ))
}
