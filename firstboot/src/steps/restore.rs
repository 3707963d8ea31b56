//! The restore of a lost sole server (D12, k3s.md §4.3): the newest snapshot that fits and is whole,
//! copied to the local disk, given to K3s' own reset, and proven by more than its exit status.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Error, Result, bail, ensure};
use fs_err as fs;
use node::config::Role;
use node::failpoint;
use node::files::{ensure_absent, ensure_file};
use node::values::Digest;
use serde::{Deserialize, Serialize};

use super::origin::wait_for_nfs;
use super::secret::SERVER_TOKEN;
use super::{Done, Step, fixable};
use crate::boot::Boot;
use crate::journal;
use crate::origin::UNFINISHED;
use crate::snapshot::place::{Place, Reach, reach};
use crate::snapshot::save::CA;
use crate::snapshot::sidecar::Sidecar;
use crate::snapshot::{choose, copy};

/// What tells a reset that worked: K3s ends with status 0 on errors too (k3s.md §4.1).
const SUCCESS: &str = "Managed etcd cluster membership has been reset";
/// How long a reset may take, in seconds as `timeout` counts: 6 s were seen on hardware.
const LIMIT: &str = "300";
/// How many snapshots are tried: when five in a row fail, the fault is not theirs. With [`LIMIT`] and
/// the copies this stays below `TimeoutStartSec` of firstboot-host.service.
const ATTEMPTS: usize = 5;
/// K3s' server state.
const SERVER: &str = "var/lib/rancher/k3s/server";
/// Folder of the snapshot being restored: K3s fails on a path that goes away while it reads (k3s.md §4.3).
const COPY: &str = "var/lib/firstboot/restore";
/// How much of K3s' output goes into an error.
const LAST: usize = 600;
/// What was restored, for the cluster stage.
pub const RESTORED: &str = "var/lib/firstboot/restored.json";

/// The content of [`RESTORED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    /// The snapshot's file name.
    pub file: String,
    /// Its digest and the boot: no other restore has both.
    pub generation: String,
    /// Whether every Node was told.
    pub announced: bool,
}

/// The step.
pub const STEP: Step = Step {
    name: "restore",
    lasting: false,
    fix: "see `journalctl -u firstboot-host` on the node",
    satisfied: |boot| Ok(boot.config.role == Role::Agent || !boot.path(UNFINISHED).exists()),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let place = match reach(boot)? {
        Reach::There(place) => place,
        Reach::NotNow(why) => return Ok(wait_for_nfs(boot, why)),
        Reach::Nowhere => bail!("cluster.toml has no NFS export any more"),
    };
    let shelf = match choose::look_within(&place, &boot.config.k3s_version) {
        Ok(shelf) => shelf,
        Err(why) => return Ok(wait_for_nfs(boot, format!("{why:#}"))),
    };
    let mut causes = Vec::new();
    for sidecar in shelf.fits.iter().take(ATTEMPTS) {
        let why = match one(boot, &place, sidecar) {
            Ok(()) => return finish(boot, sidecar),
            Err(Failed::Now(why)) => {
                return Ok(wait_for_nfs(boot, format!("{}: {why:#}", sidecar.file)));
            }
            Err(Failed::Here(why)) => return Err(why),
            Err(Failed::Always(why)) => format!("{}: {why:#}", sidecar.file),
        };
        journal::warn(&boot.machine.root, STEP.name, &format!("not restored: {why}"));
        causes.push(why);
    }
    let cause = causes.join("; ");
    let fix = "bring a sound snapshot back to this node's folder on NFS and restart the node";
    Err(fixable(format!("no snapshot could be restored: {cause}"), fix))
}

/// Why a snapshot was not restored, by what that says of it.
enum Failed {
    /// The share stumbled: nothing is known of the snapshot, and an older one would lose data.
    Now(Error),
    /// This machine's own fault, which meets every snapshot.
    Here(Error),
    /// It cannot be restored: the next one may.
    Always(Error),
}

fn one(boot: &Boot, place: &Place, sidecar: &Sidecar) -> Result<(), Failed> {
    let local = prepare(boot).map_err(Failed::Here)?;
    fetch(place, sidecar, &local)
        .map_err(|why| if is_of_io(&why) { Failed::Now(why) } else { Failed::Always(why) })?;
    let result = reset(boot, &local).and_then(|()| proven(boot, sidecar));
    if result.is_err() {
        clean(&boot.path(SERVER)).map_err(Failed::Here)?;
    }
    result.map_err(Failed::Always)
}

/// Removes what an earlier attempt left and returns the place of the copy.
fn prepare(boot: &Boot) -> Result<PathBuf> {
    clean(&boot.path(SERVER))?;
    clear_copy(boot)?;
    fs::create_dir_all(boot.path(COPY))?;
    Ok(boot.path(COPY).join("snapshot"))
}

fn fetch(place: &Place, sidecar: &Sidecar, local: &Path) -> Result<()> {
    let (_, sha256) = copy::snapshot(&place.folder.join(&sidecar.file), local)?;
    ensure!(sha256 == sidecar.sha256, "its bytes are not those of its sidecar: sha256 {sha256}");
    Ok(())
}

