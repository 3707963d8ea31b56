//! The steps, in the two tables that are their order.

mod api;
mod bundle;
mod clock;
mod hostname;
mod image_id;
mod k3s_config;
mod machine_id;
mod modified;
mod network;
mod nfs;
mod node_ready;
mod origin;
mod restore;
mod restored;
pub mod secret;
mod start;

use std::fmt;

use anyhow::{Error, Result};
use node::report::Outcome;

use crate::boot::Boot;

/// One step of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Name in the report, the ledger and the journal.
    pub name: &'static str,
    /// Whether what it does outlives this boot, so that the ledger keeps it.
    pub lasting: bool,
    /// Help for a failure that brings none of its own.
    pub fix: &'static str,
    /// Whether the system is as wanted; changes nothing.
    pub satisfied: fn(&Boot) -> Result<bool>,
    /// Makes it so; safe to run again after any interruption.
    pub apply: fn(&mut Boot) -> Result<Done>,
}

/// Before K3s: what is local, and must hold before K3s writes its first certificate.
pub const HOST: &[Step] = &[
    // First, because every later file, certificate and log line carries the time.
    clock::STEP,
    // Which node this is decides all below.
    hostname::STEP,
    // The kubelet reports it; two nodes that share one are one node to the network.
    machine_id::STEP,
    // K3s binds to the address and refuses to start without a default route.
    network::STEP,
    // Before what may wait for a person: a restore finds its snapshots there.
    nfs::STEP,
    // Last of what may come from outside: everything before it can be seen to hold without it.
    secret::STEP,
    // Which database K3s starts from: nothing is written for K3s before that is known.
    origin::STEP,
    // Needs name, address and which secrets are there.
    k3s_config::STEP,
    // K3s' reset reads its configuration.
    restore::STEP,
    // Last: K3s must find its whole configuration.
    start::STEP,
];

/// After K3s has started: what needs the API.
pub const CLUSTER: &[Step] = &[
    // Everything below speaks to it.
    api::STEP,
    // A Node that is not Ready is not marked as running this image.
    node_ready::STEP,
    // The other nodes must know soon.
    restored::STEP,
    // With the image-id's mark it says what really runs here.
    modified::STEP,
    // Last: the mark says that this node came up whole.
    image_id::STEP,
];

/// On servers, after the node was announced as Ready: a release that fails makes no node unhealthy.
pub const BUNDLE: &[Step] = &[bundle::STEP];

/// What a step came to.
#[derive(Debug)]
pub struct Done {
    /// Applied, satisfied or waiting.
    pub outcome: Outcome,
    /// What was done, or is missing.
    pub detail: String,
    /// While waiting: the command that brings what is missing.
    pub fix: String,
}

impl Done {
    /// It changed something.
    pub fn changed(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Applied, detail: detail.into(), fix: String::new() }
    }

    /// Nothing was to do.
    pub fn unchanged(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Satisfied, detail: detail.into(), fix: String::new() }
    }

    /// It cannot go on without `missing`, which `fix` brings.
    pub fn waiting(missing: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { outcome: Outcome::Waiting, detail: missing.into(), fix: fix.into() }
    }
}

/// An error that brings its own help.
#[derive(Debug)]
struct Fixable {
    cause: String,
    fix: String,
}

impl fmt::Display for Fixable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Fixable {}

/// An error of a step with the help that fits it.
pub fn fixable(cause: impl Into<String>, fix: impl Into<String>) -> Error {
    Error::new(Fixable { cause: cause.into(), fix: fix.into() })
}

/// The help for an error of `step`: its own, else the step's.
pub fn fix_of(error: &Error, step: &Step) -> String {
    error.downcast_ref::<Fixable>().map_or_else(|| step.fix.to_owned(), |f| f.fix.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn names_are_unique_and_every_step_brings_help() {
        let all = || HOST.iter().chain(CLUSTER).chain(BUNDLE);
        let mut names: Vec<_> = all().map(|s| s.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]), "{names:?}");
        assert!(all().all(|s| !s.fix.is_empty()));
    }

    #[test]
    fn help_survives_added_context() {
        let error = Err::<(), _>(fixable("the cause", "the fix")).context("outer").unwrap_err();
        assert_eq!(format!("{error:#}"), "outer: the cause");
        assert_eq!(fix_of(&error, &HOST[0]), "the fix");
        assert_eq!(fix_of(&anyhow::anyhow!("x"), &HOST[0]), HOST[0].fix);
    }
}
