//! Clusters to begin with, and what must hold when all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use builder::life::{Kind, Member, Operation, Options, Place, Request, Template};
use node::config::Role;
use node::image_id::ImageId;

use crate::model::Model;
use crate::proxmox::machine;
use crate::state::{Db, State, Traits};

/// Image number `n` of a profile.
pub fn image(profile: &str, n: u64) -> ImageId {
    format!("{profile}-{n:012x}").parse().unwrap()
}

/// A cluster with so many servers and agents, all of image 1 and in service; image 2 is pushed, too.
pub fn cluster(servers: usize, agents: usize) -> State {
    let member = |profile: &str, role, n: usize| Member {
        name: format!("{profile}-{n}").parse().unwrap(),
        profile: profile.parse().unwrap(),
        role,
        host: format!("pve{}", n % 2 + 1).parse().unwrap(),
    };
    let mut members: Vec<_> = (0..servers).map(|n| member("master", Role::Server, n)).collect();
    members.extend((0..agents).map(|n| member("worker", Role::Agent, n)));
    let numbers = members.iter().enumerate().map(|(n, m)| (m.name.to_string(), n)).collect();
    let mut state = State {
        now: Duration::from_hours(1),
        members,
        numbers,
        templates: templates(),
        traits: BTreeMap::new(),
        machines: BTreeMap::new(),
        db: None,
        since: Duration::ZERO,
        disks: BTreeMap::new(),
        nfs: None,
        answers: BTreeMap::new(),
        isos: BTreeSet::new(),
        pods: BTreeMap::new(),
        local: BTreeMap::new(),
        evictable: true,
        snapshots: true,
        agents: true,
        cut_off: false,
        races: 0,
        expected: BTreeSet::new(),
        allowed: 1,
        died: None,
        violations: BTreeSet::new(),
        writes: 0,
        may_lose: false,
        counter: 0,
    };
    for number in 0..state.members.len() {
        place(&mut state, number);
    }
    state.db = Some(found(&state));
    state.advance(Duration::from_mins(5));
    state.expected = state.members.iter().map(|m| m.name.to_string()).collect();
    state.violations.clear();
    assert!(state.expected.iter().all(|name| state.serves(name)), "{state:#?}");
    state
}

fn templates() -> Vec<Template> {
    let mut all = Vec::new();
    for (p, profile) in ["master", "worker"].into_iter().enumerate() {
        for n in (1..=2_u32).rev() {
            for host in 1..=2_u32 {
                all.push(Template {
                    place: Place {
                        host: format!("pve{host}").parse().unwrap(),
                        vmid: 9000 + u32::try_from(p).unwrap() * 100 + n * 10 + host,
                    },
                    image: image(profile, n.into()),
                    made: n.into(),
                    k3s: Some("v1.36.4+k3s1".to_owned()),
                    quarantined: false,
                });
            }
        }
    }
    all
}

fn place(state: &mut State, number: usize) {
    let member = state.members[number].clone();
    let vmid = 200 + u32::try_from(number).unwrap();
    let place = Place { host: member.host.clone(), vmid };
    let own = image(member.profile.as_str(), 1);
    let mut m = machine(state, member.name.as_str(), &place, Some(own));
    (m.up, m.boot, m.configured, m.onboot, m.joined) = (Some(Duration::ZERO), 1, true, true, true);
    state.machines.insert(vmid, m);
}

fn found(state: &State) -> Db {
    let servers = state.machines.values().filter(|m| state.kind(&m.name) == Kind::Server);
    Db { members: servers.map(|m| (m.name.clone(), m.disk)).collect(), ..Db::default() }
}

/// A wish for one node.
pub fn request(operation: Operation, node: &str) -> Request {
    Request {
        operation,
        node: node.parse().unwrap(),
        to: None,
        options: Options::default(),
        who: "operator@laptop".to_owned(),
        rollout: None,
    }
}

/// Image 2 of both profiles behaves so.
pub fn second_is(state: &mut State, traits: Traits) {
    for profile in ["master", "worker"] {
        state.traits.insert(image(profile, 2), traits);
    }
}

/// What must hold at the end: every node that should be there is there once, in service, of the
/// right image, and nothing else is left.
pub fn verdict(
    model: &Model,
    images: &BTreeMap<String, u64>,
    absent: Option<&str>,
) -> Result<(), String> {
    model.state().advance(Duration::from_mins(5));
    let s = model.state();
    let mut wrong: Vec<String> = s.violations.iter().cloned().collect();
    for member in s.members.iter().filter(|m| Some(m.name.as_str()) != absent) {
        let name = member.name.as_str();
        let own: Vec<_> = s.machines.values().filter(|m| m.name == name).collect();
        let wanted = Some(image(member.profile.as_str(), images.get(name).copied().unwrap_or(1)));
        match own.as_slice() {
            [m] if m.onboot && m.link && m.up.is_some() && m.whole.is_none() => {
                if m.image != wanted {
                    wrong.push(format!("{name} has {:?}", m.image));
                }
                let node = s.db.as_ref().and_then(|db| db.nodes.get(name));
                if node.is_none_or(|node| node.image != wanted) {
                    wrong.push(format!("the Node {name} is {node:?}"));
                }
            }
            other => wrong.push(format!("{name} has the VMs {other:?}")),
        }
        if !s.serves(name) {
            wrong.push(format!("{name} does not serve"));
        }
    }
    if let Some(name) = absent {
        let known = s.db.as_ref().is_some_and(|db| {
            db.nodes.contains_key(name)
                || db.passwords.contains_key(name)
                || db.members.contains_key(name)
        });
        if known || s.machines.values().any(|m| m.name == name) {
            wrong.push(format!("something of {name} is left"));
        }
    }
    if !s.isos.is_empty() {
        wrong.push(format!("secrets of {:?} are left", s.isos));
    }
    if s.templates.len() != 8 {
        wrong.push("a template is gone".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
}
