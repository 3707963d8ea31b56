//! What must never be, written down the moment it is.

use std::collections::BTreeSet;

use crate::state::State;

impl State {
    pub fn violate(&mut self, text: &str) {
        let at = self.now.as_secs();
        if !self.violations.iter().any(|v| v.ends_with(text)) {
            self.violations.insert(format!("{at} s: {text}"));
        }
    }

    /// What must never be.
    pub fn judge(&mut self) {
        let mut heard = BTreeSet::new();
        let heard_twice = self.machines.values().filter(|m| m.up.is_some() && m.link);
        let heard_twice = heard_twice.filter(|m| !heard.insert(&m.name)).map(|m| m.name.clone());
        for name in heard_twice.collect::<Vec<_>>() {
            self.violate(&format!("two VMs speak for {name}"));
        }
        let up: BTreeSet<_> =
            self.machines.values().filter(|m| self.is_up(m)).map(|m| m.name.as_str()).collect();
        let serves = |name: &String| up.contains(name.as_str()) && self.stands(name);
        let out: Vec<_> = self.expected.iter().filter(|name| !serves(name)).cloned().collect();
        let sole_away = self.is_sole() && !self.api();
        // Without an API nobody can tell, and workloads run on.
        if out.len() > self.allowed && !sole_away {
            self.violate(&format!("out of service: {}", out.join(", ")));
        }
        if let Some(db) = self.db.as_ref().filter(|_| !self.is_sole()) {
            let (votes, members) = (self.votes(db), db.members.len());
            // A member that has joined but boots again after its return does not vote yet.
            if votes <= members / 2 {
                self.violate(&format!("{votes} of {members} vote: no quorum"));
            }
        }
    }
}
