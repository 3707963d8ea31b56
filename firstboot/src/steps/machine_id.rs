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
    match fault(id) {
        None => Ok(Done::unchanged("")),
        Some(fault) => Err(fixable(format!("/etc/machine-id {fault}"), STEP.fix)),
    }
}

/// What is wrong with an id, as words that follow its file's name.
fn fault(id: &str) -> Option<String> {
    let hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match id {
        "" => Some("is empty".to_owned()),
        _ if id.len() != 32 || !hex => Some(format!("is `{id}`, not 32 hex digits")),
        _ if id.bytes().all(|b| b == b'0') => Some("is zeros only".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_a_real_id_will_do() {
        for (id, want) in [
            ("0123456789abcdef0123456789abcdef\n", None),
            ("uninitialized\n", Some("/etc/machine-id is `uninitialized`, not 32 hex digits")),
            ("", Some("/etc/machine-id is empty")),
            ("00000000000000000000000000000000\n", Some("/etc/machine-id is zeros only")),
        ] {
            let (_dir, mut boot) = testing::agent();
            testing::put(&boot, PATH, id);
            let said = apply(&mut boot).err().map(|e| e.to_string());
            assert_eq!(said.as_deref(), want, "{id}");
        }
    }
}
