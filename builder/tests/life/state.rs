//! The model's state and what happens in it by itself as time passes: copies end, guests boot, join and
//! leave, K3s forgets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use builder::life::{Entry, Kind, Member, NodeState, Place, Snapshot, Template};
use jiff::Timestamp;
use node::image_id::ImageId;

pub const COPY: Duration = Duration::from_secs(90);
const AGENT_UP: Duration = Duration::from_secs(20);
const K3S_UP: Duration = Duration::from_secs(40);
const VOTES: Duration = Duration::from_secs(70);
const KUBELET: Duration = Duration::from_secs(20);
const STALE: i64 = 40;
const MEMBER_GOES: Duration = Duration::from_secs(15);
const SECRET_GOES: Duration = Duration::from_secs(20);

/// How an image behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that can be wrong")]
pub struct Traits {
    pub boots: bool,
    pub k3s: bool,
    pub ready: bool,
    pub healthy: bool,
    pub obeys: bool,
}

pub const GOOD: Traits = Traits { boots: true, k3s: true, ready: true, healthy: true, obeys: true };

/// What etcd holds.
#[derive(Debug, Clone, Default)]
pub struct Db {
    pub nodes: BTreeMap<String, NodeState>,
    pub passwords: BTreeMap<String, u64>,
    pub members: BTreeMap<String, u64>,
    pub deleting: BTreeMap<String, Duration>,
    pub orphans: BTreeMap<String, Duration>,
    pub requests: BTreeMap<String, Duration>,
    /// Number of the last write.
    pub last: u64,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that Proxmox knows")]
pub struct Machine {
    pub place: Place,
    pub name: String,
    pub image: Option<ImageId>,
    pub up: Option<Duration>,
    pub ends: Option<Duration>,
    pub whole: Option<Duration>,
    pub stuck: bool,
    pub configured: bool,
    pub onboot: bool,
    pub link: bool,
    pub secret: Option<Entry>,
    pub joined: bool,
    pub disk: u64,
    pub boot: u64,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that can be wrong")]
pub struct State {
    pub now: Duration,
    pub members: Vec<Member>,
    /// Where each stands among them.
    pub numbers: BTreeMap<String, usize>,
    pub templates: Vec<Template>,
    pub traits: BTreeMap<ImageId, Traits>,
    pub machines: BTreeMap<u32, Machine>,
    pub db: Option<Db>,
    /// Since when the API is there; its controllers give everybody time from then on.
    pub since: Duration,
    /// What lies on the disks of servers that are off.
    pub disks: BTreeMap<u64, Db>,
    pub nfs: Option<Db>,
    pub answers: BTreeMap<String, Snapshot>,
    pub isos: BTreeSet<String>,
    pub pods: BTreeMap<String, usize>,
    pub local: BTreeMap<String, String>,
    pub evictable: bool,
    pub snapshots: bool,
    pub agents: bool,
    /// The next copy does not end.
    pub cut_off: bool,
    /// Numbers that somebody else takes at the moment they are wanted.
    pub races: u32,
    /// Members that are in service and are to stay so, and how many may be missing.
    pub expected: BTreeSet<String>,
    pub allowed: usize,
    /// Who lost its power last, and when.
    pub died: Option<(String, Duration)>,
    pub violations: BTreeSet<String>,
    /// Writes that were taken, by whomever.
    pub writes: u64,
    /// The operator said that some may be lost.
    pub may_lose: bool,
    pub counter: u64,
}

impl State {
    pub fn unique(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + self.now.as_secs().cast_signed()).unwrap()
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        // Asked for each machine all the time: among a thousand, a search would be most of the time.
        self.members.get(*self.numbers.get(name)?)
    }

    pub fn kind(&self, name: &str) -> Kind {
        Kind::of(self.member(name).unwrap(), &self.members)
    }

    pub fn is_sole(&self) -> bool {
        self.members.iter().any(|m| Kind::of(m, &self.members) == Kind::Sole)
    }

    pub fn traits_of(&self, m: &Machine) -> Traits {
        m.image.as_ref().and_then(|i| self.traits.get(i)).copied().unwrap_or(GOOD)
    }

