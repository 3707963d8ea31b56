//! The model as Kubernetes: what K3s and its controllers answer, as long as the API is there.

use std::time::Duration;

use builder::life::{Answer, Cluster, Drain, Failed, Kind, Member, NodeState, Snapshot, Traces};
use node::config::Role;
use node::values::Hostname;

use crate::model::Model;
use crate::state::{Db, State};

fn api(s: &State) -> Answer<()> {
    if s.api() { Ok(()) } else { Err(Failed::Later("the API is away".to_owned())) }
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
            if let Some(node) = node {
                node.cordoned = on;
            }
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
            if s.member(&name).is_some() && s.kind(&name) == Kind::Sole {
                s.violate("the only server's Node was deleted: its snapshots cannot be restored");
            }
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
            let (name, none) = (member.name.as_str(), Db::default());
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
