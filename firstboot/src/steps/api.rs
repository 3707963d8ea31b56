//! The Kubernetes API answers; or K3s cannot come up, and the reason is shown.

use std::time::Duration;

use anyhow::Result;

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

fn apply(boot: &mut Boot) -> Result<Done> {
    let limit = boot.machine.limit(LIMIT);
    let kubernetes = until(limit, PAUSE, || {
        k3s_can_run(boot)?;
        Ok(match connect(boot) {
            Ok(kubernetes) => Look::Done(kubernetes),
            Err(error) => Look::NotYet(format!("no answer from the API: {error:#}")),
        })
    })?;
    boot.kubernetes = Some(kubernetes);
    Ok(Done::unchanged(""))
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
    let last = without_tokens(boot, &last_lines(unit));
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
        token => text.replace(token, "(token)"),
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
}
