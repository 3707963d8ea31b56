//! What a step is. A row of a table: it asks the world whether it is done, and if not, acts; again
//! and again until it is, or its time is up.

use std::time::Duration;

use super::op::Op;
use super::seams::Answer;

/// What a look at the world shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The step is done, by whomever.
    Done,
    /// Not yet; the text is the cause if the time runs out.
    Not(String),
    /// It cannot be done: waiting helps nothing.
    Refused(String),
}

/// What it means when a step fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nothing was changed yet: the operation is refused.
    Nothing,
    /// The surroundings: the way back, and the image may be tried again.
    World,
    /// The image: the way back, and it is never placed again.
    Image,
    /// There is no way back any more, or none is needed: only on, when the operator says so.
    Onward,
}

/// A row.
#[derive(Debug)]
pub struct Step {
    /// Its name, in journals and messages.
    pub name: &'static str,
    /// How long it may take.
    pub limit: Duration,
    /// What its failure means.
    pub blame: Blame,
    /// Asks the world. Changes nothing there.
    pub look: fn(&mut Op<'_>) -> Answer<Seen>,
    /// Does what is missing, or a part of it.
    pub act: fn(&mut Op<'_>) -> Answer<()>,
}

/// Nothing to do but wait: others bring about what the look wants to see.
#[expect(clippy::unnecessary_wraps, reason = "it stands where others fail")]
pub fn wait(_: &mut Op<'_>) -> Answer<()> {
    Ok(())
}

/// `Done`, or the reason why not.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of a look")]
pub fn done_if(done: bool, why: impl FnOnce() -> String) -> Answer<Seen> {
    Ok(if done { Seen::Done } else { Seen::Not(why()) })
}

/// `Done`, or refused for that reason.
#[expect(clippy::unnecessary_wraps, reason = "the last expression of a look")]
pub fn refused_unless(right: bool, why: impl FnOnce() -> String) -> Answer<Seen> {
    Ok(if right { Seen::Done } else { Seen::Refused(why()) })
}
