//! The work of tasks: what each does when its time is up.

use super::task::vm_lock_text;
use super::{Config, Run, World};
use crate::access::Caller;
use crate::fault::Effect;
use crate::hook::Start;
use crate::table::Args;

/// What a task does.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// An upload becomes a volume.
    Import(Import),
    /// A volume goes.
    Remove { storage: String, name: String },
    /// A VM comes.
    Create { vmid: u32, args: Args },
    /// A VM is copied.
    Clone(Copy),
    /// Disks become bases.
    Template { vmid: u32 },
    /// Settings change.
    Configure { vmid: u32, args: Args },
    /// A disk grows.
    Resize { vmid: u32, disk: String, size: String },
    /// Power on.
    Start { vmid: u32 },
    /// The guest is asked to stop.
    Shutdown { vmid: u32, force: bool },
    /// Power off.
    Stop { vmid: u32 },
    /// A VM goes.
    Destroy { vmid: u32, purge: bool, scan: bool },
}

/// An upload that becomes a volume.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub storage: String,
    pub content: String,
    pub name: String,
    pub upload: String,
    pub checksum: Option<(String, String)>,
}

/// A clone.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub source: u32,
    pub target: u32,
    pub node: String,
    pub full: bool,
    pub storage: Option<String>,
    pub format: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub pool: Option<String>,
}

/// A text in Proxmox' words.
pub(super) type Done = Result<(), String>;

impl World {
    /// Locks that a work takes: VMs and storages.
    pub(super) fn locks_of(&self, work: &Work) -> (Vec<u32>, Vec<String>) {
        match work {
            Work::Import(_) | Work::Remove { .. } => (Vec::new(), Vec::new()),
            Work::Create { vmid, args } => (vec![*vmid], self.storages_of(&args.0)),
            Work::Clone(copy) => {
                let storages = self
                    .vms
                    .get(&copy.source)
                    .map(|vm| self.storages_of(&vm.config))
                    .unwrap_or_default();
                (vec![copy.source, copy.target], storages)
            }
            Work::Template { vmid }
            | Work::Configure { vmid, .. }
            | Work::Resize { vmid, .. }
            | Work::Start { vmid }
            | Work::Shutdown { vmid, .. }
            | Work::Stop { vmid }
            | Work::Destroy { vmid, .. } => (vec![*vmid], Vec::new()),
        }
    }

    fn storages_of(&self, config: &Config) -> Vec<String> {
        let drives = config.iter().filter(|(key, _)| super::drive::is_drive(key));
        let names =
            drives.filter_map(|(_, text)| text.split_once(':').map(|(name, _)| name.to_owned()));
        names.filter(|name| self.storages.contains_key(name)).collect()
    }

    pub(super) fn perform(
        &mut self,
        work: &Work,
        owner: &Caller,
        fault: Option<&Effect>,
        log: &mut Vec<String>,
    ) -> Done {
        match work {
            Work::Import(import) => self.import(import, fault, log),
            Work::Remove { storage, name } => self.remove_volume(storage, name, fault, log),
            Work::Create { vmid, args } => self.create(*vmid, args, owner, fault, log),
            Work::Clone(copy) => self.copy(copy, fault, log),
            Work::Template { vmid } => failed(fault).map(|()| self.make_template(*vmid)),
            Work::Configure { vmid, args } => {
                let shown: Vec<String> = shown_changes(args);
                log.push(format!("update VM {vmid}: {}", shown.join(" ")));
                self.may_change(*vmid, fault)?;
                self.configure(*vmid, args, log)
            }
            Work::Resize { vmid, disk, size } => {
                self.may_change(*vmid, fault)?;
                self.resize(*vmid, disk, size, owner, fault, log)
            }
            Work::Start { vmid } => self.start(*vmid, fault, log),
            Work::Shutdown { vmid, force } => self.shutdown(*vmid, *force, fault),
            Work::Stop { vmid } => {
                self.may_change(*vmid, fault)?;
                self.power_off(*vmid);
                Ok(())
            }
            Work::Destroy { vmid, purge, scan } => self.destroy(*vmid, (*purge, *scan), fault, log),
        }
    }

