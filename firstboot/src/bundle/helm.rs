//! The baked `helm`, and its records in the cluster: one Secret per revision, whose labels say how it
//! ended. Only the labels are read, never what is in a Secret.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams};
use node::bundle::Release;
use node::command::Run;
use node::failpoint;

use super::Target;

/// Revisions of a release that are kept, for a rollback by hand.
const HISTORY: &str = "10";
/// How long a rollback or a removal may wait for objects to go.
const SHORT: Duration = Duration::from_mins(5);
/// Beyond the time helm was given to wait: hooks have the same limit each, and helm must end by itself
/// where it can.
const MARGIN: Duration = Duration::from_mins(1);

/// helm, for one cluster.
#[derive(Debug, Clone, Copy)]
pub struct Helm<'a> {
    target: &'a Target<'a>,
}

/// One revision of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Revision {
    number: u64,
    status: String,
    secret: String,
}

/// What is to do about what an interrupted helm left.
#[derive(Debug, PartialEq, Eq)]
enum Recovery {
    Nothing,
    /// Go back to this revision.
    Rollback(u64),
    /// Remove this record of a revision that never was; what it made stays and is taken over. With it,
    /// what was cut short.
    Forget(String, &'static str),
    /// An uninstallation was cut short.
    Uninstalling,
}

impl<'a> Helm<'a> {
    /// helm for `target`.
    pub fn new(target: &'a Target<'a>) -> Self {
        Self { target }
    }

    /// Installs or upgrades a release from its archive and waits until its objects are ready.
    ///
    /// # Errors
    /// helm's last words.
    pub fn upgrade(self, release: &Release, chart: &Path, values: Option<&Path>) -> Result<()> {
        let wait = Duration::from_secs(release.timeout_seconds);
        let mut command = self.command("upgrade", release, wait);
        command.arg(chart).args(["--install", "--wait", "--history-max", HISTORY]);
        // CRDs were applied before; what the image says holds against hands in between (traps H2).
        command.args(["--skip-crds", "--server-side=true", "--force-conflicts"]);
        if let Some(values) = values {
            command.arg("--values").arg(values);
        }
        command.run().context("helm failed")
    }

    /// Whether helm has a record of this release.
    ///
    /// # Errors
    /// The API does not answer.
    pub fn knows(self, namespace: &str, name: &str) -> Result<bool> {
        Ok(!self.revisions(namespace, name)?.is_empty())
    }

    /// Removes a release. Only for one without data.
    ///
    /// # Errors
    /// helm's last words.
    pub fn uninstall(self, namespace: &str, name: &str) -> Result<()> {
        let mut command = self.plain("uninstall", namespace, SHORT);
        command.args([name, "--wait", "--ignore-not-found"]);
        command.run().context("helm failed")
    }

    /// Clears what an interrupted helm left, so that the next one can go on: helm itself refuses a
    /// release whose last revision is pending. Never removes an object of the release.
    ///
    /// # Errors
    /// The API does not answer, helm fails, or somebody began to uninstall a release with data.
    pub fn recover(self, release: &Release) -> Result<Option<String>> {
        let (namespace, name) = (release.namespace.as_str(), release.name.as_str());
        let mut done = None;
        loop {
            match recovery(&self.revisions(namespace, name)?, release.stateful) {
                Recovery::Nothing => return Ok(done),
                Recovery::Rollback(number) => {
                    let mut command = self.command("rollback", release, SHORT);
                    command
                        .arg(number.to_string())
                        .args(["--server-side=true", "--force-conflicts"]);
                    command
                        .run()
                        .context("failed to go back to the last revision that was whole")?;
                    done = Some(format!("went back to revision {number}"));
                }
                Recovery::Forget(secret, what) => {
                    self.forget(namespace, &secret)?;
                    done = Some(format!("forgot {what} that was cut short"));
                }
                Recovery::Uninstalling if release.stateful => {
                    bail!("somebody began to uninstall it, and it holds data: look at it by hand")
                }
                Recovery::Uninstalling => self.uninstall(namespace, name)?,
            }
        }
    }

