//! `firstboot snapshot save|list|verify`.

use std::io::Write as _;

use anyhow::{Result, bail};
use serde_json::json;

use super::place::{Place, Reach, reach};
use super::{choose, copy, save};
use crate::boot::{Boot, Machine};

/// Takes a snapshot, carries it to NFS and says what came there.
///
/// # Errors
/// See [`save::save`].
pub fn run_save(machine: Machine, json: bool) -> Result<u8> {
    let sidecar = save::save(&Boot::open(machine)?)?;
    let text = if json {
        serde_json::to_string(&sidecar)?
    } else {
        format!("saved {} ({} bytes, sha256 {})", sidecar.file, sidecar.size, sidecar.sha256)
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(0)
}

/// Shows what lies on NFS for this node; with `verify` also reads every snapshot. Exit code 1 when
/// there is nothing that could be restored, or something that could is not whole.
///
/// # Errors
/// NFS is not there.
pub fn run_list(machine: Machine, json: bool, verify: bool) -> Result<u8> {
    let boot = Boot::open(machine)?;
    let place = match reach(&boot)? {
        Reach::There(place) => place,
        Reach::NotNow(why) => bail!("{why}"),
        Reach::Nowhere => bail!("cluster.toml has no `nfs` export to keep snapshots on"),
    };
    let shelf = choose::look(&place, &boot.config.k3s_version)?;
    let broken: Vec<Option<String>> =
        shelf.fits.iter().map(|s| if verify { unsound(&place, s) } else { None }).collect();
    let mut out = std::io::stdout().lock();
    if json {
        let fits: Vec<_> = shelf
            .fits
            .iter()
            .zip(&broken)
            .map(|(s, b)| json!({"snapshot": s, "broken": b}))
            .collect();
        writeln!(out, "{}", json!({"snapshots": fits, "refused": shelf.refused}))?;
    } else {
        for (sidecar, broken) in shelf.fits.iter().zip(&broken) {
            let word = broken.as_ref().map_or("fits".to_owned(), |why| format!("BROKEN: {why}"));
            let (file, size, version) = (&sidecar.file, sidecar.size, &sidecar.k3s_version);
            writeln!(out, "{file}  {size} bytes  {version}  {word}")?;
        }
        for refused in &shelf.refused {
            writeln!(out, "{}  refused: {}", refused.file, refused.reason)?;
        }
    }
    let sound = !shelf.fits.is_empty() && broken.iter().all(Option::is_none);
    Ok(u8::from(!sound))
}

/// Why a snapshot's bytes are not those of its sidecar.
fn unsound(place: &Place, sidecar: &super::sidecar::Sidecar) -> Option<String> {
    match copy::inspect(&place.folder.join(&sidecar.file)) {
        Ok((_, sha256)) if sha256 == sidecar.sha256 => None,
        Ok((_, sha256)) => Some(format!("sha256 {sha256}, not {}", sidecar.sha256)),
        Err(why) => Some(format!("{why:#}")),
    }
}