    /// Existence, the configuration's lock, and the faults that strike there.
    pub(super) fn may_change(&self, vmid: u32, fault: Option<&Effect>) -> Done {
        if fault == Some(&Effect::VmLockTimeout) {
            return Err(vm_lock_text(vmid));
        }
        failed(fault)?;
        let vm = self.vms.get(&vmid).ok_or_else(|| {
            format!("Configuration file 'nodes/?/qemu-server/{vmid}.conf' does not exist")
        })?;
        vm.check_lock()
    }

    fn start(&mut self, vmid: u32, fault: Option<&Effect>, log: &mut Vec<String>) -> Done {
        self.may_change(vmid, fault)?;
        let seed = self.seed_of(vmid);
        let (now, delays) = (self.clock.now(), self.setup.delays.clone());
        let Some(vm) = self.vms.get_mut(&vmid) else { return Ok(()) };
        if vm.is_template() {
            return Err("you can't start a vm if it's a template".to_owned());
        }
        if vm.run.is_some() {
            return Err(format!("VM {vmid} already running"));
        }
        vm.apply_pending();
        let has_seed = vm
            .drives()
            .any(|(_, keys)| keys.get("file").is_some_and(|file| super::drive::is_seed(file)));
        if has_seed {
            log.push("generating cloud-init ISO".to_owned());
            vm.seed = Some(seed.clone());
            vm.seeded = Some(vm.config.clone());
        }
        let agent_at = (fault != Some(&Effect::NoAgent)).then_some(now + delays.agent);
        let address_at =
            agent_at.filter(|_| fault != Some(&Effect::NoAddress)).map(|at| at + delays.address);
        vm.run = Some(Run { since: now, agent_at, address_at, ..Run::default() });
        let start =
            Start { vmid, config: vm.config.clone(), seed, has_seed, disks: self.disk_files(vmid) };
        if let Some(machine) = &mut self.machine
            && let Err(error) = machine.start(&start)
        {
            self.power_off(vmid);
            return Err(format!("start failed: {error:#}"));
        }
        Ok(())
    }

    fn shutdown(&mut self, vmid: u32, force: bool, fault: Option<&Effect>) -> Done {
        if fault == Some(&Effect::VmLockTimeout) {
            return Err(vm_lock_text(vmid));
        }
        self.may_change(vmid, None)?;
        // A guest that does not listen: without force the task fails in the end.
        match failed(fault) {
            Err(text) if !force => return Err(text),
            _ => self.power_off(vmid),
        }
        Ok(())
    }

    /// Guests of real machines that turned themselves off.
    pub(super) fn notice_ends(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        let on = self.vms.iter().filter(|(_, vm)| vm.run.is_some()).map(|(id, _)| *id);
        let ended: Vec<u32> = on.filter(|id| !machine.runs(*id)).collect();
        for vmid in ended {
            self.power_off(vmid);
        }
    }

    /// The VM stops; files in its memory are gone.
    pub fn power_off(&mut self, vmid: u32) {
        let Some(vm) = self.vms.get_mut(&vmid) else { return };
        if vm.run.take().is_some() {
            vm.apply_pending();
            if let Some(machine) = &mut self.machine {
                machine.stop(vmid);
            }
        }
    }
}

/// `-memory 1024 -tags a;b`, as the log of a change shows.
fn shown_changes(args: &Args) -> Vec<String> {
    const QUIET: [&str; 6] = ["node", "vmid", "digest", "skiplock", "background_delay", "force"];
    let shown = args.0.iter().filter(|(key, _)| !QUIET.contains(&key.as_str()));
    shown
        .map(|(key, value)| match key.as_str() {
            "cipassword" => "-cipassword <hidden>".to_owned(),
            _ => format!("-{key} {value}"),
        })
        .collect()
}

/// The fault that makes any task fail.
pub(super) fn failed(fault: Option<&Effect>) -> Done {
    match fault {
        Some(Effect::TaskFails(text)) => Err(text.clone()),
        _ => Ok(()),
    }
}
