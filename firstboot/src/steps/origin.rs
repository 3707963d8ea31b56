//! Which database a server's K3s starts from (D11): the step that decides, and claims what only one
//! may have, before anything is written for K3s.

use anyhow::Result;
use node::config::{Birth, Role};
use node::files::{ensure_absent, ensure_file};

use super::{Done, Step, fixable};
use crate::boot::Boot;
use crate::origin::{DATABASE, Facts, Origin, PEER, PERMISSION, Permission, UNFINISHED, decide};
use crate::peers::same_birth;
use crate::snapshot::place::{Claim, Reach, reach};

/// The step.
pub const STEP: Step = Step {
    name: "origin",
    lasting: false,
    fix: "see `journalctl -u firstboot-host` on the node",
    satisfied: |boot| Ok(boot.config.role == Role::Agent),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let name = boot.machine.hostname.clone();
    match decide(&Facts::of(boot)?) {
        Origin::Disk => Ok(Done::unchanged("the database on this disk")),
        Origin::Initialise(permission) => {
            ensure_absent(&boot.path(PEER))?;
            claim(boot, &permission)
        }
        Origin::Join(url) => join(boot, &url),
        Origin::Restore => {
            match birth(boot) {
                Ok(recorded) => compare(boot, &recorded)?,
                Err(why) => return Ok(wait_for_nfs(boot, format!("{why:#}"))),
            }
            // First: the permission to restore one of several servers is used up by it.
            ensure_file(&boot.path(UNFINISHED), b"", 0o600)?;
            ensure_absent(&boot.path(PERMISSION))?;
            ensure_absent(&boot.path(PEER))?;
            Ok(Done::changed("the newest snapshot on NFS that fits"))
        }
        Origin::Wait(why) => Ok(wait_for_nfs(boot, why)),
        Origin::WaitForPeers(why) => {
            boot.retry = true;
            let fix = format!(
                "start one of the other servers; this node tries again by itself. If all of them are \
                 lost: `builder node enroll {name} --restore`, or for a new cluster `--bootstrap`"
            );
            Ok(Done::waiting(why, fix))
        }
        Origin::Stop(reason) => {
            let fix = format!(
                "if a new, empty cluster is wanted: `builder node enroll {name} --bootstrap`; \
                 otherwise give this VM the disk with its database back, or bring its snapshots back"
            );
            Err(fixable(reason, fix))
        }
    }
}

/// Not now: systemd runs this stage again.
pub fn wait_for_nfs(boot: &mut Boot, why: String) -> Done {
    boot.retry = true;
    Done::waiting(why, "bring the NFS server back; this node tries again by itself")
}

/// K3s joins by itself; its configuration is written by the step `k3s-config`.
fn join(boot: &mut Boot, url: &str) -> Result<Done> {
    // A join does not need NFS, and K3s compares as well.
    let unsaid = match birth(boot) {
        Ok(recorded) if recorded.is_empty() => "; there is no record to compare settings with",
        Ok(recorded) => compare(boot, &recorded).map(|()| "")?,
        Err(_) => "; the record to compare settings with cannot be read",
    };
    // A permission that was not used yet is not needed any more.
    ensure_absent(&boot.path(PERMISSION))?;
    ensure_file(&boot.path(PEER), url.as_bytes(), 0o600)?;
    Ok(Done::changed(format!("the cluster that answers at {url}{unsaid}")))
}

/// What the cluster was born with; nothing when nothing says so.
fn birth(boot: &Boot) -> Result<Birth> {
    match reach(boot)? {
        Reach::There(place) => place.birth(),
        Reach::Nowhere | Reach::NotNow(_) => Ok(Birth::new()),
    }
}

fn compare(boot: &Boot, recorded: &Birth) -> Result<()> {
    same_birth(&boot.config, recorded).map_err(|why| {
        let fix = "give [k3s] of cluster/cluster.toml the values of the cluster's birth and build \
                   the image again; other values need a new cluster";
        fixable(why.to_string(), fix)
    })
}

