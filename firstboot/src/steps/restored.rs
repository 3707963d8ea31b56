//! After a restore: Nodes that are no longer in cluster.toml go, and every other one is told, so
//! that its agent restarts K3s once.

use anyhow::{Context, Result};
use node::annotations;
use node::files::write_atomic;
use serde_json::json;

use super::restore::{RESTORED, Restored};
use super::{Done, Step};
use crate::boot::Boot;

/// The step.
pub const STEP: Step = Step {
    name: "restored",
    lasting: false,
    fix: "see whether the API answers; the step is tried again by itself",
    satisfied: |boot| Ok(read(boot)?.is_none_or(|r| r.announced)),
    apply,
};

fn read(boot: &Boot) -> Result<Option<Restored>> {
    match fs_err::read(boot.path(RESTORED)) {
        Ok(text) => {
            Ok(Some(serde_json::from_slice(&text).with_context(|| format!("/{RESTORED}"))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn apply(boot: &mut Boot) -> Result<Done> {
    let Some(mut restored) = read(boot)? else { return Ok(Done::unchanged("")) };
    let kubernetes = boot.kubernetes.as_ref().context("the step `api` has not run")?;
    let patch = json!({"metadata": {"annotations": {annotations::RESTORED: restored.generation}}});
    let (mut told, mut gone) = (0, 0);
    for name in kubernetes.node_names()? {
        if boot.config.node(&name).is_none() {
            kubernetes.delete_node(&name)?;
            gone += 1;
        } else if name != boot.machine.hostname {
            kubernetes.patch_node(&name, &patch)?;
            told += 1;
        }
    }
    restored.announced = true;
    write_atomic(&boot.path(RESTORED), &serde_json::to_vec_pretty(&restored)?, 0o600)?;
    Ok(Done::changed(format!("{told} nodes told, {gone} foreign ones removed")))
}
