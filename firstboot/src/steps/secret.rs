//! The join secret (D10): arrives as a payload on a tmpfs or on a drive, is stored as K3s' token files,
//! and the payload goes. Absent, broken and contradictory are different answers; one that is not whole
//! yet counts as absent.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use node::config::Role;
use node::files::{Changed, ensure_absent, ensure_file};
use node::join::{Bootstrap, FILE, FOLDER, Join, NotJoin};
use node::token::Token;
use node::values::{Digest, Hostname};

use super::{Done, Step, fixable};
use crate::boot::{Boot, Machine};
use crate::{drive, journal, origin};

/// Token with which a server starts or joins, and the key of its data.
pub const SERVER_TOKEN: &str = "etc/rancher/k3s/secrets/server-token";
/// Token with which an agent joins; on a server, the one it asks of agents.
pub const AGENT_TOKEN: &str = "etc/rancher/k3s/secrets/agent-token";

/// The cluster's id.
pub const CLUSTER_ID: &str = "etc/rancher/k3s/secrets/cluster-id";
/// Key of the snapshots' HMACs.
pub const SNAPSHOT_KEY: &str = "etc/rancher/k3s/secrets/snapshot-key";
/// Written by K3s when an agent has joined: from then on its token stays.
const JOINED: &str = "var/lib/rancher/k3s/agent/client-kubelet.crt";

/// Written by K3s when a server has started.
const K3S_TOKEN: &str = "var/lib/rancher/k3s/server/token";

/// Digest of what was last taken from the drive, which stays in the VM until `builder` takes it away:
/// its one-time permission must not come back with every boot.
const TAKEN: &str = "var/lib/firstboot/drive-taken";

/// The step.
pub const STEP: Step = Step {
    name: "secret",
    lasting: true,
    fix: "see `journalctl -u firstboot-host` on the node",
    satisfied: |boot| {
        let stored = boot.path(token_path(boot)).exists() && !payload(&boot.machine).exists();
        Ok(stored && on_drive(boot)?.is_none())
    },
    apply,
};