    fn uptime(&self, m: &Machine) -> Duration {
        m.up.map_or(Duration::ZERO, |up| self.now.saturating_sub(up))
    }

    pub fn agent_answers(&self, m: &Machine) -> bool {
        self.agents && self.traits_of(m).boots && m.up.is_some() && self.uptime(m) >= AGENT_UP
    }

    /// Whether K3s runs there and can speak to others.
    fn speaks(&self, m: &Machine) -> bool {
        let t = self.traits_of(m);
        m.up.is_some() && m.link && m.configured && t.boots && t.k3s && self.uptime(m) >= K3S_UP
    }

    /// Whether the API answers.
    pub fn api(&self) -> bool {
        let Some(db) = &self.db else { return false };
        if self.is_sole() {
            let sole =
                |m: &&Machine| self.member(&m.name).is_some() && self.kind(&m.name) == Kind::Sole;
            return self.machines.values().filter(sole).any(|m| m.joined && self.speaks(m));
        }
        self.votes(db) > db.members.len() / 2
    }

    pub fn votes(&self, db: &Db) -> usize {
        let voter = |(name, disk): &(&String, &u64)| {
            self.machines.values().any(|m| m.name == **name && m.disk == **disk && self.speaks(m))
        };
        db.members.iter().filter(voter).count()
    }

    /// Whether a member serves.
    pub fn serves(&self, name: &str) -> bool {
        self.stands(name) && self.machines.values().any(|m| m.name == name && self.is_up(m))
    }

    /// Whether a machine is a member's, by itself.
    pub fn is_up(&self, m: &Machine) -> bool {
        m.joined && self.speaks(m) && self.traits_of(m).ready
    }

    /// Whether the cluster counts on a member.
    pub fn stands(&self, name: &str) -> bool {
        let node = self.db.as_ref().and_then(|db| db.nodes.get(name));
        node.is_some_and(|node| node.ready && !node.cordoned)
    }

    /// Time passes in steps that are short against everything that takes time.
    pub fn advance(&mut self, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min((time / 60).max(Duration::from_secs(10)));
            self.now += step;
            left -= step;
            self.settle();
        }
    }

    pub fn settle(&mut self) {
        for vmid in self.machines.keys().copied().collect::<Vec<_>>() {
            let m = self.machines.get_mut(&vmid).unwrap();
            if m.whole.is_some_and(|at| at <= self.now) && !m.stuck {
                m.whole = None;
            }
            if m.ends.is_some_and(|at| at <= self.now) {
                self.power_off(vmid);
            }
        }
        // Twice: a restored server serves those that came before it in the list, too.
        for vmid in self.machines.keys().chain(self.machines.keys()).copied().collect::<Vec<_>>() {
            self.live(vmid);
        }
        if self.api() {
            self.keep_house();
        }
        self.judge();
    }

    pub fn power_off(&mut self, vmid: u32) {
        let m = self.machines.get_mut(&vmid).unwrap();
        (m.up, m.ends, m.secret) = (None, None, None);
        let name = m.name.clone();
        if self.member(&name).is_some() && self.kind(&name) == Kind::Sole {
            let m = &self.machines[&vmid];
            if let Some(db) = self.db.take_if(|_| m.joined) {
                self.disks.insert(m.disk, db);
            }
        }
    }

    /// By itself, and for good until somebody starts it.
    pub fn dies(&mut self, name: &str) {
        let up = self.machines.values().find(|m| m.name == name && m.up.is_some());
        if let Some(vmid) = up.map(|m| m.place.vmid) {
            self.allowed += 1;
            self.died = Some((name.to_owned(), self.now));
            self.power_off(vmid);
        }
    }

