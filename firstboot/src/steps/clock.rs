//! The clock: K3s makes certificates at its first start, and those of a wrong day cannot be used
//! or repaired later. The image's build time is a floor that no true clock is below.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use node::files::ensure_file;

use super::{Done, Step, fixable};
use crate::boot::Boot;
use crate::retry::{Look, until};

/// Made by systemd-timesyncd when it has set the clock.
const SYNCHRONISED: &str = "run/systemd/timesync/synchronized";

/// How long a clock that is certainly wrong may take to be set: the network is up by now, a time
/// server answers in seconds, and the name server may still be starting in a home after a power
/// cut.
const BELOW_FLOOR: Duration = Duration::from_mins(2);

/// How long to wait for a plausible clock to be confirmed. A VM's clock comes from its host and is
/// right in practice; a closed network has no time server and must not pay more at every boot.
const UNCONFIRMED: Duration = Duration::from_secs(3);

/// Left by a run that waited in vain, for the later ones of this boot: a join secret that arrives
/// does not wait again.
const WAITED: &str = "run/firstboot/clock-unconfirmed";

const PAUSE: Duration = Duration::from_millis(100);

/// The step.
pub const STEP: Step = Step {
    name: "clock",
    lasting: false,
    fix: "see `timedatectl` and `journalctl -u systemd-timesyncd` on the node",
    satisfied: |boot| {
        let settled = is_synchronised(boot) || boot.path(WAITED).exists();
        Ok(settled && now() >= boot.config.built_at)
    },
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let floor = boot.config.built_at;
    let above = || Ok(if now() >= floor { Look::Done(()) } else { Look::NotYet(too_early(floor)) });
    until(boot.machine.limit(BELOW_FLOOR), PAUSE, above).map_err(|e| {
        let fix = "set the clock of the Proxmox host, or let the node reach a time server, \
                   then start firstboot-host.service again";
        fixable(format!("{e:#}"), fix)
    })?;
    let confirmed = || {
        let sync = is_synchronised(boot);
        Ok(if sync { Look::Done(()) } else { Look::NotYet("no time server answered".into()) })
    };
    match until(boot.machine.limit(UNCONFIRMED), PAUSE, confirmed) {
        Ok(()) => Ok(Done::unchanged("synchronised")),
        Err(e) => {
            ensure_file(&boot.path(WAITED), b"", 0o644)?;
            Ok(Done::unchanged(format!("warning: {e:#}; the clock is plausible, going on")))
        }
    }
}

fn is_synchronised(boot: &Boot) -> bool {
    boot.path(SYNCHRONISED).exists()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

fn too_early(floor: i64) -> String {
    let floor = Timestamp::from_second(floor).context("no time").map(|t| t.to_string());
    let now = Timestamp::from_second(now()).context("no time").map(|t| t.to_string());
    format!(
        "the clock says {}, but this image was built at {}",
        now.unwrap_or_default(),
        floor.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::fix_of;
    use crate::testing;

    #[test]
    fn before_the_floor_fails_and_after_it_goes_on_with_a_warning() {
        let (_dir, mut boot) = testing::agent();
        boot.config.built_at = now() + 86_400;
        let error = apply(&mut boot).unwrap_err();
        assert!(error.to_string().contains("but this image was built at"), "{error}");
        assert!(fix_of(&error, &STEP).starts_with("set the clock of the Proxmox host"));
        boot.config.built_at = now() - 1;
        let done = apply(&mut boot).unwrap();
        assert!(done.detail.starts_with("warning: no time server answered"), "{}", done.detail);
        assert!((STEP.satisfied)(&boot).unwrap(), "a later run of this boot does not wait again");
        fs_err::remove_file(boot.path(WAITED)).unwrap();
        assert!(!(STEP.satisfied)(&boot).unwrap());
        testing::put(&boot, SYNCHRONISED, "");
        assert!((STEP.satisfied)(&boot).unwrap());
        assert_eq!(apply(&mut boot).unwrap().detail, "synchronised");
    }
}
