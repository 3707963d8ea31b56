//! Work on disks: new ones, growth, deletion.

use super::drive::{self, Keys};
use super::task::vm_lock_text;
use super::work::Done;
use super::{Config, Vm, Volume, World};
use crate::access::Caller;
use crate::fault::Effect;
use crate::table::Args;

/// Size of a variable store of UEFI firmware, and of a TPM's state.
const EFI_BYTES: u64 = 528 << 10;
const TPM_BYTES: u64 = 4 << 20;
/// Proxmox makes its cloud-init drives that large.
pub(super) const SEED_BYTES: u64 = 4 << 20;

impl World {
    /// Makes the volumes that drives ask for; the settings with the real names.
    ///
    /// # Errors
    /// Proxmox' words; what was made so far is taken back.
    pub(super) fn make_disks(
        &mut self,
        vmid: u32,
        wanted: &Config,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Result<Config, String> {
        let mut made = Vec::new();
        let mut config = Config::new();
        for (key, text) in wanted.iter().filter(|(key, _)| drive::is_drive(key)) {
            match self.make_disk(vmid, key, drive::parse(key, text), fault, log) {
                Ok((keys, new)) => {
                    made.extend(new);
                    config.insert(key.clone(), drive::print(&keys));
                }
                Err(text) => {
                    for (storage, name) in made {
                        self.storages
                            .get_mut(&storage)
                            .map(|storage| storage.volumes.remove(&name));
                    }
                    return Err(text);
                }
            }
        }
        Ok(config)
    }

    fn make_disk(
        &mut self,
        vmid: u32,
        key: &str,
        mut keys: Keys,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Result<(Keys, Option<(String, String)>), String> {
        let file = keys.get("file").cloned().unwrap_or_default();
        let source = keys.remove("import-from");
        let seed = drive::is_new_seed(&file);
        let Some((storage, _)) =
            drive::volume(&file).filter(|_| seed || drive::new_size(&file).is_some())
        else {
            return Ok((keys, None));
        };
        let storage = storage.to_owned();
        let asked = keys.remove("format");
        let (size, origin) = self.origin(key, &file, source.as_deref(), &storage)?;
        let used = if seed { SEED_BYTES } else { size };
        let unix = self.clock.unix();
        let Some(content) = self.storages.get_mut(&storage) else {
            return Err(format!("storage '{storage}' does not exist"));
        };
        if fault == Some(&Effect::StorageFull) || content.avail() < used {
            return Err(no_room(&storage, source.as_deref()));
        }
        let format =
            if seed { content.format(Some("qcow2")) } else { content.format(asked.as_deref()) }
                .to_owned();
        let name = if seed {
            content.disk_name(vmid, "cloudinit", &format)
        } else {
            content.free_disk(vmid, &format)
        };
        let volume = Volume {
            content: "images".to_owned(),
            format,
            size,
            used,
            vmid: Some(vmid),
            parent: None,
            file: origin,
            ctime: unix,
        };
        content.volumes.insert(name.clone(), volume);
        keys.insert("file".to_owned(), format!("{storage}:{name}"));
        keys.insert(
            if seed { "media" } else { "size" }.to_owned(),
            if seed { "cdrom".to_owned() } else { drive::size_text(size) },
        );
        log.push(format!("{key}: successfully created disk '{}'", drive::print(&keys)));
        Ok((keys, Some((storage, name))))
    }

    /// Size and bytes of a new disk.
    fn origin(
        &self,
        key: &str,
        file: &str,
        source: Option<&str>,
        storage: &str,
    ) -> Result<(u64, Option<std::path::PathBuf>), String> {
        let Some(source) = source else {
            return Ok(match key {
                _ if drive::is_new_seed(file) => (SEED_BYTES, None),
                "efidisk0" => (EFI_BYTES, None),
                "tpmstate0" => (TPM_BYTES, None),
                _ => (drive::scale(drive::new_size(file).unwrap_or_default(), 30), None),
            });
        };
        let (from, name) = drive::volume(source).ok_or("unable to parse volume ID")?;
        if self.storages.get(storage).is_some_and(|storage| !storage.enabled) {
            return Err(format!("cannot import from '{source}' - storage '{storage}' is disabled"));
        }
        let volume = self.storages.get(from).and_then(|storage| storage.volumes.get(name));
        let volume = volume.ok_or_else(|| format!("failed to stat '/var/lib/vz/{name}'"))?;
        Ok((volume.size, volume.file.clone()))
    }

    pub(super) fn resize(
        &mut self,
        vmid: u32,
        disk: &str,
        size: &str,
        owner: &Caller,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        let text = self
            .vms
            .get(&vmid)
            .and_then(|vm| vm.get(disk))
            .ok_or_else(|| format!("disk '{disk}' does not exist"))?;
        let mut keys = drive::parse(disk, text);
        let file = keys.get("file").cloned().unwrap_or_default();
        let (storage, name) =
            drive::volume(&file).ok_or_else(|| format!("disk '{disk}' does not exist"))?;
        if !self.access.has(
            owner,
            &format!("/storage/{storage}"),
            "Datastore.AllocateSpace",
            &self.pools,
        ) {
            return Err(format!(
                "403 Permission check failed (/storage/{storage}, Datastore.AllocateSpace)"
            ));
        }
        let content = self
            .storages
            .get_mut(storage)
            .ok_or_else(|| format!("storage '{storage}' does not exist"))?;
        let avail = content.avail();
        let volume = content
            .volumes
            .get_mut(name)
            .ok_or_else(|| format!("disk image '{name}' does not exist"))?;
        let (adds, bytes) = drive::parse_size(size);
        let new = if adds { volume.size + bytes } else { bytes };
        if new < volume.size {
            return Err("shrinking disks is not supported".to_owned());
        }
        let more = new - volume.size;
        if more == 0 {
            return Ok(());
        }
        if fault == Some(&Effect::StorageFull) || avail < more {
            return Err(no_room(storage, None));
        }
        volume.size = new;
        volume.used += more;
        keys.insert("size".to_owned(), drive::size_text(new));
        if let Some(vm) = self.vms.get_mut(&vmid) {
            vm.config.insert(disk.to_owned(), drive::print(&keys));
        }
        log.push("Image resized.".to_owned());
        Ok(())
    }

    pub(super) fn destroy(
        &mut self,
        vmid: u32,
        (purge, scan): (bool, bool),
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        if fault == Some(&Effect::VmLockTimeout) {
            return Err(vm_lock_text(vmid));
        }
        self.may_change(vmid, fault)?;
        let disks: Vec<String> = self.vms.get(&vmid).map(own_disks).unwrap_or_default();
        for (storage, name) in disks.iter().filter_map(|file| drive::volume(file)) {
            let used = self.storages.get(storage).filter(|content| content.kind.keeps_bases());
            if used.is_some_and(|content| content.clones_of(name) > 0) {
                return Err(format!(
                    "base volume '{storage}:{name}' is still in use by linked cloned"
                ));
            }
        }
        if fault != Some(&Effect::DisksStay) {
            self.drop_disks(&disks, log);
        }
        // The scan looks into every storage; one that is broken fails the task after the disks are gone.
        if fault == Some(&Effect::ConfigStays) && scan {
            return Err("command '/sbin/lvs' failed: exit code 5".to_owned());
        }
        if fault == Some(&Effect::ConfigStays) {
            return Err(vm_lock_text(vmid));
        }
        if purge {
            log.push(format!("purging VM {vmid} from related configurations.."));
        }
        self.vms.remove(&vmid);
        for members in self.pools.values_mut() {
            members.remove(&vmid);
        }
        Ok(())
    }

    pub(super) fn drop_disks(&mut self, disks: &[String], log: &mut Vec<String>) {
        for (storage, name) in disks.iter().filter_map(|file| drive::volume(file)) {
            let gone =
                self.storages.get_mut(storage).and_then(|content| content.volumes.remove(name));
            if gone.is_none() {
                log.push(format!("disk image '/var/lib/{storage}/images/{name}' does not exist"));
            }
        }
    }

    /// Settings change; new drives are made.
    pub(crate) fn configure(&mut self, vmid: u32, args: &Args, log: &mut Vec<String>) -> Done {
        let Some(digest) = self.vms.get(&vmid).map(Vm::digest) else { return Ok(()) };
        if args.get("digest").is_some_and(|want| want != digest) {
            return Err("checksum mismatch (file change by other user?)".to_owned());
        }
        let made = self.make_disks(vmid, &args.0, None, log)?;
        self.apply(vmid, args, made);
        Ok(())
    }
}

/// The volumes that go with a VM: its disks and its cloud-init drive, not ISO files.
fn own_disks(vm: &Vm) -> Vec<String> {
    let drives = vm.drives().filter(|(_, keys)| {
        let file = keys.get("file").map_or("", String::as_str);
        keys.get("media").map(String::as_str) != Some("cdrom") || drive::is_seed(file)
    });
    let (firmware, plain): (Vec<_>, Vec<_>) =
        drives.partition(|(key, _)| key.starts_with("efi") || key.starts_with("tpm"));
    plain.into_iter().chain(firmware).filter_map(|(_, keys)| keys.get("file").cloned()).collect()
}

/// What a full storage says.
pub(super) fn no_room(storage: &str, source: Option<&str>) -> String {
    match source {
        Some(source) => format!(
            "cannot import from '{source}' - copy failed: No space left on device (storage '{storage}')"
        ),
        None => {
            format!("unable to allocate an image on storage '{storage}': No space left on device")
        }
    }
}
