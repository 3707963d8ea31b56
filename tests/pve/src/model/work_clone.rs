//! Creating, cloning and turning into templates.

use super::drive;
use super::work::{Copy, Done, failed};
use super::{Config, Vm, Volume, World};
use crate::access::Caller;
use crate::fault::Effect;
use crate::table::{Args, split_list};

/// Parameters of `create` and `config` that are no settings.
pub(super) const NOT_SETTINGS: [&str; 19] = [
    "node",
    "vmid",
    "archive",
    "force",
    "unique",
    "bwlimit",
    "ha-managed",
    "import-working-storage",
    "live-restore",
    "pool",
    "start",
    "storage",
    "delete",
    "digest",
    "revert",
    "skiplock",
    "background_delay",
    "lock",
    "snapname",
];

impl World {
    pub(super) fn create(
        &mut self,
        vmid: u32,
        args: &Args,
        owner: &Caller,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        let result = self.create_inner(vmid, args, owner, fault, log);
        if let Err(text) = result {
            let disks = self.vms.remove(&vmid).map(|vm| {
                vm.drives().filter_map(|(_, keys)| keys.get("file").cloned()).collect::<Vec<_>>()
            });
            self.drop_disks(&disks.unwrap_or_default(), &mut Vec::new());
            return Err(format!("unable to create VM {vmid} - {text}"));
        }
        Ok(())
    }

    fn create_inner(
        &mut self,
        vmid: u32,
        args: &Args,
        owner: &Caller,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        match fault {
            Some(Effect::VmLockTimeout) => return Err(super::task::vm_lock_text(vmid)),
            Some(Effect::StorageLockTimeout) => {
                return Err(self.storage_lock_text(&first_storage(&args.0)));
            }
            _ => failed(fault)?,
        }
        let seeds: Vec<&String> = args
            .0
            .iter()
            .filter(|(key, text)| drive::is_drive(key) && is_seed(key, text))
            .map(|(key, _)| key)
            .collect();
        if let [first, second, ..] = seeds[..] {
            return Err(format!("{first} - cloud-init drive is already attached at '{second}'"));
        }
        let made = self.make_disks(vmid, &args.0, fault, log)?;
        let fresh =
            [("smbios1", format!("uuid={}", self.new_uuid())), ("vmgenid", self.new_uuid())];
        let meta = format!("creation-qemu=10.1.2,ctime={}", self.clock.unix());
        let Some(vm) = self.vms.get_mut(&vmid) else { return Ok(()) };
        vm.config.clone_from(&made);
        for (key, value) in fresh.into_iter().chain([("meta", meta)]) {
            vm.config.insert(key.to_owned(), value);
        }
        // The VM is in no pool yet, so the pool's rights do not count for its tags.
        if args.get("tags").is_some()
            && !self.access.has(owner, &format!("/vms/{vmid}"), "VM.Config.Options", &self.pools)
        {
            return Err(format!("403 Permission check failed (/vms/{vmid}, VM.Config.Options)"));
        }
        self.apply(vmid, args, made);
        if let Some(pool) = args.get("pool") {
            self.pools.entry(pool.to_owned()).or_default().insert(vmid);
        }
        if args.flag("start") {
            let node = self.vms.get(&vmid).map(|vm| vm.node.clone()).unwrap_or_default();
            self.fork(&node, "qmstart", &vmid.to_string(), owner, super::Work::Start { vmid });
        }
        Ok(())
    }

