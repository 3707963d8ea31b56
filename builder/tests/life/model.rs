//! Proxmox, Kubernetes, gates, clock and state folder in one process, with every call counted and a fault
//! at one of them.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Result, bail};
use builder::life::{
    Answer, Cluster, Drain, Drawer, Entry, Failed, Found, Gates, Health, Hypervisor, Member,
    Memory, NodeState, Off, Place, Shelf, Snapshot, Template, Time, Traces, Vm, Way, World,
};
use builder::proxmox::clock::Clock;
use jiff::Timestamp;
use node::config::Role;
use node::image_id::ImageId;
use node::values::Hostname;

use crate::state::{COPY, Machine, State};

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

    fn call<T>(
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

    fn read<T>(&self, name: &'static str, does: impl FnOnce(&mut State) -> Answer<T>) -> Answer<T> {
        self.call(name, false, Duration::ZERO, does)
    }

    fn act<T>(&self, name: &'static str, does: impl FnOnce(&mut State) -> Answer<T>) -> Answer<T> {
        self.call(name, true, Duration::ZERO, does)
    }
}

fn api(s: &State) -> Answer<()> {
    if s.api() { Ok(()) } else { Err(Failed::Later("the API is away".to_owned())) }
}

fn vm(s: &State, m: &Machine) -> Vm {
    let _ = s;
    Vm {
        place: m.place.clone(),
        name: m.name.clone(),
        image: m.image.clone(),
        running: m.up.is_some(),
        lock: m.whole.map(|_| "clone".to_owned()),
        configured: m.configured,
        onboot: m.onboot,
        link: m.link,
    }
}

fn there<'a>(s: &'a mut State, place: &Place) -> Answer<&'a mut Machine> {
    let gone = || Failed::Never(format!("{place}: no such VM"));
    let m = s.machines.get_mut(&place.vmid).ok_or_else(gone)?;
    if m.whole.is_some() {
        return Err(Failed::Later(format!("{place} is locked (clone)")));
    }
    Ok(m)
}

impl Hypervisor for Model {
    fn templates(&self) -> Answer<Vec<Template>> {
        self.read("templates", |s| Ok(s.templates.clone()))
    }

    fn vms(&self) -> Answer<Vec<Vm>> {
        // A copy is in no pool before it is whole: the token does not see it.
        self.read("vms", |s| {
            Ok(s.machines.values().filter(|m| m.whole.is_none()).map(|m| vm(s, m)).collect())
        })
    }

    fn look(&self, place: &Place) -> Answer<Found> {
        self.read("look", |s| {
            Ok(match s.machines.get(&place.vmid) {
                None => Found::Free,
                // A copy that was cut off is in the pool, with its lock; a living one is not yet.
                Some(m) if m.whole.is_some() && !m.stuck => Found::Hidden,
                Some(m) => Found::Vm(vm(s, m)),
            })
        })
    }

    fn number(&self, _: &Member, never: &BTreeSet<u32>) -> Answer<u32> {
        self.read("number", |s| {
            let free = |vmid: &u32| !s.machines.contains_key(vmid) && !never.contains(vmid);
            Ok((1000..).find(free).unwrap())
        })
    }

    fn clone_vm(&self, from: &Template, to: &Place, node: &Member) -> Answer<()> {
        let bad = builder::life::history::bad(self, &from.image).unwrap();
        self.call("clone", true, COPY, |s| {
            if bad.is_some() {
                s.violate(format!("{} is placed again, which is quarantined", from.image));
            }
            let name = node.name.to_string();
            if s.races > 0 {
                s.races -= 1;
                let foreign = machine(s, "somebody", to, None);
                s.machines.insert(to.vmid, foreign);
            }
            match s.machines.get(&to.vmid) {
                Some(m) if m.name == name && m.image.as_ref() == Some(&from.image) => return Ok(()),
                Some(_) => return Err(Failed::Taken(format!("{to} exists"))),
                None => {}
            }
            let known = s.templates.iter().any(|t| t.place == from.place && !t.quarantined);
            if !known {
                return Err(Failed::Never(format!("{} is no good template", from.place)));
            }
            let mut copy = machine(s, &name, to, Some(from.image.clone()));
            copy.whole = Some(s.now + COPY);
            copy.stuck = !s.copies_end;
            s.machines.insert(to.vmid, copy);
            if s.copies_end {
                Ok(())
            } else {
                Err(Failed::Later("the task was cut off".to_owned()))
            }
        })
    }

    fn configure(&self, place: &Place, _: &Member) -> Answer<()> {
        self.act("configure", |s| {
            there(s, place)?.configured = true;
            Ok(())
        })
    }

    fn start(&self, place: &Place) -> Answer<()> {
        self.act("start", |s| {
            let now = s.now;
            let m = there(s, place)?;
            if m.up.is_none() {
                (m.up, m.boot, m.secret) = (Some(now), m.boot + 1, None);
            }
            Ok(())
        })
    }

    fn stop(&self, place: &Place, how: Off) -> Answer<()> {
        self.act(if how == Off::Clean { "shutdown" } else { "stop" }, |s| {
            let (now, m) = (s.now, there(s, place)?.clone());
            if m.up.is_none() {
                return Ok(());
            }
            match how {
                Off::Hard => s.power_off(place.vmid),
                Off::Clean if s.traits_of(&m).obeys && m.ends.is_none() => {
                    there(s, place)?.ends = Some(now + Duration::from_secs(20));
                }
                Off::Clean => {}
            }
            Ok(())
        })
    }

    fn set_aside(&self, place: &Place, aside: bool) -> Answer<()> {
        self.act("set_aside", |s| {
            let m = there(s, place)?;
            (m.onboot, m.link) = (!aside, !aside);
            Ok(())
        })
    }