    fn live(&mut self, vmid: u32) {
        let m = &self.machines[&vmid];
        if !(m.joined || m.secret.is_some()) || !self.speaks(m) || self.member(&m.name).is_none() {
            return;
        }
        let m = m.clone();
        if self.kind(&m.name) == Kind::Sole && self.db.is_none() {
            let own = self.disks.remove(&m.disk);
            if own.as_ref().is_some_and(|db| db.last < self.writes) && !self.may_lose {
                self.violate("writes are lost that a new server had taken");
            }
            let db = match (own, m.secret) {
                (Some(own), _) => Some(own),
                (None, Some(Entry::Restore)) => self.nfs.clone(),
                (None, Some(Entry::Bootstrap)) => Some(Db::default()),
                _ => None,
            };
            let Some(mut db) = db else { return };
            // After a restore K3s clears its own Secret (k3s.md §4.1).
            db.passwords.remove(&m.name);
            self.db = Some(db);
            self.since = self.now;
            self.machines.get_mut(&vmid).unwrap().joined = true;
        }
        // A sole server's own kubelet waits for its API.
        if self.api() && self.now >= self.since + KUBELET {
            self.register(vmid, &m);
        }
    }

    fn register(&mut self, vmid: u32, m: &Machine) {
        let (now, kind, t, votes) =
            (self.wall(), self.kind(&m.name), self.traits_of(m), self.uptime(m) >= VOTES);
        let fresh = self.unique();
        let k3s = self.templates.iter().find(|t| Some(&t.image) == m.image.as_ref());
        let k3s = k3s.and_then(|t| t.k3s.clone()).unwrap_or_default();
        let db = self.db.as_mut().unwrap();
        let owned = |owner: Option<&u64>| owner.is_none_or(|disk| *disk == m.disk);
        if !owned(db.passwords.get(&m.name)) || !owned(db.members.get(&m.name)) {
            return;
        }
        db.passwords.insert(m.name.clone(), m.disk);
        if kind == Kind::Server && !db.deleting.contains_key(&m.name) {
            db.members.insert(m.name.clone(), m.disk);
        }
        if !db.nodes.contains_key(&m.name) {
            self.pods.insert(m.name.clone(), 3);
        }
        let node = db.nodes.entry(m.name.clone()).or_insert_with(|| NodeState {
            name: m.name.parse().unwrap(),
            uid: format!("uid-{fresh}"),
            boot_id: String::new(),
            image: None,
            k3s: String::new(),
            server: kind != Kind::Agent,
            ready: false,
            cordoned: false,
            lease: None,
            voter: None,
        });
        node.boot_id = format!("boot-{}-{}", m.disk, m.boot);
        node.image.clone_from(&m.image);
        node.k3s = k3s;
        node.ready = t.ready;
        node.lease = Some(now);
        node.voter = (kind == Kind::Server).then_some(votes);
        self.machines.get_mut(&vmid).unwrap().joined = true;
    }

    /// What the controllers do.
    fn keep_house(&mut self) {
        let (now, wall, snapshots) = (self.now, self.wall(), self.snapshots);
        let patient = now < self.since + Duration::from_secs(STALE.unsigned_abs());
        self.writes += 1;
        let db = self.db.as_mut().unwrap();
        db.last = self.writes;
        for node in db.nodes.values_mut() {
            let stale = node.lease.is_none_or(|at| wall.duration_since(at).as_secs() > STALE);
            node.ready &= !stale || patient;
        }
        let due: Vec<_> = db
            .deleting
            .iter()
            .filter(|(_, at)| **at + MEMBER_GOES <= now)
            .map(|(n, _)| n.clone())
            .collect();
        for name in due {
            db.deleting.remove(&name);
            db.members.remove(&name);
            db.nodes.remove(&name);
            db.orphans.insert(name, now);
        }
        let due: Vec<_> = db
            .orphans
            .iter()
            .filter(|(_, at)| **at + SECRET_GOES <= now)
            .map(|(n, _)| n.clone())
            .collect();
        for name in due {
            db.orphans.remove(&name);
            if !db.nodes.contains_key(&name) {
                db.passwords.remove(&name);
            }
        }
        let due =
            db.requests.iter().filter(|(_, at)| **at <= now && snapshots).map(|(n, _)| n.clone());
        for nonce in due.collect::<Vec<_>>() {
            self.db.as_mut().unwrap().requests.remove(&nonce);
            self.nfs.clone_from(&self.db);
            let sha256 = format!("{:064x}", self.writes);
            self.answers.insert(nonce.clone(), Snapshot { file: format!("save-{nonce}"), sha256 });
        }
    }
}