fn claim(boot: &mut Boot, permission: &Permission) -> Result<Done> {
    if !permission.recorded {
        return Ok(Done::changed("a new cluster"));
    }
    let place = match reach(boot)? {
        Reach::There(place) => place,
        Reach::Nowhere => return Ok(Done::changed("a new cluster")),
        // It was claimed before K3s made a database.
        Reach::NotNow(_) if fs_err::exists(boot.path(DATABASE))? => {
            return Ok(Done::changed("a new cluster"));
        }
        // Gone since the decision: without its record the cluster might be a second one.
        Reach::NotNow(why) => return Ok(wait_for_nfs(boot, why)),
    };
    let (name, id) = (boot.machine.hostname.clone(), place.id.clone());
    match place.claim(&name, &permission.nonce, &boot.config.cluster.birth)? {
        Claim::Ours => Ok(Done::changed(format!("a new cluster, recorded as {id}"))),
        Claim::Taken(by) => Err(fixable(
            format!("the cluster {id} was started before, by {by}: see its record"),
            format!(
                "bring its snapshots back to NFS, or make a new cluster with `builder cluster \
                 init` and enroll {name} again"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::DATABASE;
    use crate::snapshot::choose::tests::put;
    use crate::snapshot::place::tests::{place, server};
    use crate::snapshot::sidecar::tests::{key, sidecar};
    use crate::steps::fix_of;
    use crate::testing;
    use node::report::Outcome;

    fn permit(boot: &Boot, nonce: &str) {
        let permission = Permission { nonce: nonce.into(), recorded: true, restore: false };
        testing::put(boot, PERMISSION, &serde_json::to_string(&permission).unwrap());
    }

    #[test]
    fn without_a_place_it_waits_and_asks_to_be_run_again() {
        let (_dir, mut boot) = server(false);
        permit(&boot, "n1");
        let done = apply(&mut boot).unwrap();
        assert_eq!((done.outcome, boot.retry), (Outcome::Waiting, true));
        assert!(done.detail.contains("192.0.2.9:/vol is not mounted"), "{}", done.detail);
    }

    #[test]
    fn a_cluster_is_started_once_and_never_again_after_its_disk_is_lost() {
        let (_dir, mut boot) = server(true);
        let text = format!("{:#}", apply(&mut boot).unwrap_err());
        assert!(text.contains("does not permit a new cluster"), "{text}");
        permit(&boot, "n1");
        assert_eq!(apply(&mut boot).unwrap().detail, "a new cluster, recorded as home-1");
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Applied); // after a power cut
        permit(&boot, "n2");
        let error = apply(&mut boot).unwrap_err();
        assert!(format!("{error:#}").contains("was started before, by k3s-master"));
        assert!(fix_of(&error, &STEP).contains("builder cluster init"));
    }

    #[test]
    fn a_snapshot_wins_over_a_permission_and_a_database_over_both() {
        let (_dir, mut boot) = server(true);
        permit(&boot, "n1");
        put(&place(&boot), sidecar(5), &key());
        apply(&mut boot).unwrap();
        assert!(boot.path(UNFINISHED).exists() && !boot.path(PERMISSION).exists());
        fs_err::remove_file(boot.path(UNFINISHED)).unwrap();
        testing::put(&boot, DATABASE, "");
        assert_eq!(apply(&mut boot).unwrap().detail, "the database on this disk");
    }

    #[test]
    fn a_restore_under_other_settings_of_birth_is_refused_before_it_touches_anything() {
        let (_dir, mut boot) = server(true);
        let recorded = Birth::from([("secrets-encryption-provider".into(), "aescbc".into())]);
        place(&boot).claim("k3s-master", "n1", &recorded).unwrap();
        put(&place(&boot), sidecar(5), &key());
        let error = apply(&mut boot).unwrap_err();
        let want = "secrets-encryption-provider = nothing, and was aescbc";
        assert!(format!("{error:#}").ends_with(want), "{error:#}");
        assert!(!boot.path(UNFINISHED).exists());
        boot.config.cluster.birth = recorded;
        apply(&mut boot).unwrap();
        assert!(boot.path(UNFINISHED).exists());
    }
}