    fn destroy(&self, place: &Place) -> Answer<()> {
        self.act("destroy", |s| {
            let Some(m) = s.machines.get(&place.vmid).cloned() else { return Ok(()) };
            there(s, place)?;
            if m.up.is_some() {
                return Err(Failed::Never(format!("{place} is running - destroy failed")));
            }
            if m.joined && s.expected.contains(&m.name) && !s.serves(&m.name) {
                let at = s.now.as_secs();
                s.violations.insert(format!("{at} s: {place} was the way back of {}", m.name));
            }
            s.disks.remove(&m.disk);
            s.machines.remove(&place.vmid);
            Ok(())
        })
    }

    fn deliver(&self, place: &Place, node: &Member, entry: Entry, way: Way) -> Answer<()> {
        self.act("deliver", |s| {
            let m = there(s, place)?.clone();
            if way == Way::Drive {
                s.isos.insert(node.name.to_string());
            } else if !s.agent_answers(&m) {
                return Err(Failed::Later("QEMU guest agent is not running".to_owned()));
            }
            if m.up.is_none() {
                return Err(Failed::Later(format!("{place} is not running")));
            }
            there(s, place)?.secret = Some(entry);
            Ok(())
        })
    }

    fn has_secret(&self, node: &Member) -> Answer<bool> {
        self.read("has_secret", |s| Ok(s.isos.contains(node.name.as_str())))
    }

    fn sweep(&self, node: &Member) -> Answer<()> {
        self.act("sweep", |s| {
            s.isos.remove(node.name.as_str());
            Ok(())
        })
    }

    fn mark_bad(&self, image: &ImageId) -> Answer<()> {
        self.act("mark_bad", |s| {
            s.templates.iter_mut().filter(|t| t.image == *image).for_each(|t| t.quarantined = true);
            Ok(())
        })
    }
}

/// A machine that is off, as a clone comes out.
pub fn machine(s: &mut State, name: &str, place: &Place, image: Option<ImageId>) -> Machine {
    Machine {
        place: place.clone(),
        name: name.to_owned(),
        image,
        up: None,
        ends: None,
        whole: None,
        stuck: false,
        configured: false,
        onboot: false,
        link: true,
        secret: None,
        joined: false,
        disk: s.unique(),
        boot: 0,
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

impl Cluster for Model {
    fn nodes(&self) -> Answer<Vec<NodeState>> {
        self.read("nodes", |s| {
            api(s)?;
            Ok(s.db.iter().flat_map(|db| db.nodes.values().cloned()).collect())
        })
    }

    fn node(&self, name: &Hostname) -> Answer<Option<NodeState>> {
        self.read("node", |s| {
            api(s)?;
            Ok(s.db.as_ref().and_then(|db| db.nodes.get(name.as_str()).cloned()))
        })
    }

    fn cordon(&self, name: &Hostname, on: bool) -> Answer<()> {
        self.act("cordon", |s| {
            api(s)?;
            let node = s.db.as_mut().and_then(|db| db.nodes.get_mut(name.as_str()));
            node.into_iter().for_each(|node| node.cordoned = on);
            Ok(())
        })
    }

    fn drain(&self, name: &Hostname, how: Drain, last: bool) -> Answer<Vec<String>> {
        self.act("drain", |s| {
            api(s)?;
            let evictable = s.evictable;
            let pods = s.pods.entry(name.to_string()).or_default();
            *pods = match (last && how.force, evictable) {
                (true, _) => 0,
                (false, true) => pods.saturating_sub(2),
                (false, false) => (*pods).clamp(0, 1),
            };
            Ok((0..*pods)
                .map(|n| format!("default/web-{n}: a disruption budget holds it"))
                .collect())
        })
    }

    fn forget(&self, member: &Member) -> Answer<()> {
        self.act("forget", |s| {
            api(s)?;
            let (now, name) = (s.now, member.name.to_string());
            let Some(db) = s.db.as_mut() else { return Ok(()) };
            match (db.nodes.contains_key(&name), member.role) {
                (true, Role::Server) => {
                    db.deleting.entry(name).or_insert(now);
                }
                (true, Role::Agent) => {
                    db.nodes.remove(&name);
                    db.orphans.insert(name, now);
                }
                (false, _) => {
                    db.passwords.remove(&name);
                }
            }
            Ok(())
        })
    }

    fn traces(&self, member: &Member) -> Answer<Traces> {
        self.read("traces", |s| {
            api(s)?;
            let (name, none) = (member.name.as_str(), crate::state::Db::default());
            let db = s.db.as_ref().unwrap_or(&none);
            Ok(Traces {
                node: db.nodes.contains_key(name),
                password: db.passwords.contains_key(name),
                member: db.members.contains_key(name),
            })
        })
    }

    fn local_data(&self, name: &Hostname) -> Answer<Vec<String>> {
        self.read("local_data", |s| {
            api(s)?;
            Ok(s.local.get(name.as_str()).cloned().into_iter().collect())
        })
    }

    fn request_snapshot(&self, _: &Hostname, nonce: &str) -> Answer<()> {
        self.act("request_snapshot", |s| {
            api(s)?;
            let at = s.now + Duration::from_secs(30);
            let asked = s.answers.contains_key(nonce);
            if let Some(db) = s.db.as_mut().filter(|_| !asked) {
                db.requests.entry(nonce.to_owned()).or_insert(at);
            }
            Ok(())
        })
    }

    fn snapshot(&self, _: &Hostname, nonce: &str) -> Answer<Option<Snapshot>> {
        self.read("snapshot", |s| {
            api(s)?;
            Ok(s.answers.get(nonce).cloned())
        })
    }
}
