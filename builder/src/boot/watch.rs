//! Follows a running machine to its end: console, verdict port, guest agent, QEMU itself, signals
//! and the one deadline, all at once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use node::report::State;

use super::agent::Agent;
use super::checks::name;
use super::console::Console;
use super::facts::{Facts, Frames};
use super::inject::{SUCCESS_EXIT, Task};
use super::machine::Machine;
use super::phase::News;
use super::plan::BootPlan;
use super::signals::Signals;
use crate::ui::{Ui, seconds};

/// How often signals, deadline and QEMU's state are looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(100);
/// How long the console is read on after a fatal line: a panic's reason follows it.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Time for the guest to end QEMU after its facts were taken: three commands, emulated.
const EXIT_LIMIT: Duration = Duration::from_secs(20);

/// From the power button to the end: what Proxmox waits before it cuts the power (`timeout` of its
/// shutdown task), under emulation too.
const SHUTDOWN_LIMIT: Duration = Duration::from_mins(3);

/// How the watch ended.
#[derive(Debug)]
pub enum End {
    /// The guest's facts came.
    Facts(Box<Facts>),
    /// The console shows that nothing more will come.
    Fatal(String),
    /// QEMU ended before the facts.
    Exited(String),
    /// The time is up.
    Deadline,
    /// Ctrl-C or the like.
    Interrupted,
}

enum Event {
    Console(Vec<u8>),
    Facts(Vec<u8>),
    Undelivered(String),
    Delivered(Result<()>),
}

/// Follows one machine.
#[derive(Debug)]
pub struct Watch<'a> {
    ui: &'a Ui,
    machine: &'a mut Machine,
    signals: &'a Signals,
    events: Receiver<Event>,
    frames: Frames,
    deadline: Instant,
    task: &'a Task,
    /// The console so far.
    pub console: Console,
    /// Why the join secret could not be handed over.
    pub undelivered: Option<String>,
}

