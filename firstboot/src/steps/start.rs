//! The start of K3s, once its configuration stands. K3s' unit is in no target: only this step
//! starts it, and only when `/run/firstboot/ready` says so.

use anyhow::Result;
use node::files::ensure_file;

use super::{Done, Step};
use crate::boot::Boot;
use crate::systemd;

/// Condition of K3s' unit and of the cluster stage; on a tmpfs, so each boot decides anew.
const READY: &str = "run/firstboot/ready";

/// The stage that waits for the node to be Ready.
const CLUSTER_UNIT: &str = "firstboot-cluster.service";

/// The step.
pub const STEP: Step = Step {
    name: "start",
    lasting: false,
    fix: "see `systemctl status k3s k3s-agent firstboot-cluster` on the node",
    satisfied: |boot| {
        let ready = boot.path(READY).exists() && !boot.k3s_changed;
        Ok(ready && systemd::is_active(boot.config.role.unit())?)
    },
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let unit = boot.config.role.unit();
    let again = boot.k3s_changed && systemd::is_active(unit)?;
    ensure_file(&boot.path(READY), b"", 0o644)?;
    // Not waited for: K3s takes minutes, and what comes after is the cluster stage's to tell.
    systemd::start(&[unit, CLUSTER_UNIT], again)?;
    Ok(Done::changed(format!("{unit} {}", if again { "restarted" } else { "started" })))
}