/// What tells one payload from the next: inode, size and time of change, and whether the drive is
/// there.
pub fn mark(machine: &Machine) -> (Option<(u64, u64, SystemTime)>, bool) {
    let meta = fs_err::metadata(payload(machine)).ok();
    let file = meta.and_then(|m| Some((m.ino(), m.size(), m.modified().ok()?)));
    (file, drive::is_there(machine))
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

/// A payload and where it lay, as words that follow "the join secret".
struct Found {
    data: Vec<u8>,
    place: &'static str,
}

/// The places in D10's order. What an operator gives by `firstboot join` lies where the guest agent
/// puts it.
fn found(boot: &Boot) -> Result<Vec<Found>> {
    let file = match fs_err::read(payload(&boot.machine)) {
        Ok(data) => Some(Found { data, place: "" }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let drive = on_drive(boot)?.map(|data| Found { data, place: " on the drive FIRSTBOOT" });
    Ok(file.into_iter().chain(drive).collect())
}

/// What lies on the drive and was not taken yet.
fn on_drive(boot: &Boot) -> Result<Option<Vec<u8>>> {
    let data = match drive::read(&boot.machine) {
        Ok(Some(data)) => data,
        Ok(None) => return Ok(None),
        // A node that has its secret does not stay down for a drive that is not needed.
        Err(why) if boot.path(token_path(boot)).exists() => {
            journal::warn(&boot.machine.root, STEP.name, &format!("{why:#}"));
            return Ok(None);
        }
        Err(why) => return Err(fixable(format!("{why:#}"), again(boot))),
    };
    let taken = fs_err::read_to_string(boot.path(TAKEN)).unwrap_or_default();
    Ok((taken != Digest::of(&data).to_string()).then_some(data))
}

fn apply(boot: &mut Boot) -> Result<Done> {
    let mut missing = "no join secret".to_owned();
    for Found { data, place } in found(boot)? {
        let join = match Join::decode(&data) {
            Ok(join) => join,
            Err(e @ NotJoin::Incomplete { .. }) => {
                missing = format!("the join secret{place} is {e}");
                continue;
            }
            Err(e @ NotJoin::Broken(_)) => {
                return Err(fixable(format!("the join secret{place} is {e}"), again(boot)));
            }
        };
        check(boot, &join, place)?;
        let stored = store(boot, &join)?;
        if place.is_empty() {
            ensure_absent(&payload(&boot.machine))?;
        } else {
            ensure_file(&boot.path(TAKEN), Digest::of(&data).to_string().as_bytes(), 0o600)?;
        }
        boot.k3s_changed |= stored == Changed::Yes;
        let from = if place.is_empty() { ", payload removed" } else { ", from the drive" };
        return Ok(match stored {
            Changed::Yes => Done::changed(format!("stored{from}")),
            Changed::No => Done::unchanged(format!("the same as stored{from}")),
        });
    }
    Ok(absent(boot, &missing))
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
fn check(boot: &Boot, join: &Join, place: &str) -> Result<()> {
    let me = &boot.machine.hostname;
    let refuse =
        |cause: String| Err(fixable(format!("the join secret{place} {cause}"), again(boot)));
    if join.node.as_str() != me {
        return refuse(format!("is for node `{}`, this is `{me}`", join.node));
    }
    if let Err(cause) = join.check_role(boot.config.role) {
        return refuse(cause);
    }
    // Nothing depends on what is stored yet: a newer one takes its place. An agent's token is
    // short-lived, and a server that could not open its snapshots must be able to get the right one.
    if !has_used(boot)? {
        return Ok(());
    }
    for (path, value) in values(boot, join) {
        let Ok(old) = fs_err::read_to_string(boot.path(path)) else { continue };
        if !agrees(path, old.trim(), value) {
            return Err(fixable(
                format!("the join secret{place} contradicts /{path}: another is stored there"),
                format!(
                    "give the one this node works with, or rebuild it with `builder node rebuild {me}`"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether a value can take the place of the one that this node has worked with.
fn agrees(path: &str, old: &str, new: &str) -> bool {
    let (Ok(was), Ok(is)) = (Token::parse(old), Token::parse(new)) else { return old == new };
    if path != SERVER_TOKEN && path != AGENT_TOKEN {
        return old == new;
    }
    // Both forms of one token are the same; another CA is another cluster.
    let same_ca = was.ca.is_none() || is.ca.is_none() || was.ca == is.ca;
    // One made for one join, by a cluster that is known to be the same: K3s knows this node by now.
    let fresh = is.user.is_empty() && is.ca.is_some() && is.ca == was.ca;
    same_ca && (was.password == is.password || fresh)
}

/// Whether K3s of this node has worked with what is stored. A restore that did not come to its end
/// has left nothing that counts.
fn has_used(boot: &Boot) -> Result<bool> {
    let exists = |path: &str| fs_err::exists(boot.path(path));
    Ok(match boot.config.role {
        Role::Agent => exists(JOINED)?,
        Role::Server => {
            !exists(origin::UNFINISHED)? && (exists(origin::DATABASE)? || exists(K3S_TOKEN)?)
        }
    })
}

/// Files of this role in the order to write them: the one that `satisfied` asks for last.
fn values<'a>(boot: &Boot, join: &'a Join) -> Vec<(&'static str, &'a str)> {
    let optional = [
        (AGENT_TOKEN, join.agent_token.as_deref()),
        (CLUSTER_ID, join.cluster_id.as_ref().map(Hostname::as_str)),
        (SNAPSHOT_KEY, join.snapshot_key.as_deref()),
    ];
    let given = optional.into_iter().filter_map(|(path, value)| Some((path, value?)));
    given.chain([(token_path(boot), join.token.as_str())]).collect()
}

fn store(boot: &Boot, join: &Join) -> Result<Changed> {
    // The permission outlives the payload until K3s has a database (see `origin`).
    let permission = boot.path(origin::PERMISSION);
    let earlier = origin::permission(boot)?;
    let mut changed = match (join.bootstrap, earlier) {
        // A server that has its database needs none, and one to make a new cluster would stop its next
        // start: whoever gives it twice, because the first time seemed to fail, must not lose the node.
        (Bootstrap::Once | Bootstrap::Unrecorded, None) if origin::has_database(boot)? => {
            Changed::No
        }
        (Bootstrap::No, _) => ensure_absent(&permission)?,
        // Given again it stays the same permission, under which the cluster may be on record.
        (how, Some(earlier)) if earlier.restore == (how == Bootstrap::Restore) => Changed::No,
        (how, _) => ensure_file(&permission, &permit(how)?, 0o600)?,
    };
    for (path, value) in values(boot, join) {
        // The form that names the CA is kept: the other one knows less.
        let old = fs_err::read_to_string(boot.path(path)).unwrap_or_default();
        let knows_ca =
            Token::parse(old.trim()).is_ok_and(|t| t.ca.is_some() && t.password == value);
        if !knows_ca {
            let text = format!("{value}\n");
            changed = changed.or(ensure_file(&boot.path(path), text.as_bytes(), 0o600)?);
        }
    }
    Ok(changed)
}

fn permit(how: Bootstrap) -> Result<Vec<u8>> {
    let mut bytes = [0; 16];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let recorded = how != Bootstrap::Unrecorded;
    let restore = how == Bootstrap::Restore;
    let permission = origin::Permission { nonce: Digest::of(bytes).short(32), recorded, restore };
    Ok(serde_json::to_vec(&permission)?)
}

#[cfg(test)]
#[path = "secret_tests.rs"]
mod tests;
