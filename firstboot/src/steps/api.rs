//! The Kubernetes API answers; or K3s cannot come up, and the reason is shown.

use std::time::Duration;

use anyhow::{Error, Result};

use super::restore::without_token;
use super::{Done, Step, fixable};
use crate::boot::Boot;
use crate::kubernetes::{Kubernetes, credentials};
use crate::retry::{Look, until};
use crate::systemd::{EXIT_EXEC, UnitState, last_lines};

/// How long K3s may take: its first start imports images and makes certificates; without hardware
/// virtualisation that is minutes, and an agent also waits for its server.
const LIMIT: Duration = Duration::from_mins(10);

/// Between two looks.
pub const PAUSE: Duration = Duration::from_secs(1);

/// The step.
pub const STEP: Step = Step {
    name: "api",
    lasting: false,
    fix: "see `journalctl -u k3s -u k3s-agent` on the node; on an agent also look whether the \
          master answers on port 6443",
    satisfied: |_| Ok(false),
    apply,
};

/// What K3s says when it will never come up by itself, though its unit runs or is started again for
/// ever (k3s.md §2.3, §3, traps J), and what helps; NODE is this node's name.
const REFUSALS: &[(&str, &str)] = &[
    (
        "Node password rejected",
        "another machine of this name was here: power it off, then on a server `kubectl delete node \
         NODE` and, if it is still there after a minute, `kubectl -n kube-system delete secret \
         NODE.node-password.k3s`; this node goes on by itself",
    ),
    (
        "duplicate node name found",
        "etcd still has the member of the earlier server of this name: power that one off, then on \
         another server `kubectl delete node NODE`; this node goes on by itself",
    ),
    (
        "critical configuration value mismatch",
        "this image has other settings than the cluster's other servers: give [k3s] of \
         cluster/cluster.toml the values of the cluster's birth and build the image again",
    ),
    (
        "encrypted with different token",
        "the server token is not the one this cluster was made with: give the right one with `builder \
         node enroll NODE`",
    ),
    (
        "token CA hash does not match",
        "the token is of another cluster than the one that answers at the API's address: give the \
         right one with `builder node enroll NODE`",
    ),
    (
        "401 Unauthorized",
        "the token is wrong or has run out: give a new one with `builder node enroll NODE`",
    ),
];

fn apply(boot: &mut Boot) -> Result<Done> {
    let limit = boot.machine.limit(LIMIT);
    let kubernetes = until(limit, PAUSE, || {
        k3s_can_run(boot)?;
        Ok(match connect(boot) {
            Ok(kubernetes) => Look::Done(kubernetes),
            Err(error) => Look::NotYet(format!("no answer from the API: {error:#}")),
        })
    })
    .map_err(|error| explained(boot, error))?;
    boot.kubernetes = Some(kubernetes);
    Ok(Done::unchanged(""))
}

/// `error` with K3s' own reason, if it gives one of those that are known.
pub fn explained(boot: &Boot, error: Error) -> Error {
    // One that brings its own help has looked already.
    let text = format!("{error:#}");
    let last = if text.contains("its last lines") { String::new() } else { last_said(boot) };
    let Some(fix) = known(&format!("{text} {last}"), &boot.machine.hostname) else { return error };
    let said = if last.is_empty() { String::new() } else { format!("; K3s says: {last}") };
    fixable(format!("{text}{said}"), fix)
}

fn last_said(boot: &Boot) -> String {
    without_tokens(boot, &last_lines(boot.config.role.unit()))
}

/// What helps against the first known refusal in `text`.
fn known(text: &str, node: &str) -> Option<String> {
    let found = REFUSALS.iter().find(|(said, _)| text.contains(said));
    found.map(|(_, fix)| fix.replace("NODE", node))
}

fn connect(boot: &Boot) -> Result<Kubernetes> {
    // Read anew each time: K3s writes them while it starts.
    let kubernetes = Kubernetes::connect(&credentials(&boot.machine.root, boot.config.role))?;
    kubernetes.ready()?;
    Ok(kubernetes)
}

/// Fails at once when K3s' unit cannot come up by itself, with the last lines of its journal.
pub fn k3s_can_run(boot: &Boot) -> Result<()> {
    let unit = boot.config.role.unit();
    let state = UnitState::of(unit)?;
    let Some(why) = state.hopeless() else { return Ok(()) };
    let last = last_said(boot);
    let fix = if state.status == EXIT_EXEC {
        format!(
            "the image is damaged: rebuild the node from one that passed `builder boot`, with \
             `builder node rebuild {}`",
            boot.machine.hostname
        )
    } else {
        STEP.fix.to_owned()
    };
    Err(fixable(format!("{unit} does not run: {why}; its last lines: {last}"), fix))
}

/// `text` with every stored token blotted out: what others log goes into our report.
fn without_tokens(boot: &Boot, text: &str) -> String {
    let paths = [super::secret::SERVER_TOKEN, super::secret::AGENT_TOKEN];
    let tokens = paths.iter().filter_map(|path| fs_err::read_to_string(boot.path(path)).ok());
    tokens.fold(text.to_owned(), |text, token| match token.trim() {
        "" => text,
        token => without_token(&text, token),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_token_in_anothers_log_is_blotted_out() {
        let (_dir, boot) = testing::server();
        testing::put(&boot, super::super::secret::SERVER_TOKEN, "s3cret\n");
        testing::put(&boot, super::super::secret::AGENT_TOKEN, "\n");
        assert_eq!(without_tokens(&boot, "a s3cret b"), "a (token) b");
    }

    #[test]
    fn what_k3s_refuses_is_told_with_what_helps() {
        for (said, _) in REFUSALS {
            let fix = known(&format!("level=error msg=\"{said}, …\""), "k3s-m2").unwrap();
            assert!(!fix.contains("NODE"), "{fix}");
        }
        assert!(
            known("Node password rejected", "k3s-m2").unwrap().contains("k3s-m2.node-password.k3s")
        );
        assert_eq!(known("waiting for the server", "k3s-m2"), None);
    }
}
