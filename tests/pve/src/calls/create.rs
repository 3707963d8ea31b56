//! Creating and cloning: what is refused at once, and the task for the rest.

use std::collections::BTreeSet;

use serde_json::json;

use super::config;
use crate::access::Caller;
use crate::fault::Effect;
use crate::model::{Copy, TagAccess, TaskFault, Vm, Work, World, drive};
use crate::reply::{Fail, Reply};
use crate::table::{Args, split_list};

fn check_pool(world: &World, pool: Option<&str>) -> Result<(), Fail> {
    match pool.filter(|name| !world.pools.contains_key(*name)) {
        Some(name) => {
            Err(Fail::new(403, format!("Permission check failed (pool '{name}' does not exist)")))
        }
        None => Ok(()),
    }
}

pub(super) fn create(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let (vmid, pool) = (args.vmid(), args.get("pool"));
    check_pool(world, pool)?;
    if world.need_vm(caller, (vmid, pool), &["VM.Allocate"]).is_err() {
        return Err(Fail::denied_plainly());
    }
    config::check_rights(world, caller, (vmid, pool), args, true)?;
    if args.flag("start") {
        world.need_vm(caller, (vmid, pool), &["VM.PowerMgmt"])?;
    }
    super::drives::check(world, caller, args)?;
    config::check_keys(args)?;
    if pool.is_none() {
        check_tags(world, caller, args)?;
    }
    taken_by_fault(world, vmid, args.text("node"));
    if let Some(other) = world.vms.get(&vmid) {
        let text = format!(
            "unable to create VM {vmid} - VM {vmid} already exists on node '{}'",
            other.node
        );
        return Err(Fail::new(500, text));
    }
    world
        .lock_or_fail(vmid)
        .map_err(|fail| Fail::new(500, format!("unable to create VM {vmid} - {}", fail.message)))?;
    let mut vm = Vm { node: args.text("node").to_owned(), ..Vm::default() };
    vm.config.insert("lock".to_owned(), "create".to_owned());
    world.vms.insert(vmid, vm);
    let work = Work::Create { vmid, args: args.clone() };
    Ok(json!(world.fork(args.text("node"), "qmcreate", &vmid.to_string(), caller, work)))
}

pub(super) fn clone(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let (node, source) = (args.text("node").to_owned(), args.vmid());
    let target: u32 = args.text("newid").parse().unwrap_or_default();
    check_pool(world, args.get("pool"))?;
    let vm = world.vm(&node, source).map_err(|_| {
        format!("unable to find configuration file for VM {source} on node '{node}'")
    })?;
    let full = args.get("full").map_or(!vm.is_template(), |text| text == "1");
    vm.check_lock()?;
    for name in ["storage", "format"] {
        if !full && args.get(name).is_some() {
            return Err(Fail::new(
                500,
                format!("parameter '{name}' not allowed for linked clones"),
            ));
        }
    }
    if !full && !vm.is_template() {
        return Err(Fail::new(
            500,
            "Linked clone feature is not supported for a VM that is no template",
        ));
    }
    let home = args.get("target").unwrap_or(&node).to_owned();
    rights(world, caller, vm, args)?;
    check_target(world, vm, (&node, &home))?;
    taken_by_fault(world, target, &node);
    if world.vms.contains_key(&target) {
        return Err(Fail::new(
            500,
            format!("unable to create VM {target}: config file already exists"),
        ));
    }
    // So the target looks while the copy runs, and for ever when the copy is killed.
    let mut half = Vm { node: home.clone(), ..Vm::default() };
    half.config.insert("lock".to_owned(), "clone".to_owned());
    half.config.insert("description".to_owned(), " qmclone temporary file".to_owned());
    world.vms.insert(target, half);
    let text = |name: &str| args.get(name).map(str::to_owned);
    let copy = Copy {
        source,
        target,
        node: home,
        full,
        storage: text("storage"),
        format: text("format"),
        name: text("name"),
        description: text("description"),
        pool: text("pool"),
    };
    Ok(json!(world.fork(&node, "qmclone", &source.to_string(), caller, Work::Clone(copy))))
}

/// Room on the storages of the disks, and the bridges of the cards.
fn rights(world: &World, caller: &Caller, vm: &Vm, args: &Args) -> Result<(), Fail> {
    for (_, keys) in vm.drives().filter(|(_, keys)| {
        let file = keys.get("file").map_or("", String::as_str);
        drive::is_seed(file) || keys.get("media").map(String::as_str) != Some("cdrom")
    }) {
        let Some(from) = keys.get("file").and_then(|file| drive::volume(file)) else { continue };
        let storage = args.get("storage").unwrap_or(from.0);
        world.need(caller, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    if let Some(storage) = args.get("storage") {
        super::storage::usable(world, storage, args.text("node"))?;
    }
    let cards = vm.config.iter().filter(|(key, _)| drive::is_net(key));
    config::check_bridges(world, caller, cards.map(|(_, text)| text.as_str()))
}

fn check_target(world: &World, vm: &Vm, (node, target): (&str, &str)) -> Result<(), Fail> {
    if !world.nodes.contains_key(target) {
        return Err(Fail::new(500, format!("no such cluster node '{target}'")));
    }
    let local = |(_, keys): (&String, drive::Keys)| {
        let storage = keys
            .get("file")
            .and_then(|file| drive::volume(file))
            .and_then(|(name, _)| world.storages.get(name));
        storage.is_some_and(|storage| !storage.shared)
    };
    if target != node && vm.drives().any(local) {
        return Err(Fail::new(
            500,
            format!("can't clone VM to node '{target}' (VM uses local storage)"),
        ));
    }
    Ok(())
}

/// Somebody else was quicker.
fn taken_by_fault(world: &mut World, vmid: u32, node: &str) {
    if world.task_fault.take_if(|fault| *fault == TaskFault(Effect::IdTaken)).is_some()
        && !world.vms.contains_key(&vmid)
    {
        let mut vm = Vm { node: node.to_owned(), ..Vm::default() };
        vm.config.insert("name".to_owned(), "somebody-else".to_owned());
        world.vms.insert(vmid, vm);
    }
}

/// The datacentre's rules for tags: who may add or take away which.
pub(super) fn check_tags(world: &World, caller: &Caller, args: &Args) -> Result<(), Fail> {
    let deletes = split_list(args.text("delete")).contains(&"tags");
    if args.get("tags").is_none() && !deletes {
        return Ok(());
    }
    let set = |text: &str| -> BTreeSet<String> {
        split_list(text).into_iter().map(str::to_lowercase).collect()
    };
    let old = set(world.vms.get(&args.vmid()).and_then(|vm| vm.get("tags")).unwrap_or_default());
    let new = set(args.text("tags"));
    for tag in old.symmetric_difference(&new) {
        let free = match &world.tag_access {
            TagAccess::Free => true,
            TagAccess::None => false,
            TagAccess::List(known) => known.contains(tag),
            TagAccess::Existing => {
                world.vms.values().any(|vm| set(vm.get("tags").unwrap_or_default()).contains(tag))
            }
        };
        if !free || world.registered_tags.contains(tag) {
            world
                .need(caller, "/", &["Sys.Modify"])
                .map_err(|_| Fail::denied("/", &format!("Sys.Modify for modifying tag '{tag}'")))?;
        }
    }
    Ok(())
}
