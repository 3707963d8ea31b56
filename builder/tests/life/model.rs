//! Proxmox, Kubernetes, gates, clock and state folder in one process, with every call counted and a fault
//! at one of them.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use builder::life::{Answer, Drawer, Failed, Gates, Health, Member, Memory, Shelf, Time, World};
use builder::proxmox::clock::Clock;
use jiff::Timestamp;
use node::values::Hostname;

use crate::state::{Machine, State};

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It does not arrive.
    Lost,
    /// It has its effect, and the answer is lost.
    Unheard,
    /// It is refused.
    Refused,
    /// The builder is killed before it.
    KilledBefore,
    /// The builder is killed after it.
    KilledAfter,
    /// The builder is killed while the call's task runs.
    KilledWithin,
    /// From here on nothing answers for so many minutes.
    Away(u64),
}

/// What a killed builder leaves on its stack.
#[derive(Debug)]
pub struct Killed;

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub name: &'static str,
    pub changes: bool,
    pub slow: bool,
}

#[derive(Debug, Default)]
pub struct Tape {
    pub made: Vec<Made>,
    pub faults: Vec<(usize, Effect)>,
    /// At this call the machine of this member loses its power.
    pub death: Option<(usize, String)>,
    pub away_until: Duration,
}

#[derive(Debug)]
pub struct Model {
    pub state: Mutex<State>,
    pub tape: Mutex<Tape>,
    pub disk: Memory,
    pub names: Vec<Member>,
}

fn say(_: &str) {}

impl Model {
    pub fn new(state: State) -> Self {
        let names = state.members.clone();
        Self { state: Mutex::new(state), tape: Mutex::default(), disk: Memory::default(), names }
    }

    pub fn world(&self) -> World<'_> {
        World {
            hypervisor: self,
            cluster: self,
            gates: self,
            time: self,
            shelf: self,
            members: &self.names,
            say: &say,
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The effect at this call, if any.
    fn next(&self, made: Made) -> Option<Effect> {
        let now = self.state().now;
        let mut tape = self.tape.lock().unwrap();
        let number = tape.made.len();
        tape.made.push(made);
        let effect = tape.faults.iter().find(|(at, _)| *at == number).map(|(_, effect)| *effect);
        if let Some((_, name)) = tape.death.take_if(|(at, _)| *at == number) {
            self.state().dies(&name);
        }
        if let Some(Effect::Away(minutes)) = effect {
            tape.away_until = now + Duration::from_mins(minutes);
        }
        if effect.is_none() && now < tape.away_until { Some(Effect::Away(0)) } else { effect }
    }

    pub fn call<T>(
        &self,
        name: &'static str,
        changes: bool,
        slow: Duration,
        does: impl FnOnce(&mut State) -> Answer<T>,
    ) -> Answer<T> {
        // Too short for anything to happen by itself.
        self.state().now += Duration::from_millis(100);
        let effect = self.next(Made { name, changes, slow: !slow.is_zero() });
        match effect {
            Some(Effect::Lost | Effect::Away(_)) => {
                return Err(Failed::Later(format!("{name}: lost")));
            }
            Some(Effect::Refused) => return Err(Failed::Never(format!("{name}: refused"))),
            Some(Effect::KilledBefore) => std::panic::resume_unwind(Box::new(Killed)),
            _ => {}
        }
        let answer = {
            let mut state = self.state();
            let answer = does(&mut state);
            if changes {
                state.settle();
            }
            answer
        };
        if effect == Some(Effect::KilledWithin) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        if answer.is_ok() {
            self.state().advance(slow);
        }
        match effect {
            Some(Effect::KilledAfter) => std::panic::resume_unwind(Box::new(Killed)),
            Some(Effect::Unheard) => Err(Failed::Later(format!("{name}: unheard"))),
            _ => answer,
        }
    }

    pub fn read<T>(
        &self,
        name: &'static str,
        does: impl FnOnce(&mut State) -> Answer<T>,
    ) -> Answer<T> {
        self.call(name, false, Duration::ZERO, does)
    }

    pub fn act<T>(
        &self,
        name: &'static str,
        does: impl FnOnce(&mut State) -> Answer<T>,
    ) -> Answer<T> {
        self.call(name, true, Duration::ZERO, does)
    }
}

impl Gates for Model {
    fn ask(&self, node: &Hostname) -> Answer<Health> {
        self.read("gates", |s| {
            let own = |m: &&Machine| m.name == node.as_str() && m.up.is_some();
            let healthy = s.machines.values().find(own).is_some_and(|m| s.traits_of(m).healthy);
            Ok(if healthy {
                Health::Good
            } else {
                Health::Bad("the user's check fails".to_owned())
            })
        })
    }
}

impl Clock for Model {
    fn now(&self) -> Duration {
        self.state().now
    }

    fn pause(&self, time: Duration) {
        self.state().advance(time);
    }
}

impl Time for Model {
    fn wall(&self) -> Timestamp {
        self.state().wall()
    }
}

impl Shelf for Model {
    fn put(&self, drawer: Drawer, name: &str, content: &[u8]) -> Result<()> {
        let effect = self.next(Made { name: "put", changes: true, slow: false });
        match effect {
            Some(Effect::Lost | Effect::Refused) => bail!("no space left on device"),
            Some(Effect::KilledBefore) => std::panic::resume_unwind(Box::new(Killed)),
            _ => {}
        }
        self.disk.put(drawer, name, content)?;
        if matches!(effect, Some(Effect::KilledAfter | Effect::KilledWithin)) {
            std::panic::resume_unwind(Box::new(Killed));
        }
        Ok(())
    }

    fn get(&self, drawer: Drawer, name: &str) -> Result<Option<Vec<u8>>> {
        self.disk.get(drawer, name)
    }

    fn names(&self, drawer: Drawer) -> Result<Vec<String>> {
        self.disk.names(drawer)
    }
}
