//! `firstboot watch`, run by a timer: what is asked of a running node by annotations on its Node. A
//! server takes a snapshot when `builder` asks for one; an agent restarts K3s once after the cluster
//! was restored.

use anyhow::{Context, Result};
use node::annotations::{RESTORED, SNAPSHOT_DONE, SNAPSHOT_REQUEST};
use node::config::Role;
use node::files::ensure_file;
use serde_json::json;

use crate::boot::{Boot, Machine};
use crate::kubernetes::{Kubernetes, credentials};
use crate::snapshot::save;
use crate::{journal, systemd};

/// The restore this agent has restarted K3s for.
const SEEN: &str = "var/lib/firstboot/restore-seen";
/// When this agent last restarted K3s because its Node was gone, in seconds since 1970.
const MISSED: &str = "var/lib/firstboot/node-missed";
/// Seconds between two such restarts: registering takes a minute under load.
const PATIENCE: u64 = 600;

/// Looks once and acts.
///
/// # Errors
/// The API does not answer, or what was asked for failed; the timer looks again.
pub fn run(machine: Machine) -> Result<u8> {
    let boot = Boot::open(machine)?;
    journal::connect("watch", &boot.config.image_id.to_string());
    let kubernetes = Kubernetes::connect(&credentials(&boot.machine.root, boot.config.role))?;
    let node = kubernetes.node(&boot.machine.hostname).context("failed to ask for this Node")?;
    let marks = node.map(|n| n.metadata.annotations.unwrap_or_default());
    let mark = |key: &str| marks.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default();
    match (boot.config.role, &marks) {
        (Role::Server, _) => {
            answer(&boot, &kubernetes, &mark(SNAPSHOT_REQUEST), &mark(SNAPSHOT_DONE))?;
        }
        (Role::Agent, Some(_)) => follow(&boot, &mark(RESTORED))?,
        (Role::Agent, None) => register(&boot)?,
    }
    Ok(0)
}

/// Takes a snapshot for a request that has no answer yet.
fn answer(boot: &Boot, kubernetes: &Kubernetes, request: &str, done: &str) -> Result<()> {
    if request.is_empty() || done.split(' ').next() == Some(request) {
        return Ok(());
    }
    let saved = save::save(boot).context("failed to take the snapshot that was asked for")?;
    let text = format!("{request} {} {}", saved.file, saved.sha256);
    kubernetes.patch_node(
        &boot.machine.hostname,
        &json!({"metadata": {"annotations": {SNAPSHOT_DONE: text}}}),
    )?;
    journal::info(&boot.machine.root, "watch", &format!("snapshot {} as asked", saved.file));
    Ok(())
}

/// Restarts K3s once for each restore. What is seen first is no news: K3s started after it.
fn follow(boot: &Boot, generation: &str) -> Result<()> {
    let seen = fs_err::read_to_string(boot.path(SEEN)).ok();
    if seen.as_deref() == Some(generation) {
        return Ok(());
    }
    // Before the restart: a power cut between the two restarts K3s as well.
    ensure_file(&boot.path(SEEN), generation.as_bytes(), 0o600)?;
    if seen.is_some() && !generation.is_empty() {
        restart(boot, "the cluster was restored from a snapshot")?;
    }
    Ok(())
}

/// A kubelet registers only when it starts: one whose Node is gone would stay outside for ever.
fn register(boot: &Boot) -> Result<()> {
    let now = std::time::SystemTime::now();
    let now =
        now.duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let last = fs_err::read_to_string(boot.path(MISSED)).ok().and_then(|t| t.parse::<u64>().ok());
    if last.is_some_and(|last| now.saturating_sub(last) < PATIENCE) {
        return Ok(());
    }
    ensure_file(&boot.path(MISSED), now.to_string().as_bytes(), 0o600)?;
    // The first look may come before the first registration.
    if last.is_some() {
        restart(boot, "the cluster has no Node of this name any more")
    } else {
        Ok(())
    }
}

fn restart(boot: &Boot, why: &str) -> Result<()> {
    journal::warn(&boot.machine.root, "watch", &format!("restarting K3s: {why}"));
    systemd::start(&[boot.config.role.unit()], true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_first_look_is_no_news() {
        let (_dir, boot) = testing::agent();
        follow(&boot, "g1").unwrap();
        assert_eq!(testing::get(&boot, SEEN).unwrap(), "g1");
        follow(&boot, "g1").unwrap();
        register(&boot).unwrap();
        register(&boot).unwrap(); // within the patience: no restart, which would fail here
    }
}
