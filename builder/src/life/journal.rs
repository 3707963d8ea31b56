//! The journal of one operation on one node: what was meant, how far it came, how it ended. It says the
//! intent; what is so, the engine asks the world.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use node::config::Role;
use node::image_id::ImageId;
use serde::{Deserialize, Serialize};

use super::seams::{Drain, Entry, Member, Place, Snapshot};
use super::shelf::{Drawer, Shelf};

/// Version of the file's form.
const SCHEMA: u32 = 1;

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A node that is not there yet.
    Create,
    /// A new VM of another image, or of the same.
    Rebuild,
    /// A rebuild to the image before.
    Rollback,
    /// The node leaves the cluster for good.
    Delete,
}

impl Operation {
    /// As on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Rebuild => "rebuild",
            Self::Rollback => "rollback",
            Self::Delete => "delete",
        }
    }
}

/// What a node is to its cluster, which decides the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Runs pods only.
    Agent,
    /// One of several servers: it joins, and is a voter of etcd.
    Server,
    /// The only server: it restores itself from a snapshot.
    Sole,
}

impl Kind {
    /// Of a member among all.
    pub fn of(member: &Member, all: &[Member]) -> Self {
        match member.role {
            Role::Agent => Self::Agent,
            Role::Server if all.iter().filter(|m| m.role == Role::Server).count() > 1 => {
                Self::Server
            }
            Role::Server => Self::Sole,
        }
    }
}

/// What the operator chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How pods go.
    pub drain: Drain,
    /// Volumes that lie on the node's disk alone may be lost.
    pub lose_local_data: bool,
    /// A sole server may be deleted, and with it the cluster's own state since its last snapshot.
    pub lose_cluster: bool,
    /// Nodes that may be out of service at once, this one included; at least 1.
    pub max_unavailable: usize,
    /// What a created sole server is told.
    pub entry: Entry,
    /// Whether a server makes a snapshot first. Off only in a rollout that has made one.
    pub snapshot: bool,
}

impl Default for Options {
    /// Nothing is lost that the operator did not name.
    fn default() -> Self {
        Self {
            drain: Drain { empty_dirs: true, force: false },
            lose_local_data: false,
            lose_cluster: false,
            max_unavailable: 1,
            entry: Entry::Restore,
            snapshot: true,
        }
    }
}

/// Which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the new VM.
    Forward,
    /// To the old one.
    Back,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As meant.
    Done,
    /// The node is as it was before.
    WentBack,
    /// Nothing was changed.
    Refused,
}

/// One step: `ended` is missing while it is only meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Name of the step.
    pub step: String,
    /// When it was meant.
    pub began: Timestamp,
    /// When it was seen done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

/// What was seen before the node went, to tell the new one from it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that was seen")]
pub struct Marks {
    /// The Node's uid.
    pub uid: Option<String>,
    /// Its boot.
    pub boot_id: Option<String>,
    /// Its lease.
    pub lease: Option<Timestamp>,
    /// Whether it was Ready: only then its return is waited for.
    pub was_ready: bool,
    /// Whether it took no pods already: then it takes none afterwards.
    pub was_cordoned: bool,
    /// A new sole server's API answered: it may have taken writes.
    pub answered: bool,
    /// Nobody watched a new sole server for a while: the builder was ended meanwhile.
    pub unwatched: bool,
    /// The new node did not become healthy: its image is bad if it goes back.
    pub suspect: bool,
    /// What a way back can stand on.
    pub snapshot: Option<Snapshot>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Time, operation and node; the file's name, in the order of time.
    pub id: String,
    /// What is done.
    pub operation: Operation,
    /// To whom.
    pub member: Member,
    /// What it is.
    pub kind: Kind,
    /// The image before, as far as it is known.
    pub from: Option<ImageId>,
    /// The image after; `None`: it leaves.
    pub to: Option<ImageId>,
    /// The VM before.
    pub old: Option<Place>,
    /// The VM after, from the moment its number is chosen.
    pub new: Option<Place>,
    /// Numbers that turned out to be others', or that hold a copy that never ended.
    pub given_up: BTreeSet<u32>,
    /// Which way it goes.
    pub direction: Direction,
    /// What was done on the way, in order.
    pub steps: Vec<Trace>,
    /// What was seen.
    pub marks: Marks,
    /// What the operator chose.
    pub options: Options,
    /// The rollout it is part of.
    pub rollout: Option<String>,
    /// Who asked for it, as USER@HOST.
    pub who: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended; `None`: it has not.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it did not end as meant.
    pub cause: Option<String>,
    /// What it waits for the operator to decide.
    pub asks: Option<String>,
    /// What the operator should know, or clean up as root.
    pub notes: Vec<String>,
}

impl Journal {
    /// A new one, nothing done yet.
    pub fn new(
        id: String,
        operation: Operation,
        member: Member,
        kind: Kind,
        at: Timestamp,
    ) -> Self {
        Self {
            schema: SCHEMA,
            id,
            operation,
            member,
            kind,
            from: None,
            to: None,
            old: None,
            new: None,
            given_up: BTreeSet::new(),
            direction: Direction::Forward,
            steps: Vec::new(),
            marks: Marks::default(),
            options: Options::default(),
            rollout: None,
            who: String::new(),
            started: at,
            ended: None,
            outcome: None,
            cause: None,
            asks: None,
            notes: Vec::new(),
        }
    }

    /// Reads a file of this program.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let journal: Self =
            serde_json::from_slice(text).context("is no journal of this version")?;
        ensure!(
            journal.schema == SCHEMA,
            "has schema {}; this builder writes {SCHEMA}",
            journal.schema
        );
        Ok(journal)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written; what stood there still does.
    pub fn save(&self, shelf: &dyn Shelf) -> Result<()> {
        shelf.put(Drawer::Journal, &self.id, &serde_json::to_vec_pretty(self)?)
    }

    /// Whether it is the making of a first server, which the engine does not walk (ADR-049).
    pub fn is_first(&self) -> bool {
        self.operation == Operation::Create && self.options.entry == Entry::Bootstrap
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// Whether a step was meant, done or not.
    pub fn meant(&self, step: &str) -> bool {
        self.steps.iter().any(|trace| trace.step == step)
    }

    /// Whether a step was done.
    pub fn did(&self, step: &str) -> bool {
        self.steps.iter().any(|trace| trace.step == step && trace.ended.is_some())
    }

    /// `rebuild of k3s-worker-01`, for messages.
    pub fn title(&self) -> String {
        format!("{} of {}", self.operation.word(), self.member.name)
    }

    /// Tells the operator something once.
    pub fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// `TIME-OPERATION-NAME`, with a number where another of the same second has it: sorts by time.
pub(super) fn free_id(
    shelf: &dyn Shelf,
    drawer: Drawer,
    at: Timestamp,
    (operation, name): (&str, &str),
) -> Result<String> {
    let id = id(at, operation, name);
    let mut free = id.clone();
    let mut number = 1;
    while shelf.get(drawer, &free)?.is_some() {
        number += 1;
        free = format!("{id}-{number}");
    }
    Ok(free)
}

fn id(at: Timestamp, operation: &str, name: &str) -> String {
    let time: String =
        at.to_string().chars().take(19).filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    format!("{time}Z-{operation}-{name}")
}
