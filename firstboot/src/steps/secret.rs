//! The join secret (D10): arrives as a payload on a tmpfs, is stored as K3s' token files, and the
//! payload goes. Absent, broken and contradictory are different answers; one that is not whole
//! yet counts as absent.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use node::config::Role;
use node::files::{Changed, ensure_absent, ensure_file};
use node::join::{FILE, FOLDER, Join, NotJoin};

use super::{Done, Step, fixable};
use crate::boot::{Boot, Machine};
use crate::origin;

/// Token with which a server starts or joins, and the key of its data.
pub const SERVER_TOKEN: &str = "etc/rancher/k3s/secrets/server-token";
/// Token with which an agent joins; on a server, the one it asks of agents.
pub const AGENT_TOKEN: &str = "etc/rancher/k3s/secrets/agent-token";

/// The step.
pub const STEP: Step = Step {
    name: "secret",
    lasting: true,
    fix: "see `journalctl -u firstboot-host` on the node",
    satisfied: |boot| Ok(boot.path(token_path(boot)).exists() && !payload(&boot.machine).exists()),
    apply,
};

/// What tells one payload from the next: inode, size and time of change.
pub fn mark(machine: &Machine) -> Option<(u64, u64, SystemTime)> {
    let meta = fs_err::metadata(payload(machine)).ok()?;
    Some((meta.ino(), meta.size(), meta.modified().ok()?))
}

fn payload(machine: &Machine) -> PathBuf {
    machine.path(FOLDER).join(FILE)
}

fn token_path(boot: &Boot) -> &'static str {
    match boot.config.role {
        Role::Server => SERVER_TOKEN,
        Role::Agent => AGENT_TOKEN,
    }
}

fn apply(boot: &mut Boot) -> Result<Done> {
    let path = payload(&boot.machine);
    let data = match fs_err::read(&path) {
        Ok(data) => data,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(absent(boot, "no join secret"));
        }
        Err(e) => return Err(e.into()),
    };
    let join = match Join::decode(&data) {
        Ok(join) => join,
        Err(e @ NotJoin::Incomplete { .. }) => {
            return Ok(absent(boot, &format!("the join secret is {e}")));
        }
        Err(e @ NotJoin::Broken(_)) => {
            return Err(fixable(format!("the join secret is {e}"), again(boot)));
        }
    };
    check(boot, &join)?;
    let stored = store(boot, &join)?;
    ensure_absent(&path)?;
    boot.k3s_changed |= stored == Changed::Yes;
    Ok(match stored {
        Changed::Yes => Done::changed("stored, payload removed"),
        Changed::No => Done::unchanged("the same as stored, payload removed"),
    })
}

fn absent(boot: &Boot, missing: &str) -> Done {
    if boot.path(token_path(boot)).exists() {
        return Done::unchanged("");
    }
    let fix = format!("{}, or `firstboot join FILE` on the node", again(boot));
    Done::waiting(missing, fix)
}

fn again(boot: &Boot) -> String {
    format!("`builder node enroll {}`", boot.machine.hostname)
}

/// The payload is whole; it must also be meant for this node and fit what is stored.
fn check(boot: &Boot, join: &Join) -> Result<()> {
    let me = &boot.machine.hostname;
    let refuse = |cause: String| Err(fixable(format!("the join secret {cause}"), again(boot)));
    if join.node.as_str() != me {
        return refuse(format!("is for node `{}`, this is `{me}`", join.node));
    }
    for token in [Some(&join.token), join.agent_token.as_ref()].into_iter().flatten() {
        if token.is_empty() || token.contains(char::is_whitespace) {
            return refuse("has a token that is empty or holds white space".into());
        }
    }
    if boot.config.role == Role::Agent && (join.bootstrap || join.agent_token.is_some()) {
        return refuse("carries what only a server may have, and this is an agent".into());
    }
    for (path, token) in tokens(boot, join) {
        let differs = fs_err::read_to_string(boot.path(path)).is_ok_and(|old| old.trim() != token);
        if differs {
            return Err(fixable(
                format!("the join secret contradicts /{path}: another token is stored there"),
                format!(
                    "give the token this node joined with, or rebuild it with `builder node \
                     rebuild {me}`"
                ),
            ));
        }
    }
    Ok(())
}

/// Token files of this role in the order to write them: the one that `satisfied` asks for last.
fn tokens<'a>(boot: &Boot, join: &'a Join) -> Vec<(&'static str, &'a str)> {
    let agent = join.agent_token.iter().map(|t| (AGENT_TOKEN, t.as_str()));
    agent.chain([(token_path(boot), join.token.as_str())]).collect()
}

