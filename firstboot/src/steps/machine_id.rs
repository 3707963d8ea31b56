//! The machine id: made by systemd at the first boot, never part of an image. Clones that share
//! one get the same DHCP lease.

use anyhow::Result;

use super::{Done, Step, fixable};
use crate::boot::Boot;

const PATH: &str = "etc/machine-id";

/// The step.
pub const STEP: Step = Step {
    name: "machine-id",
    lasting: false,
    fix: "run `systemd-machine-id-setup` on the node and start it again",
    satisfied: |_| Ok(false),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let text = fs_err::read_to_string(boot.path(PATH))?;
    let id = text.trim();
    let hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if id.len() == 32 && hex && id.bytes().any(|b| b != b'0') {
        return Ok(Done::unchanged(""));
    }
    let cause = format!("/etc/machine-id is `{id}`, not 32 hex digits");
    Err(fixable(cause, STEP.fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_a_real_id_will_do() {
        for (id, good) in [
            ("0123456789abcdef0123456789abcdef\n", true),
            ("uninitialized\n", false),
            ("", false),
            ("00000000000000000000000000000000\n", false),
        ] {
            let (_dir, mut boot) = testing::agent();
            testing::put(&boot, PATH, id);
            assert_eq!(apply(&mut boot).is_ok(), good, "{id}");
        }
    }
}
