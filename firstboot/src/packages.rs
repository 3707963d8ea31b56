//! What unattended-upgrades, or a person, has changed since the image was built.

use std::io::ErrorKind;

use anyhow::{Context, Result};
use node::packages::{PATH, Packages, STATUS};

use crate::boot::Machine;
use crate::journal;

/// Every package that differs from the image; `None` when the image has no list of its own.
///
/// # Errors
/// The list is damaged, or dpkg's record cannot be read.
pub fn changes(machine: &Machine) -> Result<Option<Vec<String>>> {
    let baked = match fs_err::read_to_string(machine.path(PATH)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => Packages::of_list(&text?).with_context(|| format!("/{PATH} is damaged"))?,
    };
    let now = Packages::of_status(&fs_err::read_to_string(machine.path(STATUS))?);
    Ok(Some(baked.changes(&now)))
}

/// The same for the report, which is given whatever can be said.
pub fn known_changes(machine: &Machine) -> Vec<String> {
    match changes(machine) {
        Ok(changes) => changes.unwrap_or_default(),
        Err(error) => {
            let text = format!("whether packages were changed is not known: {error:#}");
            journal::warn(&machine.root, "modified", &text);
            Vec::new()
        }
    }
}