fn store(boot: &Boot, join: &Join) -> Result<Changed> {
    // The permission to initialise outlives the payload until K3s has a database (see `origin`).
    let permission = boot.path(origin::PERMISSION);
    let mut changed = if join.bootstrap {
        ensure_file(&permission, b"", 0o600)?
    } else {
        ensure_absent(&permission)?
    };
    for (path, token) in tokens(boot, join) {
        changed =
            changed.or(ensure_file(&boot.path(path), format!("{token}\n").as_bytes(), 0o600)?);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::fix_of;
    use crate::testing;
    use node::report::Outcome;

    const TOKEN: &str = "K10abc::server:s3cret";

    fn join(node: &str) -> Join {
        Join {
            node: node.parse().unwrap(),
            token: TOKEN.into(),
            agent_token: None,
            bootstrap: false,
        }
    }

    fn give(boot: &Boot, join: &Join) {
        let data = join.encode().unwrap();
        node::files::ensure_file(&payload(&boot.machine), &data, 0o666).unwrap();
    }

    #[test]
    fn absent_and_incomplete_wait_and_say_the_command() {
        let (_dir, mut boot) = testing::agent();
        let done = apply(&mut boot).unwrap();
        assert_eq!((done.outcome, done.detail.as_str()), (Outcome::Waiting, "no join secret"));
        assert!(done.fix.contains("`builder node enroll k3s-worker-01`"), "{}", done.fix);
        let data = join("k3s-worker-01").encode().unwrap();
        node::files::ensure_file(&payload(&boot.machine), &data[..data.len() - 1], 0o666).unwrap();
        let done = apply(&mut boot).unwrap();
        assert_eq!(done.outcome, Outcome::Waiting);
        assert!(done.detail.starts_with("the join secret is incomplete: "), "{}", done.detail);
    }

    #[test]
    fn a_good_one_is_stored_and_its_payload_goes() {
        let (_dir, mut boot) = testing::agent();
        give(&boot, &join("k3s-worker-01"));
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Applied);
        assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), format!("{TOKEN}\n"));
        assert_eq!(fs_err::metadata(boot.path(AGENT_TOKEN)).unwrap().mode() & 0o777, 0o600);
        assert!(!payload(&boot.machine).exists() && (STEP.satisfied)(&boot).unwrap());
        give(&boot, &join("k3s-worker-01"));
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
    }

    #[test]
    fn a_server_keeps_both_tokens_and_the_permission() {
        let (_dir, mut boot) = testing::server();
        let mut secret = join("k3s-master");
        (secret.agent_token, secret.bootstrap) = (Some("agents".into()), true);
        give(&boot, &secret);
        apply(&mut boot).unwrap();
        assert_eq!(testing::get(&boot, SERVER_TOKEN).unwrap(), format!("{TOKEN}\n"));
        assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), "agents\n");
        assert!(boot.path(origin::PERMISSION).exists());
        secret.bootstrap = false;
        give(&boot, &secret);
        apply(&mut boot).unwrap();
        assert!(!boot.path(origin::PERMISSION).exists());
    }

    #[test]
    fn every_wrong_payload_is_refused_for_its_reason_and_changes_nothing() {
        let agent = |change: fn(&mut Join)| {
            let mut secret = join("k3s-worker-01");
            change(&mut secret);
            secret
        };
        let cases = [
            (join("k3s-master"), "is for node `k3s-master`, this is `k3s-worker-01`"),
            (agent(|j| j.token.clear()), "has a token that is empty or holds white space"),
            (agent(|j| j.token.push('\n')), "has a token that is empty or holds white space"),
            (agent(|j| j.bootstrap = true), "carries what only a server may have"),
            (agent(|j| j.agent_token = Some("x".into())), "carries what only a server may have"),
            (agent(|j| j.token.push('2')), "contradicts /etc/rancher/k3s/secrets/agent-token"),
        ];
        for (secret, want) in cases {
            let (_dir, mut boot) = testing::agent();
            testing::put(&boot, AGENT_TOKEN, &format!("{TOKEN}\n"));
            give(&boot, &secret);
            let error = apply(&mut boot).unwrap_err();
            let text = format!("{error:#} {}", fix_of(&error, &STEP));
            assert!(text.starts_with(&format!("the join secret {want}")), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
            assert_eq!(testing::get(&boot, AGENT_TOKEN).unwrap(), format!("{TOKEN}\n"));
            assert!(payload(&boot.machine).exists());
        }
    }
}