    /// Puts settings into a VM: normalised as Proxmox does, deletions and reverts too.
    pub(super) fn apply(&mut self, vmid: u32, args: &Args, made: Config) {
        let plain = args
            .0
            .iter()
            .filter(|(key, _)| !NOT_SETTINGS.contains(&key.as_str()) && !drive::is_drive(key));
        let mut new: Vec<(String, Option<String>)> = Vec::new();
        for (key, value) in plain {
            let value = match key.as_str() {
                "tags" => tags(value),
                "description" => value.trim_end().to_owned(),
                "cipassword" => "$5$double$hidden".to_owned(),
                net if drive::is_net(net) => {
                    let mac = self.new_mac();
                    drive::print_net(value, || mac)
                }
                _ => value.clone(),
            };
            new.push((
                key.clone(),
                (!value.is_empty() || key.starts_with("ipconfig")).then_some(value),
            ));
        }
        new.extend(made.into_iter().map(|(key, value)| (key, Some(value))));
        new.extend(split_list(args.text("delete")).into_iter().map(|key| (key.to_owned(), None)));
        let Some(vm) = self.vms.get_mut(&vmid) else { return };
        for key in split_list(args.text("revert")) {
            vm.pending.remove(key);
        }
        for (key, value) in new {
            vm.set(&key, value);
        }
    }

    pub(super) fn make_template(&mut self, vmid: u32) {
        let Some(mut config) = self.vms.get(&vmid).map(|vm| vm.config.clone()) else {
            return;
        };
        for (key, text) in config.iter_mut().filter(|(key, _)| drive::is_drive(key)) {
            let mut keys = drive::parse(key, text);
            let file = keys.get("file").cloned().unwrap_or_default();
            let Some((storage, name)) = drive::volume(&file).filter(|_| !drive::is_seed(&file))
            else {
                continue;
            };
            let Some(content) = self.storages.get_mut(storage) else { continue };
            let base = name.replace(&format!("vm-{vmid}-"), &format!("base-{vmid}-"));
            if let Some(volume) = content.volumes.remove(name) {
                content.volumes.insert(base.clone(), volume);
            }
            keys.insert("file".to_owned(), format!("{storage}:{base}"));
            *text = drive::print(&keys);
        }
        config.insert("template".to_owned(), "1".to_owned());
        if let Some(vm) = self.vms.get_mut(&vmid) {
            vm.config = config;
        }
    }

    pub(super) fn copy(
        &mut self,
        copy: &Copy,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        if fault == Some(&Effect::VmLockTimeout) {
            self.vms.remove(&copy.target);
            return Err(super::task::vm_lock_text(copy.source));
        }
        log.push(format!("creating a clone of VM {} with ID {}", copy.source, copy.target));
        let result = self.copy_inner(copy, fault, log);
        if let Err(text) = result {
            self.vms.remove(&copy.target);
            return Err(format!("clone failed: {text}"));
        }
        Ok(())
    }

    fn copy_inner(&mut self, copy: &Copy, fault: Option<&Effect>, log: &mut Vec<String>) -> Done {
        failed(fault)?;
        let Some(source) = self.vms.get(&copy.source).cloned() else {
            return Err(format!("unable to find configuration file for VM {}", copy.source));
        };
        if fault == Some(&Effect::StorageLockTimeout) {
            return Err(self.storage_lock_text(&first_storage(&source.config)));
        }
        let mut config = source.config.clone();
        for key in ["lock", "template", "snapstate", "parent"] {
            config.remove(key);
        }
        let uuid = self.new_uuid();
        if let Some(smbios) = config.get_mut("smbios1") {
            let mut keys = crate::table::TABLE.split("smbios", smbios);
            keys.insert("uuid".to_owned(), uuid);
            *smbios = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(",");
        }
        config.insert("vmgenid".to_owned(), self.new_uuid());
        let name = copy.name.clone().unwrap_or_else(|| default_name(copy.source, &source));
        config.insert("name".to_owned(), name);
        if let Some(description) = &copy.description {
            config.insert("description".to_owned(), description.clone());
        }
        let mut made = Vec::new();
        for (key, text) in &mut config {
            if drive::is_net(key) {
                let mut keys = crate::table::TABLE.split("net", text);
                keys.remove("macaddr");
                let bare: Vec<String> =
                    keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let mac = self.new_mac();
                *text = drive::print_net(&bare.join(","), || mac);
            } else if drive::is_drive(key) {
                match self.copy_drive(copy, key, text, fault, log) {
                    Ok((drive, new)) => {
                        made.extend(new);
                        *text = drive;
                    }
                    Err(text) => {
                        self.drop_disks(&made, &mut Vec::new());
                        return Err(text);
                    }
                }
            }
        }
        let node = copy.node.clone();
        self.vms.insert(copy.target, Vm { node, config, ..Vm::default() });
        if let Some(pool) = &copy.pool {
            self.pools.entry(pool.clone()).or_default().insert(copy.target);
        }
        Ok(())
    }

