//! Reading and changing the settings of a VM.

use serde_json::{Map, Value as Json, json};

use crate::access::Caller;
use crate::model::{SeedFiles, Work, World, drive};
use crate::reply::{Fail, Reply};
use crate::table::{Args, Kind, TABLE, split_list};

/// Which privilege a setting needs; names end in `*` where a number follows.
const PRIVILEGES: [(&str, &[&str]); 6] = [
    ("VM.Config.CPU", &["cores", "cpu", "cpulimit", "cpuunits", "numa", "sockets", "vcpus"]),
    ("VM.Config.Memory", &["memory", "balloon", "shares"]),
    ("VM.Config.Network", &["net*"]),
    (
        "VM.Config.HWType",
        &[
            "smbios1", "serial*", "vga", "rng0", "machine", "hotplug", "scsihw", "watchdog",
            "tablet", "kvm", "acpi",
        ],
    ),
    ("VM.Config.Disk", &["boot", "bootdisk"]),
    ("VM.PowerMgmt", &["freeze"]),
];
/// Settings that either of two privileges allows.
const CLOUD_INIT: [&str; 9] = [
    "ciuser",
    "cipassword",
    "citype",
    "cicustom",
    "ciupgrade",
    "ipconfig*",
    "nameserver",
    "searchdomain",
    "sshkeys",
];
/// Only root with a password; a token of root is not root.
const ROOT_ONLY: [&str; 5] = ["args", "affinity", "arch", "lock", "vmgenid"];

fn named(names: &[&str], key: &str) -> bool {
    let stem = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
    names.iter().any(|name| *name == key || name.strip_suffix('*') == Some(stem))
}

/// `skiplock` is root's.
///
/// # Errors
/// Proxmox' words.
pub(super) fn no_skiplock(args: &Args) -> Result<(), Fail> {
    match args.get("skiplock") {
        Some("1") => Err(Fail::parameter("skiplock", "Only root may use this option.")),
        _ => Ok(()),
    }
}

/// The privileges for each setting that changes.
///
/// # Errors
/// The first that is missing.
pub(super) fn check_rights(
    world: &World,
    caller: &Caller,
    vm: (u32, Option<&str>),
    args: &Args,
    create: bool,
) -> Result<(), Fail> {
    let changed = args.0.keys().map(String::as_str).chain(split_list(args.text("delete")));
    for key in changed.chain(split_list(args.text("revert"))) {
        if ROOT_ONLY.contains(&key) {
            return Err(Fail::new(500, format!("only root can set '{key}' config")));
        }
        match key {
            "node" | "vmid" | "digest" | "delete" | "revert" | "background_delay" | "pool"
            | "start" | "storage" | "skiplock" => {}
            "startup" => world.need(caller, "/", &["Sys.Modify"])?,
            "ha-managed" => world.need(caller, "/", &["Sys.Console"])?,
            key if drive::is_drive(key) => drive_rights(world, caller, vm, (key, args), create)?,
            key if named(&CLOUD_INIT, key) => {
                world.need_vm(caller, vm, &["VM.Config.Cloudinit", "VM.Config.Network"])?;
            }
            key => {
                let row = PRIVILEGES.iter().find(|(_, names)| named(names, key));
                world.need_vm(caller, vm, &[row.map_or("VM.Config.Options", |(name, _)| *name)])?;
            }
        }
    }
    check_bridges(
        world,
        caller,
        args.0.iter().filter(|(key, _)| drive::is_net(key)).map(|(_, text)| text.as_str()),
    )
}

fn drive_rights(
    world: &World,
    caller: &Caller,
    vm: (u32, Option<&str>),
    (key, args): (&str, &Args),
    create: bool,
) -> Result<(), Fail> {
    let old = world.vms.get(&vm.0).and_then(|vm| vm.get(key)).unwrap_or_default();
    let keys = drive::parse(key, args.get(key).unwrap_or(old));
    let file = keys.get("file").map_or("", String::as_str);
    let seed = drive::is_seed(file);
    if create || !seed && keys.get("media").map(String::as_str) != Some("cdrom") {
        return world.need_vm(caller, vm, &["VM.Config.Disk"]);
    }
    world.need_vm(caller, vm, &["VM.Config.CDROM"])?;
    if seed && args.get(key).is_some() {
        world.need_vm(caller, vm, &["VM.Config.Cloudinit"])
    } else {
        Ok(())
    }
}

/// `SDN.Use` on the bridge of each card, and on its VLAN.
///
/// # Errors
/// The first that is missing.
pub(super) fn check_bridges<'a>(
    world: &World,
    caller: &Caller,
    cards: impl Iterator<Item = &'a str>,
) -> Result<(), Fail> {
    for text in cards {
        let Some((bridge, tag)) = drive::bridge(text) else { continue };
        let tag = tag.map(|tag| format!("/{tag}")).unwrap_or_default();
        world.need(caller, &format!("/sdn/zones/localnetwork/{bridge}{tag}"), &["SDN.Use"])?;
    }
    Ok(())
}

/// Each line must be a public key: its blob starts with the name of its kind.
pub(super) fn check_keys(args: &Args) -> Result<(), Fail> {
    use base64::Engine as _;
    let good = |line: &str| {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(blob)) = (words.next(), words.next()) else { return false };
        let bytes = base64::engine::general_purpose::STANDARD.decode(blob).unwrap_or_default();
        bytes.get(4..4 + kind.len()) == Some(kind.as_bytes())
    };
    let text = crate::form::percent_decode(args.text("sshkeys"), false);
    if text.lines().filter(|line| !line.trim().is_empty()).all(good) {
        return Ok(());
    }
    Err(Fail::new(500, "SSH public key validation error"))
}

