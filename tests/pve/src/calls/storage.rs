//! Calls about storages, uploads and volumes.

use serde_json::{Value as Json, json};

use crate::access::Caller;
use crate::model::{Storage, World};
use crate::reply::{Fail, Reply};
use crate::table::{Args, split_list};

const READ: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];

/// A storage that the node can use now.
///
/// # Errors
/// Proxmox' words.
pub(super) fn usable<'a>(world: &'a World, name: &str, node: &str) -> Result<&'a Storage, Fail> {
    let storage =
        world.storages.get(name).ok_or_else(|| format!("storage '{name}' does not exist"))?;
    if !storage.enabled {
        return Err(format!("storage '{name}' is disabled").into());
    }
    if !storage.on(node) {
        return Err(format!("storage '{name}' is not available on node '{node}'").into());
    }
    Ok(storage)
}

fn row(name: &str, storage: &Storage) -> Json {
    let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
    json!({
        "storage": name, "type": storage.kind.name(), "content": content.join(","), "shared": u8::from(storage.shared),
        "enabled": u8::from(storage.enabled), "active": u8::from(storage.enabled), "total": storage.total,
        "used": storage.used(), "avail": storage.avail(),
    })
}

pub(super) fn list(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let wanted = split_list(args.text("content"));
    let shown = world.storages.iter().filter(|(name, storage)| {
        storage.on(args.text("node"))
            && args.get("storage").is_none_or(|want| want == *name)
            && (wanted.is_empty() || wanted.iter().any(|kind| storage.content.contains(*kind)))
            && (storage.enabled || !args.flag("enabled"))
            && world.need(caller, &format!("/storage/{name}"), &READ).is_ok()
    });
    Ok(Json::Array(shown.map(|(name, storage)| row(name, storage)).collect()))
}

pub(super) fn status(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let name = args.text("storage");
    let storage =
        world.storages.get(name).ok_or_else(|| format!("storage '{name}' does not exist"))?;
    let mut row = row(name, storage);
    row.as_object_mut().map(|row| row.remove("storage"));
    Ok(row)
}

pub(super) fn content(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let (name, node) = (args.text("storage"), args.text("node"));
    let storage = usable(world, name, node)?;
    let shown = storage.volumes.iter().filter(|(_, volume)| {
        args.get("content").is_none_or(|want| want == volume.content)
            && args
                .get("vmid")
                .is_none_or(|want| volume.vmid.is_some_and(|id| id.to_string() == want))
    });
    let row = |(id, volume): (&String, &crate::model::Volume)| {
        let mut row = json!({
            "volid": format!("{name}:{id}"), "content": volume.content, "format": volume.format, "size": volume.size,
            "ctime": volume.ctime,
        });
        if let Some(vmid) = volume.vmid {
            row["vmid"] = json!(vmid);
            row["used"] = json!(volume.used);
            row["parent"] = json!(volume.parent);
        }
        row
    };
    Ok(Json::Array(shown.map(row).collect()))
}

/// What an upload is refused for after its bytes have arrived.
///
/// # Errors
/// Proxmox' words.
fn upload_target(world: &World, args: &Args) -> Result<String, Fail> {
    let (name, node, content) = (args.text("storage"), args.text("node"), args.text("content"));
    let storage = usable(world, name, node)?;
    if !storage.content.contains(content) {
        return Err(format!("storage '{name}' does not support '{content}' content").into());
    }
    if world.nodes.get(node).is_some_and(|node| !node.online) {
        let ssh = format!(
            "'/usr/bin/ssh -o 'BatchMode=yes' -o 'HostKeyAlias={node}' 192.0.2.1 -- /usr/sbin/pvesm status --storage {name}'"
        );
        let ssh = ssh.trim_start_matches('\'').trim_end_matches('\'').to_owned();
        return Err(format!("can't activate storage '{name}' on node '{node}': command '{ssh}' failed: exit code 255").into());
    }
    file_name(content, args.text("filename"))
}

/// The name in the storage: without folders, other characters as `_`.
fn file_name(content: &str, name: &str) -> Result<String, Fail> {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let known = |letter: char| letter.is_ascii_alphanumeric() || ['.', '-', '_'].contains(&letter);
    let clean: String =
        name.chars().map(|letter| if known(letter) { letter } else { '_' }).collect();
    let (ends, text): (&[&str], &str) = match content {
        "iso" => (&[".iso", ".img"], "wrong file extension"),
        "vztmpl" => (&[".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2"], "wrong file extension"),
        _ => (&[".qcow2", ".raw", ".vmdk", ".ova"], "invalid filename or wrong extension"),
    };
    let lower = if content == "iso" { clean.to_lowercase() } else { clean.clone() };
    let good = ends.iter().any(|end| lower.ends_with(end) && lower.len() > end.len());
    if good { Ok(clean) } else { Err(Fail::parameter("filename", text)) }
}

pub(super) fn upload(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let name = upload_target(world, args)?;
    let checksum = args
        .get("checksum")
        .map(|sum| (args.text("checksum-algorithm").to_owned(), sum.to_owned()));
    let import = crate::model::Work::Import(crate::model::Import {
        storage: args.text("storage").to_owned(),
        content: args.text("content").to_owned(),
        name,
        upload: args.text("tmpfilename").to_owned(),
        checksum,
    });
    Ok(json!(world.fork(args.text("node"), "imgcopy", "", caller, import)))
}

pub(super) fn delete(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let full = args.text("volume");
    let (storage, name) = match full.split_once(':') {
        Some((storage, name)) => (storage.to_owned(), name.to_owned()),
        None => (args.text("storage").to_owned(), full.to_owned()),
    };
    usable(world, &storage, args.text("node"))?;
    world.need(caller, &format!("/storage/{storage}"), &["Datastore.Allocate"])?;
    let work = crate::model::Work::Remove { storage: storage.clone(), name };
    Ok(json!(world.fork(args.text("node"), "imgdel", &storage, caller, work)))
}