    /// One drive of a clone: its text and the volume that was made.
    fn copy_drive(
        &mut self,
        copy: &Copy,
        key: &str,
        text: &str,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Result<(String, Option<String>), String> {
        let mut keys = drive::parse(key, text);
        let file = keys.get("file").cloned().unwrap_or_default();
        let seed = drive::is_seed(&file);
        let Some((from, base)) = drive::volume(&file)
            .filter(|_| seed || keys.get("media").map(String::as_str) != Some("cdrom"))
        else {
            return Ok((text.to_owned(), None));
        };
        let volume = self.storages.get(from).and_then(|storage| storage.volumes.get(base)).cloned();
        let volume = volume.ok_or_else(|| format!("volume '{file}' does not exist"))?;
        let full = copy.full || seed || key == "tpmstate0";
        log.push(format!(
            "create {} clone of drive {key} ({file})",
            if full { "full" } else { "linked" }
        ));
        let to = copy.storage.as_deref().filter(|_| full).unwrap_or(from).to_owned();
        let unix = self.clock.unix();
        let content =
            self.storages.get_mut(&to).ok_or_else(|| format!("storage '{to}' does not exist"))?;
        if !full && !content.kind.clones() {
            return Err(format!("Linked clone feature is not supported for drive '{key}'"));
        }
        let used = if full { volume.size } else { 0 };
        if fault == Some(&Effect::StorageFull) || content.avail() < used {
            return Err(super::work_disks::no_room(&to, None));
        }
        let asked =
            if full && !seed { copy.format.as_deref().unwrap_or(&volume.format) } else { "qcow2" };
        let format = content.format(Some(asked)).to_owned();
        let own = if seed {
            content.disk_name(copy.target, "cloudinit", &format)
        } else {
            content.free_disk(copy.target, &format)
        };
        let linked = !full && content.kind.keeps_bases();
        let name = if linked { format!("{base}/{own}") } else { own };
        let parent = (!full).then(|| base.to_owned());
        let new = Volume { format, used, vmid: Some(copy.target), parent, ctime: unix, ..volume };
        keys.insert("size".to_owned(), drive::size_text(new.size));
        content.volumes.insert(name.clone(), new);
        let id = format!("{to}:{name}");
        keys.insert("file".to_owned(), id.clone());
        Ok((drive::print(&keys), Some(id)))
    }
}

fn is_seed(key: &str, text: &str) -> bool {
    drive::parse(key, text).get("file").is_some_and(|file| drive::is_new_seed(file))
}

fn first_storage(config: &Config) -> String {
    let mut drives = config.iter().filter(|(key, _)| drive::is_drive(key));
    drives
        .find_map(|(_, text)| text.split_once(':').map(|(name, _)| name.to_owned()))
        .unwrap_or_default()
}

fn default_name(vmid: u32, source: &Vm) -> String {
    source
        .get("name")
        .map_or_else(|| format!("Copy-of-VM-{vmid}"), |name| format!("Copy-of-VM-{name}"))
}

/// Lower case, sorted, each once, joined with `;`.
fn tags(text: &str) -> String {
    let mut tags: Vec<String> = split_list(text).into_iter().map(str::to_lowercase).collect();
    tags.sort();
    tags.dedup();
    tags.join(";")
}
