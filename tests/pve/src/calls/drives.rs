//! What the drives of a VM may ask for.

use crate::access::Caller;
use crate::model::{World, drive};
use crate::reply::Fail;
use crate::table::Args;

/// Drives that ask for something impossible or forbidden.
///
/// # Errors
/// Proxmox' words.
pub(super) fn check(world: &World, caller: &Caller, args: &Args) -> Result<(), Fail> {
    for (key, text) in args.0.iter().filter(|(key, _)| drive::is_drive(key)) {
        let keys = drive::parse(key, text);
        let file = keys.get("file").map_or("", String::as_str);
        let Some((storage, name)) = drive::volume(file) else { continue };
        let content = world
            .storages
            .get(storage)
            .ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        if let Some(source) = keys.get("import-from") {
            check_source(world, caller, (key, file, source), &keys)?;
        }
        let new = drive::is_new_seed(file) || drive::new_size(file).is_some();
        if new && !content.content.contains("images") {
            return Err(Fail::parameter(
                "storage",
                format!("storage '{storage}' does not support vm images"),
            ));
        }
        if drive::new_size(file).is_some() {
            world.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        } else if name.starts_with("iso/") && keys.get("media").map(String::as_str) != Some("cdrom")
        {
            return Err(Fail::parameter(key, "explicit 'media=cdrom' is required for iso images"));
        } else if !content.volumes.contains_key(name) && name.starts_with("iso/") {
            return Err(Fail::new(500, format!("volume '{file}' does not exist")));
        }
    }
    Ok(())
}

fn check_source(
    world: &World,
    caller: &Caller,
    (key, file, source): (&str, &str, &str),
    keys: &drive::Keys,
) -> Result<(), Fail> {
    if drive::new_size(file) != Some(0.0) {
        let text =
            "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>";
        return Err(Fail::parameter(key, text));
    }
    if key.starts_with("efidisk") && !keys.contains_key("efitype") {
        return Err(Fail::parameter(key, "need to specify 'efitype' when using 'import-from'"));
    }
    let Some((storage, name)) = drive::volume(source) else {
        return Err(Fail::new(500, "Only root can pass arbitrary filesystem paths."));
    };
    if !world.storages.contains_key(storage) {
        return Err(Fail::new(500, format!("storage '{storage}' does not exist")));
    }
    world.need(
        caller,
        &format!("/storage/{storage}"),
        &["Datastore.AllocateSpace", "Datastore.Audit"],
    )?;
    match name.split_once('/') {
        Some((kind @ ("iso" | "vztmpl"), _)) => Err(Fail::parameter(
            key,
            format!("{source} has wrong type '{kind}' - needs to be 'images' or 'import'"),
        )),
        _ => Ok(()),
    }
}
