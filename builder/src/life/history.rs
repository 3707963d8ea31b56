//! What was done to the nodes, and which images proved bad: the records behind `builder history` and
//! behind every later choice of an image.

use anyhow::{Context, Result};
use jiff::Timestamp;
use node::image_id::ImageId;
use node::values::Hostname;
use serde::{Deserialize, Serialize};

use super::journal::{self, Journal, Kind, Operation};
use super::rollout::Rollout;
use super::seams::{Entry, Member};
use super::shelf::{Drawer, Shelf};

/// All operations, the oldest first; those under way have no outcome.
///
/// # Errors
/// A file cannot be read, or is none of this version: its name is told.
pub fn operations(shelf: &dyn Shelf) -> Result<Vec<Journal>> {
    let mut found = all(shelf, Drawer::Journal, Journal::parse)?;
    // Their names tell the second only.
    found.sort_by_key(|journal| journal.started);
    Ok(found)
}

/// All rollouts, the oldest first.
///
/// # Errors
/// As [`operations`].
pub fn rollouts(shelf: &dyn Shelf) -> Result<Vec<Rollout>> {
    all(shelf, Drawer::Rollout, Rollout::parse)
}

/// The operations of the engine that are not over. At most one by itself; several of one rollout.
///
/// # Errors
/// As [`operations`].
pub fn unfinished(shelf: &dyn Shelf) -> Result<Vec<Journal>> {
    let all = operations(shelf)?.into_iter();
    Ok(all.filter(|journal| !journal.is_ended() && !journal.is_first()).collect())
}

/// The making of a first server that is not over, and is gone on with by asking for it again.
///
/// # Errors
/// As [`operations`].
pub fn unfinished_first(shelf: &dyn Shelf, node: &Hostname) -> Result<Option<Journal>> {
    let all = operations(shelf)?.into_iter();
    Ok(all.filter(|j| !j.is_ended() && j.is_first()).find(|j| j.member.name == *node))
}

/// The journal of the making of a first server, which the engine does not walk: it has no steps, and says
/// what was made, by whom and how it ended.
///
/// # Errors
/// The folder cannot be read.
pub fn first(shelf: &dyn Shelf, member: &Member, kind: Kind, who: String) -> Result<Journal> {
    let now = Timestamp::now();
    let what = (Operation::Create.word(), member.name.as_str());
    let id = journal::free_id(shelf, Drawer::Journal, now, what)?;
    let mut journal = Journal::new(id, Operation::Create, member.clone(), kind, now);
    journal.options.entry = Entry::Bootstrap;
    journal.who = who;
    Ok(journal)
}

/// The image that a node had before the one it has now, by the last operation that changed it.
///
/// # Errors
/// As [`operations`].
pub fn before(shelf: &dyn Shelf, node: &Hostname, now: &ImageId) -> Result<Option<ImageId>> {
    let of_node = operations(shelf)?.into_iter().rev().filter(|j| j.member.name == *node);
    let mut changes = of_node.filter(|j| j.outcome == Some(super::Outcome::Done));
    Ok(changes.find(|j| j.to.as_ref() == Some(now) && j.from != j.to).and_then(|j| j.from))
}

/// An image that proved bad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bad {
    /// The image.
    pub image: ImageId,
    /// Node on which it showed; `None`: a person said so.
    pub node: Option<Hostname>,
    /// The operation; `None` as for `node`.
    pub operation: Option<String>,
    /// What was wrong.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Who said that it is not to blame after all; `None`: it is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted: Option<Lifted>,
}

/// A quarantine's end. The record stays: what showed once is worth knowing when it shows again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifted {
    /// Who, as USER@HOST.
    pub who: String,
    /// When.
    pub at: Timestamp,
}

impl Bad {
    /// What is known against it, for messages: `on w1, ready: …`.
    pub fn told(&self) -> String {
        let Self { reason, .. } = self;
        self.node.as_ref().map_or_else(|| reason.clone(), |node| format!("on {node}, {reason}"))
    }
}

/// Records an image as bad; the first reason stays, unless it was lifted.
///
/// # Errors
/// The file cannot be written.
pub fn quarantine(shelf: &dyn Shelf, bad: &Bad) -> Result<()> {
    match self::bad(shelf, &bad.image)? {
        Some(_) => Ok(()),
        None => put(shelf, bad),
    }
}

/// Ends a quarantine; `false`: there is none.
///
/// # Errors
/// The file cannot be read or written.
pub fn lift(shelf: &dyn Shelf, image: &ImageId, lifted: Lifted) -> Result<bool> {
    let Some(bad) = bad(shelf, image)? else { return Ok(false) };
    put(shelf, &Bad { lifted: Some(lifted), ..bad })?;
    Ok(true)
}

fn put(shelf: &dyn Shelf, bad: &Bad) -> Result<()> {
    shelf.put(Drawer::Quarantine, &bad.image.to_string(), &serde_json::to_vec_pretty(bad)?)
}

/// Why an image is bad; `None`: nothing is known against it.
///
/// # Errors
/// As [`operations`].
pub fn bad(shelf: &dyn Shelf, image: &ImageId) -> Result<Option<Bad>> {
    let name = image.to_string();
    let Some(text) = shelf.get(Drawer::Quarantine, &name)? else { return Ok(None) };
    let bad: Bad = serde_json::from_slice(&text)
        .with_context(|| format!("quarantine/{name}.json is no record of this version"))?;
    Ok(Some(bad).filter(|bad| bad.lifted.is_none()))
}

/// All that are bad now, by name.
///
/// # Errors
/// As [`operations`].
pub fn all_bad(shelf: &dyn Shelf) -> Result<Vec<Bad>> {
    let mut found: Vec<Bad> = all(shelf, Drawer::Quarantine, |text| {
        serde_json::from_slice(text).context("is no record of this version")
    })?;
    found.retain(|bad| bad.lifted.is_none());
    Ok(found)
}

fn all<T>(shelf: &dyn Shelf, drawer: Drawer, parse: impl Fn(&[u8]) -> Result<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    for name in shelf.names(drawer)? {
        let Some(text) = shelf.get(drawer, &name)? else { continue };
        let file = || format!("{}/{name}.json", drawer.folder());
        found.push(parse(&text).with_context(file)?);
    }
    Ok(found)
}