impl<'a> Watch<'a> {
    /// Starts listening to everything; with a join secret in the plan, starts to deliver it.
    ///
    /// # Errors
    /// The console log cannot be made.
    pub fn new(
        plan: &BootPlan,
        ui: &'a Ui,
        machine: &'a mut Machine,
        signals: &'a Signals,
        task: &'a Task,
        deadline: Instant,
    ) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        listen(&machine.console, sender.clone(), Event::Console)?;
        listen(&machine.facts, sender.clone(), Event::Facts)?;
        if let Some(join) = plan.join.clone() {
            let mut agent = Agent::new(machine.agent.try_clone()?);
            std::thread::spawn(move || {
                // Nobody listens any more once the test is over.
                let not_yet = |cause| drop(sender.send(Event::Undelivered(cause)));
                let result = agent.deliver(&join, deadline, not_yet);
                let _ = sender.send(Event::Delivered(result));
            });
        }
        let console = Console::new(&plan.console_log, machine.started)?;
        let frames = Frames::new(task.nonce.clone());
        Ok(Self {
            ui,
            machine,
            signals,
            events,
            frames,
            deadline,
            task,
            console,
            undelivered: None,
        })
    }

    /// Until the facts are there, or cannot come any more.
    ///
    /// # Errors
    /// The log cannot be written, or QEMU's state cannot be asked.
    pub fn run(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.step()? {
                return Ok(end);
            }
            if self.signals.came() {
                return Ok(End::Interrupted);
            }
            if let Some(status) = self.machine.ended()? {
                return self.after_exit(&status.to_string());
            }
            if Instant::now() >= self.deadline {
                return Ok(End::Deadline);
            }
        }
    }

    fn step(&mut self) -> Result<Option<End>> {
        match self.events.recv_timeout(TICK) {
            Ok(Event::Console(bytes)) => {
                let Some(meaning) = self.console(&bytes)? else { return Ok(None) };
                self.drain(AFTERMATH)?;
                Ok(Some(End::Fatal(meaning.to_owned())))
            }
            Ok(Event::Facts(bytes)) => self.facts(&bytes),
            Ok(Event::Undelivered(cause)) => {
                self.undelivered = Some(format!("join secret not handed over yet: {cause}"));
                Ok(None)
            }
            Ok(Event::Delivered(result)) => {
                self.delivered(result);
                Ok(None)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    fn facts(&mut self, bytes: &[u8]) -> Result<Option<End>> {
        let facts = self.frames.take(bytes);
        if let Some(why) = self.frames.refused.take() {
            self.ui.warn(format!("a report of the guest was refused: {why}"));
            // Any other answer than the two words makes the guest send it again.
            self.machine.facts.write_all(b"AGAIN\n").context("failed to answer the guest")?;
        }
        Ok(facts.map(|facts| End::Facts(Box::new(facts))))
    }

    fn delivered(&mut self, result: Result<()>) {
        match result {
            Ok(()) => {
                self.undelivered = None;
                self.say("join secret handed to the guest agent");
            }
            Err(cause) => {
                self.undelivered = Some(format!("{cause:#}"));
                self.ui.warn(format!("{cause:#}"));
            }
        }
    }

    /// Shows what is new on the console; a fatal line's meaning.
    fn console(&mut self, bytes: &[u8]) -> Result<Option<&'static str>> {
        let mut fatal = None;
        for news in self.console.take(bytes)? {
            match news {
                News::Phase(phase) => self.say(&phase.to_string()),
                News::FailedUnit(line) => self.say(&self.ui.paint("31", &line)),
                News::Fatal(meaning) => fatal = Some(meaning),
                News::Report(report) if report.state == State::Failed => {
                    let why = report.failure.map_or(String::new(), |f| format!(": {}", f.cause));
                    self.say(&format!("firstboot: {}{why}", name(report.state)));
                }
                News::Report(_) => {}
            }
        }
        Ok(fatal)
    }

    fn say(&self, text: &str) {
        self.ui.line(format!("{:>10}  {text}", seconds(self.machine.started.elapsed())));
    }

    /// Reads on for a while; the events that count have been.
    fn drain(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.events.recv_timeout(left) {
                Ok(Event::Console(bytes)) => drop(self.console(&bytes)?),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// QEMU is gone: what it still said may hold the reason.
    fn after_exit(&mut self, status: &str) -> Result<End> {
        self.drain(TICK)?;
        let words = self.machine.complaints();
        let words = if words.is_empty() { words } else { format!(": {words}") };
        Ok(End::Exited(format!("{status}{words}")))
    }

    /// Answers the guest's facts. Without `keep` the guest ends QEMU with a status that nothing
    /// else gives: `None` when it did, else what happened instead.
    ///
    /// # Errors
    /// The guest's port or QEMU's state cannot be reached.
    pub fn answer(&mut self, keep: bool) -> Result<Option<String>> {
        let word = if keep { "KEEP" } else { "END" };
        let line = format!("{word} {}\n", self.task.nonce);
        let sent = self.machine.facts.write_all(line.as_bytes());
        sent.context("failed to answer the guest")?;
        if keep {
            return Ok(None);
        }
        let limit = Instant::now() + EXIT_LIMIT;
        while Instant::now() < limit {
            self.drain(TICK)?;
            if let Some(status) = self.machine.ended()? {
                let right = status.code() == Some(SUCCESS_EXIT);
                return Ok((!right).then(|| format!("QEMU ended with {status}")));
            }
        }
        self.machine.end();
        Ok(Some("the guest did not end the machine itself".to_owned()))
    }

    /// Presses the power button and waits until the machine is off: `None` when it went off by
    /// itself, else what happened instead.
    ///
    /// # Errors
    /// QEMU's state cannot be reached.
    pub fn shut_down(&mut self) -> Result<Option<String>> {
        self.answer(true)?;
        self.machine.press_power()?;
        let limit = Instant::now() + SHUTDOWN_LIMIT;
        while Instant::now() < limit {
            self.drain(TICK)?;
            if let Some(status) = self.machine.ended()? {
                return Ok((!status.success()).then(|| format!("QEMU ended with {status}")));
            }
        }
        self.machine.end();
        Ok(Some(format!("still running after {} s", SHUTDOWN_LIMIT.as_secs())))
    }

    /// Leaves the console to others and waits for Ctrl-C or the guest's own end.
    ///
    /// # Errors
    /// The console cannot be closed, or QEMU's state cannot be asked.
    pub fn hold(&mut self) -> Result<()> {
        self.machine.console.shutdown(Shutdown::Both).context("failed to release the console")?;
        while !self.signals.came() && self.machine.ended()?.is_none() {
            std::thread::sleep(TICK);
        }
        Ok(())
    }
}

fn listen(stream: &UnixStream, sender: Sender<Event>, wrap: fn(Vec<u8>) -> Event) -> Result<()> {
    let mut stream = stream.try_clone()?;
    std::thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        // The end of the stream is the end of QEMU, which the watch sees by itself.
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            if sender.send(wrap(piece[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    Ok(())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
