//! Faults by script: at the n-th call of a kind, something goes wrong.

use serde::Deserialize;

/// One rule: it strikes once, at the n-th matching call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// A call of the table (`POST /nodes/{node}/qemu/{vmid}/clone`), `GET *` for a method, `*` for any.
    pub call: String,
    /// Counts from 1.
    #[serde(default = "first")]
    pub nth: u32,
    /// How many calls in a row, from the n-th on.
    #[serde(default = "first")]
    pub times: u32,
    /// What happens.
    pub effect: Effect,
}

fn first() -> u32 {
    1
}

impl Fault {
    /// Strikes once.
    pub fn new(call: &str, nth: u32, effect: Effect) -> Self {
        Self { call: call.to_owned(), nth, times: 1, effect }
    }
}

/// What goes wrong. "Applied" says whether the call had its effect before the answer was lost.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// An error before anything is done: status and message.
    Status(u16, String),
    /// 595: the node's daemon could not be reached; nothing was done.
    Unreachable,
    /// 596: no answer within 30 s; the outcome is unknown to the client.
    Timeout {
        /// Whether it was done all the same.
        applied: bool,
    },
    /// The connection ends without an answer.
    Dropped {
        /// Whether it was done all the same.
        applied: bool,
    },
    /// The lock of the VM's configuration is held by something else: an error, or a task that fails.
    VmLockTimeout,
    /// The lock of the storage is held by something else: the task fails.
    StorageLockTimeout,
    /// The task takes this many virtual milliseconds longer.
    Slow(u64),
    /// The task fails with this text; what it made is taken back as Proxmox does.
    TaskFails(String),
    /// The task does its work and ends with that many warnings.
    Warnings(u32),
    /// The task's process is killed halfway: `unexpected status`, half-made things stay with their lock.
    Killed,
    /// The target storage has no room left when the task runs.
    StorageFull,
    /// Somebody else takes the id between the question and the call.
    IdTaken,
    /// A destroyed VM's disks stay, its configuration goes, `WARNINGS: 1`.
    DisksStay,
    /// A destroyed VM's disks go, its configuration stays, the task fails.
    ConfigStays,
    /// The uploaded bytes differ from those that were sent.
    Corrupt,
    /// The VM that is started never gets an address.
    NoAddress,
    /// The agent of the VM that is started never answers.
    NoAgent,
}

/// The rules and how often each has counted.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Vec<(Fault, u32)>,
}

impl Faults {
    /// Adds a rule; it counts from now on.
    pub fn add(&mut self, fault: Fault) {
        self.rules.push((fault, 0));
    }

    /// Counts a call; the effect of the first rule that strikes.
    pub(crate) fn strike(&mut self, on: &str) -> Option<Effect> {
        let mut found = None;
        for (fault, count) in &mut self.rules {
            if !matches(&fault.call, on) {
                continue;
            }
            *count += 1;
            let window = fault.nth..fault.nth.saturating_add(fault.times);
            if found.is_none() && window.contains(count) {
                found = Some(fault.effect.clone());
            }
        }
        found
    }

    /// Whether the next call of this kind will suffer this, without counting it.
    pub(crate) fn next_is(&self, on: &str, effect: &Effect) -> bool {
        let next = |(fault, count): &&(Fault, u32)| {
            matches(&fault.call, on)
                && (fault.nth..fault.nth.saturating_add(fault.times)).contains(&(count + 1))
        };
        self.rules.iter().find(next).is_some_and(|(fault, _)| fault.effect == *effect)
    }

    /// Rules that never struck.
    pub fn unused(&self) -> Vec<&Fault> {
        self.rules
            .iter()
            .filter(|(fault, count)| *count < fault.nth)
            .map(|(fault, _)| fault)
            .collect()
    }

    /// Forgets all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }
}

fn matches(rule: &str, on: &str) -> bool {
    rule == "*" || rule == on || rule.strip_suffix('*').is_some_and(|start| on.starts_with(start))
}
