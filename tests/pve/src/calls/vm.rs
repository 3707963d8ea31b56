//! Calls about one VM that are neither settings nor power.

use serde_json::{Value as Json, json};

use crate::access::Caller;
use crate::model::{Vm, Work, World};
use crate::reply::{Fail, Reply};
use crate::table::Args;

fn row(vmid: u32, vm: &Vm, now: u64) -> Json {
    let running = vm.run.as_ref();
    let state = if running.is_some() { "running" } else { "stopped" };
    let cores: u64 = vm.get("cores").and_then(|text| text.parse().ok()).unwrap_or(1);
    let sockets: u64 = vm.get("sockets").and_then(|text| text.parse().ok()).unwrap_or(1);
    let memory: u64 = vm
        .get("memory")
        .and_then(|text| text.trim_start_matches("current=").parse().ok())
        .unwrap_or(512);
    let mut row = json!({
        "vmid": vmid, "status": state, "cpus": cores * sockets, "maxmem": memory << 20, "mem": 0, "cpu": 0, "disk": 0,
        "netin": 0, "netout": 0, "uptime": running.map_or(0, |run| (now.saturating_sub(run.since)) / 1000),
    });
    let boot = vm.drives().find(|(key, _)| key.starts_with("scsi") || key.starts_with("virtio"));
    let size = boot
        .and_then(|(_, keys)| keys.get("size").map(|text| crate::model::drive::parse_size(text).1));
    row["maxdisk"] = json!(size.unwrap_or(0));
    for key in ["name", "tags", "lock"] {
        if let Some(text) = vm.get(key) {
            row[key] = json!(text);
        }
    }
    if vm.is_template() {
        row["template"] = json!(1);
    }
    if running.is_some() {
        row["pid"] = json!(vmid);
    }
    row
}

pub(super) fn list(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let shown = world.vms.iter().filter(|(id, vm)| {
        vm.node == args.text("node")
            && world.access.has(caller, &format!("/vms/{id}"), "VM.Audit", &world.pools)
    });
    Ok(Json::Array(shown.map(|(id, vm)| row(*id, vm, world.clock.now())).collect()))
}

pub(super) fn current(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let vm = world.vm(args.text("node"), args.vmid())?;
    let mut row = row(args.vmid(), vm, world.clock.now());
    row["qmpstatus"] = row["status"].clone();
    row["ha"] = Json::Null;
    if vm.has_agent() {
        row["agent"] = json!(1);
    }
    Ok(row)
}

pub(super) fn feature(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let vm = world.vm(args.text("node"), args.vmid())?;
    let disks =
        || vm.drives().filter(|(_, keys)| keys.get("media").map(String::as_str) != Some("cdrom"));
    let storages: Vec<_> = disks()
        .filter_map(|(_, keys)| keys.get("file")?.split_once(':').map(|(name, _)| name.to_owned()))
        .filter_map(|name| world.storages.get(&name))
        .collect();
    let has = match args.text("feature") {
        "clone" => vm.is_template() && storages.iter().all(|storage| storage.kind.clones()),
        _ => true,
    };
    let everywhere = storages.iter().all(|storage| storage.shared);
    let nodes: Vec<&String> =
        world.nodes.keys().filter(|name| everywhere || **name == vm.node).collect();
    Ok(json!({"hasFeature": u8::from(has), "nodes": nodes}))
}

pub(super) fn template(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let (node, vmid) = (args.text("node").to_owned(), args.vmid());
    let vm = world.vm(&node, vmid)?;
    vm.check_lock()?;
    let refused = if !vm.snapshots.is_empty() {
        Some("unable to create template, because VM contains snapshots")
    } else if vm.is_template() && args.get("disk").is_none() {
        Some("you can't convert a template to a template")
    } else if vm.run.is_some() {
        Some("you can't convert a VM to template if VM is running")
    } else {
        None
    };
    if let Some(text) = refused {
        return Err(Fail::new(500, text));
    }
    Ok(json!(world.fork(&node, "qmtemplate", &vmid.to_string(), caller, Work::Template { vmid })))
}

pub(super) fn resize(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    super::config::no_skiplock(args)?;
    let (node, vmid) = (args.text("node").to_owned(), args.vmid());
    world.vm(&node, vmid)?;
    let work = Work::Resize {
        vmid,
        disk: args.text("disk").to_owned(),
        size: args.text("size").to_owned(),
    };
    Ok(json!(world.fork(&node, "resize", &vmid.to_string(), caller, work)))
}
