//! What was done to the nodes, and which images proved bad: the records behind `builder history` and
//! behind every later choice of an image.

use anyhow::{Context, Result};
use jiff::Timestamp;
use node::image_id::ImageId;
use node::values::Hostname;
use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::rollout::Rollout;
use super::shelf::{Drawer, Shelf};

/// All operations, the oldest first; those under way have no outcome.
///
/// # Errors
/// A file cannot be read, or is none of this version: its name is told.
pub fn operations(shelf: &dyn Shelf) -> Result<Vec<Journal>> {
    all(shelf, Drawer::Journal, Journal::parse)
}

/// All rollouts, the oldest first.
///
/// # Errors
/// As [`operations`].
pub fn rollouts(shelf: &dyn Shelf) -> Result<Vec<Rollout>> {
    all(shelf, Drawer::Rollout, Rollout::parse)
}

/// The operations that are not over. At most one by itself; several of one rollout.
///
/// # Errors
/// As [`operations`].
pub fn unfinished(shelf: &dyn Shelf) -> Result<Vec<Journal>> {
    Ok(operations(shelf)?.into_iter().filter(|journal| !journal.is_ended()).collect())
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
    /// Node on which it showed.
    pub node: Hostname,
    /// The operation.
    pub operation: String,
    /// What was wrong.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Records an image as bad; the first reason stays.
///
/// # Errors
/// The file cannot be written.
pub fn quarantine(shelf: &dyn Shelf, bad: &Bad) -> Result<()> {
    let name = bad.image.to_string();
    if shelf.get(Drawer::Quarantine, &name)?.is_some() {
        return Ok(());
    }
    shelf.put(Drawer::Quarantine, &name, &serde_json::to_vec_pretty(bad)?)
}

/// Why an image is bad; `None`: nothing is known against it.
///
/// # Errors
/// As [`operations`].
pub fn bad(shelf: &dyn Shelf, image: &ImageId) -> Result<Option<Bad>> {
    let name = image.to_string();
    let Some(text) = shelf.get(Drawer::Quarantine, &name)? else { return Ok(None) };
    let bad = serde_json::from_slice(&text)
        .with_context(|| format!("quarantine/{name}.json is no record of this version"))?;
    Ok(Some(bad))
}

/// All of them, by name.
///
/// # Errors
/// As [`operations`].
pub fn all_bad(shelf: &dyn Shelf) -> Result<Vec<Bad>> {
    all(shelf, Drawer::Quarantine, |text| {
        serde_json::from_slice(text).context("is no record of this version")
    })
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
