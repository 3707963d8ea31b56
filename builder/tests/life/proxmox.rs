//! The model as Proxmox: VMs by their numbers, copies that are seen only when they are whole, locks.

use std::collections::BTreeSet;
use std::time::Duration;

use builder::life::{
    Answer, Entry, Failed, Found, Hypervisor, Member, Off, Place, Template, Vm, Way,
};
use node::image_id::ImageId;

use crate::model::Model;
use crate::state::{COPY, Machine, State};

/// A node that has died says Ready for so long.
const SOON: Duration = Duration::from_mins(1);

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
            Ok((1000..9000).find(free).unwrap())
        })
    }

    fn clone_vm(&self, from: &Template, to: &Place, node: &Member) -> Answer<()> {
        let bad = builder::life::history::bad(self, &from.image).unwrap();
        self.call("clone", true, COPY, |s| {
            if bad.is_some() {
                s.violate(&format!("{} is placed again, which is quarantined", from.image));
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
            copy.stuck = std::mem::take(&mut s.cut_off);
            let cut = copy.stuck;
            s.machines.insert(to.vmid, copy);
            if cut { Err(Failed::Later("the task was cut off".to_owned())) } else { Ok(()) }
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
            // Nobody can see within seconds that a node has died.
            let now = s.now;
            let just = |(name, at): &(String, Duration)| *name == m.name && now < *at + SOON;
            let died = s.died.as_ref().is_some_and(just);
            // A VM of a bad image is nobody's way back.
            let sound = m.joined && s.traits_of(&m).healthy && s.traits_of(&m).ready;
            // On the way back of a node that was not Ready before either, the old VM runs and is
            // not waited for.
            let other = |o: &&Machine| o.name == m.name && o.place != m.place;
            let other = s.machines.values().filter(other).any(|o| o.joined && o.up.is_some());
            let needed = s.expected.contains(&m.name) && !s.serves(&m.name) && !other;
            if sound && needed && !died {
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