/// All that is looked at before the change; a change that may begin.
fn prepare(world: &World, caller: &Caller, args: &Args) -> Result<(), Fail> {
    no_skiplock(args)?;
    for key in split_list(args.text("delete")) {
        if key != "lock"
            && !TABLE.calls.iter().any(|call| call.params.iter().any(|param| param.name == key))
        {
            return Err(Fail::parameter("delete", format!("unknown option '{key}'")));
        }
    }
    check_keys(args)?;
    check_rights(world, caller, (args.vmid(), None), args, false)?;
    if let Some(script) = args.get("hookscript") {
        return Err(Fail::parameter("hookscript", format!("script '{script}' does not exist\n")));
    }
    super::drives::check(world, caller, args)?;
    world.vm(args.text("node"), args.vmid())?;
    super::create::check_tags(world, caller, args)
}

pub(super) fn change(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    prepare(world, caller, args)?;
    let work = Work::Configure { vmid: args.vmid(), args: args.clone() };
    Ok(json!(world.fork(args.text("node"), "qmconfig", args.text("vmid"), caller, work)))
}

pub(super) fn change_now(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    prepare(world, caller, args)?;
    world.lock_or_fail(args.vmid())?;
    world.vm(args.text("node"), args.vmid())?.check_lock()?;
    world.configure(args.vmid(), args, &mut Vec::new())?;
    Ok(Json::Null)
}

/// A setting as the API writes it: numbers for numbers and booleans.
fn value(key: &str, text: &str) -> Json {
    let mut params =
        TABLE.calls.iter().flat_map(|call| &call.params).filter(|param| param.name == key);
    let number = params.next().is_some_and(|param| matches!(param.kind, Kind::Bool | Kind::Int));
    match text.parse::<u64>() {
        Ok(found) if number => json!(found),
        _ if key == "cipassword" => json!("**********"),
        _ => json!(text),
    }
}

pub(super) fn read(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let vm = world.vm(args.text("node"), args.vmid())?;
    let config = if args.flag("current") { vm.config.clone() } else { vm.merged() };
    let mut map: Map<String, Json> =
        config.iter().map(|(key, text)| (key.clone(), value(key, text))).collect();
    map.insert("digest".to_owned(), json!(vm.digest()));
    Ok(Json::Object(map))
}

pub(super) fn pending(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let vm = world.vm(args.text("node"), args.vmid())?;
    let mut rows: Vec<Json> = Vec::new();
    for (key, text) in &vm.config {
        let mut row = json!({"key": key, "value": value(key, text)});
        match vm.pending.get(key) {
            Some(Some(new)) => row["pending"] = value(key, new),
            Some(None) => row["delete"] = json!(1),
            None => {}
        }
        rows.push(row);
    }
    let new = vm.pending.iter().filter(|(key, _)| !vm.config.contains_key(*key));
    rows.extend(new.filter_map(|(key, text)| {
        Some(json!({"key": key, "pending": value(key, text.as_ref()?)}))
    }));
    rows.push(json!({"key": "digest", "value": vm.digest()}));
    Ok(Json::Array(rows))
}

/// Settings of the drive: those it was written with, and those that wait for the next start.
pub(super) fn cloudinit(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let vm = world.vm(args.text("node"), args.vmid())?;
    let written = |key: &str| {
        vm.run.is_none() || vm.seeded.as_ref().is_some_and(|old| old.get(key) == vm.config.get(key))
    };
    // Addresses show only while they wait; whether to upgrade never does.
    let listed = |key: &str| {
        let quiet = key == "ciupgrade" || key.starts_with("ipconfig") && written(key);
        named(&CLOUD_INIT, key) && !quiet
    };
    let shown = vm.config.iter().filter(|(key, _)| listed(key));
    let row = |(key, text): (&String, &String)| {
        if written(key) {
            json!({"key": key, "value": value(key, text)})
        } else {
            json!({"key": key, "pending": value(key, text)})
        }
    };
    Ok(Json::Array(shown.map(row).collect()))
}

pub(super) fn regenerate(world: &mut World, _: &Caller, args: &Args) -> Reply {
    world.vm(args.text("node"), args.vmid())?;
    let seed = world.seed_of(args.vmid());
    if let Some(vm) = world.vms.get_mut(&args.vmid()) {
        vm.seed = Some(seed);
        vm.seeded = Some(vm.config.clone());
    }
    Ok(Json::Null)
}

pub(super) fn dump(world: &mut World, _: &Caller, args: &Args) -> Reply {
    world.vm(args.text("node"), args.vmid())?;
    let SeedFiles { user_data, network_config, meta_data } = world.seed_of(args.vmid());
    Ok(json!(match args.text("type") {
        "user" => user_data,
        "network" => network_config,
        _ => meta_data,
    }))
}

impl World {
    /// The lock of a VM's settings, for calls that do not become tasks.
    pub(crate) fn lock_or_fail(&mut self, vmid: u32) -> Result<(), Fail> {
        let held = self
            .held_vm_locks
            .get(&vmid)
            .is_some_and(|until| *until > self.clock.now() + self.setup.delays.lock);
        let struck = self
            .task_fault
            .take_if(|fault| fault.0 == crate::fault::Effect::VmLockTimeout)
            .is_some();
        if held || struck {
            return Err(crate::model::vm_lock_text(vmid).into());
        }
        Ok(())
    }
}