    fn revisions(self, namespace: &str, name: &str) -> Result<Vec<Revision>> {
        let api: Api<Secret> = Api::namespaced(self.target.kubernetes.client(), namespace);
        let wanted = ListParams::default().labels(&format!("owner=helm,name={name}"));
        let list = self.target.kubernetes.wait(api.list_metadata(&wanted));
        let list = list.with_context(|| format!("failed to ask for helm's records of {name}"))?;
        let mut revisions: Vec<_> = list
            .items
            .into_iter()
            .filter_map(|secret| {
                let labels = secret.metadata.labels.unwrap_or_default();
                Some(Revision {
                    number: labels.get("version")?.parse().ok()?,
                    status: labels.get("status")?.clone(),
                    secret: secret.metadata.name?,
                })
            })
            .collect();
        revisions.sort_by_key(|r| r.number);
        Ok(revisions)
    }

    fn forget(self, namespace: &str, secret: &str) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.target.kubernetes.client(), namespace);
        failpoint::reach();
        let done = self.target.kubernetes.wait(api.delete(secret, &DeleteParams::default()));
        failpoint::reach();
        done.map(drop).with_context(|| format!("failed to remove helm's record {secret}"))
    }

    fn command(self, verb: &str, release: &Release, wait: Duration) -> Command {
        let mut command = self.plain(verb, release.namespace.as_str(), wait);
        command.arg(release.name.as_str());
        command
    }

    /// By `timeout`: nothing may hold a boot's last stage for ever, not even a helm that hangs.
    fn plain(self, verb: &str, namespace: &str, wait: Duration) -> Command {
        let mut command = Command::new("timeout");
        let all = 2 * wait + MARGIN;
        command.args(["--kill-after=10", &all.as_secs().to_string()]).arg(&self.target.helm);
        command.args([
            verb,
            "--namespace",
            namespace,
            "--timeout",
            &format!("{}s", wait.as_secs()),
        ]);
        command.arg("--kubeconfig").arg(self.target.kubeconfig);
        // A unit has no home, and helm asks for one.
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"] {
            command.env(name, &self.target.scratch);
        }
        command
    }

    /// How long `upgrade` and what may come before it can take at most.
    pub fn longest(release: &Release) -> Duration {
        2 * Duration::from_secs(release.timeout_seconds) + 2 * SHORT + 2 * MARGIN
    }
}

/// Helm's rollback removes what the cut revision has and the whole one has not, volumes too: a release
/// with data never goes that way.
fn recovery(revisions: &[Revision], stateful: bool) -> Recovery {
    let Some(newest) = revisions.last() else { return Recovery::Nothing };
    match newest.status.as_str() {
        "uninstalling" => return Recovery::Uninstalling,
        status if !status.starts_with("pending-") => return Recovery::Nothing,
        _ => {}
    }
    match revisions.iter().rev().find(|r| r.status == "deployed") {
        Some(_) if stateful => Recovery::Forget(newest.secret.clone(), "an upgrade"),
        Some(good) => Recovery::Rollback(good.number),
        None => Recovery::Forget(newest.secret.clone(), "an installation"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(statuses: &[&str], stateful: bool) -> Recovery {
        let revision = |(n, status): (usize, &&str)| Revision {
            number: n as u64 + 1,
            status: (*status).to_owned(),
            secret: format!("v{}", n + 1),
        };
        recovery(&statuses.iter().enumerate().map(revision).collect::<Vec<_>>(), stateful)
    }

    #[test]
    fn what_a_cut_left_is_undone_without_touching_data() {
        let installation = |secret: &str| Recovery::Forget(secret.into(), "an installation");
        for (statuses, want) in [
            (&[][..], Recovery::Nothing),
            (&["deployed"], Recovery::Nothing),
            (&["failed"], Recovery::Nothing),
            (&["superseded", "deployed"], Recovery::Nothing),
            (&["pending-install"], installation("v1")),
            (&["deployed", "pending-upgrade"], Recovery::Rollback(1)),
            (&["superseded", "deployed", "failed", "pending-rollback"], Recovery::Rollback(2)),
            (&["failed", "pending-upgrade"], installation("v2")),
            (&["superseded", "pending-upgrade"], installation("v2")),
            (&["deployed", "uninstalling"], Recovery::Uninstalling),
        ] {
            assert_eq!(after(statuses, false), want, "{statuses:?}");
        }
        let upgrade = |secret: &str| Recovery::Forget(secret.into(), "an upgrade");
        assert_eq!(after(&["deployed", "pending-upgrade"], true), upgrade("v2"));
        assert_eq!(after(&["deployed", "failed", "pending-rollback"], true), upgrade("v3"));
        assert_eq!(after(&["pending-install"], true), installation("v1"));
        assert_eq!(after(&["deployed", "failed"], true), Recovery::Nothing);
    }
}
