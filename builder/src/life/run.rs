//! A rollout under way: at most so many operations at once as the plan allows, in one thread.

use std::time::Duration;

use anyhow::{Result, ensure};
use node::config::Role;

use super::begin::{Request, begin};
use super::journal::{Journal, Operation, Outcome};
use super::op::{Op, PAUSE, Tick, World};
use super::rollout::{End, Rollout, State};
use super::shelf::Drawer;

/// Between two servers: etcd settles, and a removal is not followed by a restart within seconds
/// (k3s.md §3, k3s#12908).
const SETTLE: Duration = Duration::from_mins(1);

/// One rollout.
#[derive(Debug)]
pub struct Run<'a> {
    world: World<'a>,
    rollout: Rollout,
    /// Those under way, by the number of their row.
    ops: Vec<(usize, Op<'a>)>,
}

impl<'a> Run<'a> {
    /// Begins or goes on with it as it lies there.
    ///
    /// # Errors
    /// A journal of it cannot be read.
    pub fn new(world: World<'a>, rollout: Rollout) -> Result<Self> {
        let mut run = Self { world, rollout, ops: Vec::new() };
        for number in 0..run.rollout.rows.len() {
            run.take_up(number)?;
        }
        Ok(run)
    }

    /// An operation that a builder left under way.
    fn take_up(&mut self, number: usize) -> Result<()> {
        let row = &mut self.rollout.rows[number];
        let (State::UnderWay, Some(id)) = (row.state, &row.operation) else { return Ok(()) };
        match self.world.shelf.get(Drawer::Journal, id)? {
            Some(text) => self.ops.push((number, Op::new(self.world, Journal::parse(&text)?))),
            // It was meant and nothing was done.
            None => row.state = State::Waiting,
        }
        Ok(())
    }

    /// The rollout as it is.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Operations that wait for the operator.
    pub fn questions(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().filter_map(|(_, op)| op.journal().asks.as_deref())
    }

    /// Takes no further node; those under way go back, or come to their end where the new VM is proven
    /// already. `lossy` as for [`Op::abort`].
    ///
    /// # Errors
    /// An operation would lose what was not allowed to be lost, or a file cannot be written.
    pub fn abort(&mut self, lossy: bool) -> Result<()> {
        for (_, op) in &mut self.ops {
            if !op.is_proven() {
                op.abort(lossy)?;
            }
        }
        self.rollout.aborted = true;
        self.rollout.cause.get_or_insert_with(|| "aborted by the operator".to_owned());
        self.rollout.save(self.world.shelf)
    }

    /// Runs to the end, or until every operation under way waits for the operator.
    ///
    /// # Errors
    /// A file cannot be written, or Proxmox does not answer at the beginning of an operation. The
    /// rollout can be gone on with.
    pub fn run(&mut self) -> Result<()> {
        self.rollout.save(self.world.shelf)?;
        while self.rollout.outcome.is_none() {
            let mut pause = self.tick_all()?;
            self.gather()?;
            if !self.ops.is_empty() && self.ops.iter().all(|(_, op)| op.journal().asks.is_some()) {
                return Ok(());
            }
            if let Some(number) = self.next() {
                match self.opens_in() {
                    None => {
                        self.begin(number)?;
                        continue;
                    }
                    Some(wait) if self.ops.is_empty() => pause = wait,
                    Some(_) => {}
                }
            } else if self.ops.is_empty() {
                self.end()?;
                break;
            }
            self.world.time.pause(pause);
        }
        Ok(())
    }

    /// Lets each go on until it waits; the shortest of those waits.
    fn tick_all(&mut self) -> Result<Duration> {
        let mut shortest = PAUSE;
        for (_, op) in &mut self.ops {
            loop {
                match op.tick()? {
                    Tick::Again => {}
                    Tick::Wait(time) => {
                        shortest = shortest.min(time);
                        break;
                    }
                    Tick::Stopped => break,
                }
            }
        }
        Ok(shortest)
    }

    /// Takes the ended ones out.
    fn gather(&mut self) -> Result<()> {
        let (ended, open) = std::mem::take(&mut self.ops)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, op)| op.journal().is_ended());
        self.ops = open;
        for (number, op) in &ended {
            let journal = op.journal();
            let row = &mut self.rollout.rows[*number];
            row.state = match journal.outcome {
                Some(Outcome::Done) => State::Done,
                Some(Outcome::WentBack) => State::WentBack,
                Some(Outcome::Refused) | None => State::Refused,
            };
            if row.state != State::Done {
                let cause = journal.cause.as_deref().unwrap_or_default();
                let cause = format!("{}: {cause}", journal.member.name);
                self.rollout.cause.get_or_insert(cause);
            }
            (self.world.say)(&format!("{}: {:?}", journal.member.name, row.state));
        }
        if ended.is_empty() { Ok(()) } else { self.rollout.save(self.world.shelf) }
    }

    /// Whether a node failed, waits for the operator, or the operator wants no more.
    fn is_stopping(&self) -> bool {
        let rollout = &self.rollout;
        let failed = |state| matches!(state, State::WentBack | State::Refused);
        rollout.aborted
            || rollout.rows.iter().any(|row| failed(row.state))
            || self.questions().next().is_some()
            || self.ops.iter().any(|(_, op)| op.is_going_back())
    }

    /// The row that may be taken now, by everything but the window.
    fn next(&self) -> Option<usize> {
        let rows = &self.rollout.rows;
        let next = rows.iter().position(|row| row.state == State::Waiting)?;
        let busy = self.ops.len();
        let alone = self.is_server(next)
            || self.ops.iter().any(|(number, _)| self.is_server(*number))
            || (self.rollout.canary && rows[0].state != State::Done);
        let room = if alone { 1 } else { self.rollout.options.max_unavailable };
        (!self.is_stopping() && busy < room).then_some(next)
    }

    fn is_server(&self, number: usize) -> bool {
        let name = &self.rollout.rows[number].node;
        self.world.members.iter().any(|m| m.name == *name && m.role == Role::Server)
    }

    fn opens_in(&self) -> Option<Duration> {
        self.rollout.window?.opens_in(self.world.time.wall())
    }

    fn begin(&mut self, number: usize) -> Result<()> {
        let is_server = self.is_server(number);
        if is_server && number > 0 && self.is_server(number - 1) {
            self.world.time.pause(SETTLE);
        }
        let row = &self.rollout.rows[number];
        let mut options = self.rollout.options.clone();
        // The first one's is the rollout's; a server is not touched without one of its own.
        options.snapshot = is_server || number == 0;
        let request = Request {
            operation: Operation::Rebuild,
            node: row.node.clone(),
            to: Some(row.to.clone()),
            options,
            who: self.rollout.who.clone(),
            rollout: Some(self.rollout.id.clone()),
        };
        let journal = begin(&self.world, &request)?;
        ensure!(journal.old.is_some(), "{} has no VM any more", journal.member.name);
        let row = &mut self.rollout.rows[number];
        row.state = State::UnderWay;
        row.operation = Some(journal.id.clone());
        // The row first: a journal that no row names would be nobody's.
        self.rollout.save(self.world.shelf)?;
        self.ops.push((number, Op::new(self.world, journal)));
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let done = self.rollout.rows.iter().all(|row| row.state == State::Done);
        self.rollout.outcome = Some(match (done, self.rollout.aborted) {
            (true, _) => End::Done,
            (false, true) => End::Aborted,
            (false, false) => End::Stopped,
        });
        self.rollout.ended = Some(self.world.time.wall());
        self.rollout.save(self.world.shelf)
    }
}