/// Whether a file could not be read or written, rather than having wrong bytes or being gone.
fn is_of_io(why: &Error) -> bool {
    let io = why.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|e| e.kind() != std::io::ErrorKind::NotFound)
}

fn clear_copy(boot: &Boot) -> Result<()> {
    match fs::remove_dir_all(boot.path(COPY)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Runs K3s' own reset. The token goes by the environment: the reset does not read `token-file`,
/// and an argument would be seen by every process.
fn reset(boot: &Boot, local: &Path) -> Result<()> {
    let token = fs::read_to_string(boot.path(SERVER_TOKEN))?;
    let mut command = Command::new("timeout");
    command.args(["-k", "10", LIMIT, "k3s", "server", "--cluster-reset"]);
    command.arg(format!("--cluster-reset-restore-path={}", local.display()));
    command.env("K3S_TOKEN", token.trim());
    failpoint::reach();
    let output = command.output();
    failpoint::reach();
    let Output { status, stdout, stderr } = output.context("failed to start K3s for the reset")?;
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    if status.success() && text.contains(SUCCESS) {
        return Ok(());
    }
    // Blotted out before the cut, which could leave a half of it.
    let text = without_token(&text, token.trim());
    let last: String = text.trim().chars().rev().take(LAST).collect();
    let last: String = last.chars().rev().collect();
    bail!("K3s did not reset itself ({status}): {last}")
}

/// `text` without the token, whole or its password alone.
pub fn without_token(text: &str, token: &str) -> String {
    let text = text.replace(token, "(token)");
    match token.rsplit_once(':') {
        Some((_, password)) if !password.is_empty() => text.replace(password, "(token)"),
        _ => text,
    }
}

/// The CA that came out of the snapshot is the one its sidecar names.
fn proven(boot: &Boot, sidecar: &Sidecar) -> Result<()> {
    let ca = fs::read(boot.path(CA)).context("the reset left no server CA")?;
    ensure!(Digest::of(ca) == sidecar.ca_sha256, "the restored CA is not the cluster's");
    Ok(())
}

/// Removes what a reset leaves (k3s.md §4.3 step 6); never the snapshots beside it.
fn clean(server: &Path) -> Result<()> {
    for (folder, prefixes) in [("db", &["etcd", "reset-flag"][..]), ("", &["tls", "cred", "token"])]
    {
        let folder = server.join(folder);
        if !fs_err::exists(&folder)? {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !prefixes.iter().any(|p| name.starts_with(p)) {
                continue;
            }
            failpoint::reach();
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn finish(boot: &mut Boot, sidecar: &Sidecar) -> Result<Done> {
    let generation = format!("{}-{}", sidecar.sha256.short(12), boot.machine.boot_id);
    let restored = Restored { file: sidecar.file.clone(), generation, announced: false };
    ensure_file(&boot.path(RESTORED), &serde_json::to_vec_pretty(&restored)?, 0o600)?;
    clear_copy(boot)?;
    // Last: from here on the database on this disk is whole.
    ensure_absent(&boot.path(UNFINISHED))?;
    boot.k3s_changed = true;
    Ok(Done::changed(format!(
        "from {}, taken at {} (seconds since 1970)",
        sidecar.file, sidecar.taken
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn no_half_of_a_token_is_shown() {
        let token = "K10abc::server:s3cret";
        for text in ["fatal s3cret", "fatal K10abc::server:s3cret", "server:s3cret"] {
            assert!(!without_token(text, token).contains("s3cret"), "{text}");
        }
        assert_eq!(without_token("x s3cret", "s3cret"), "x (token)");
    }

    #[test]
    fn only_a_share_that_stumbles_is_waited_for() {
        let io = |kind| Error::from(std::io::Error::from(kind)).context("snapshot");
        assert!(is_of_io(&io(std::io::ErrorKind::StaleNetworkFileHandle)));
        assert!(!is_of_io(&io(std::io::ErrorKind::NotFound)));
        assert!(!is_of_io(&Error::msg("5 bytes is no length of a snapshot")));
    }

    #[test]
    fn cleaning_takes_what_a_reset_left_and_leaves_the_snapshots() {
        let (_dir, boot) = testing::server();
        for path in [
            "db/etcd/member/snap/db",
            "db/etcd-old-1/x",
            "db/reset-flag",
            "tls/a",
            "tls-2/a",
            "cred/passwd",
            "token",
            "db/snapshots/s-1",
            "manifests/m",
        ] {
            testing::put(&boot, &format!("{SERVER}/{path}"), "");
        }
        clean(&boot.path(SERVER)).unwrap();
        clean(&boot.path(SERVER)).unwrap();
        let left = |path: &str| boot.path(SERVER).join(path).exists();
        assert!(left("db/snapshots/s-1") && left("manifests/m"));
        for gone in ["db/etcd", "db/etcd-old-1", "db/reset-flag", "tls", "tls-2", "cred", "token"] {
            assert!(!left(gone), "{gone}");
        }
        clean(&boot.path("nothing/here")).unwrap();
    }
}
