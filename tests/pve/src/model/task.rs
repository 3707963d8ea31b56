//! Tasks: a name that tells all about them, work that is done when their time is up, a log, an end.

use super::{Work, World};
use crate::access::Caller;
use crate::fault::Effect;

/// Virtual milliseconds between two looks at a guest that ends.
const GUEST_POLL: u64 = 500;

/// A task.
#[derive(Debug)]
pub struct Task {
    /// `UPID:node:pid:pstart:start:type:id:user:`.
    pub upid: String,
    /// The node it runs on.
    pub node: String,
    /// `qmclone` …
    pub kind: String,
    /// The VM's or storage's id, or nothing.
    pub id: String,
    /// Who started it.
    pub owner: Caller,
    /// Process number in its name.
    pub pid: u64,
    /// Process start in its name.
    pub pstart: u64,
    /// Seconds since 1970.
    pub started: u64,
    /// Seconds since 1970, when it ended.
    pub ended: Option<u64>,
    /// Virtual time at which its work is done.
    pub due: u64,
    /// Lines of its log.
    pub log: Vec<String>,
    /// How it ended.
    pub exit: Option<String>,
    /// How often its state was asked for.
    pub polls: u32,
    pub(super) waiting_since: Option<u64>,
    /// Whether the guest of a shutdown was asked.
    pub(super) asked: bool,
    pub(super) work: Option<Work>,
    pub(super) fault: Option<TaskFault>,
}

/// The effects that strike inside a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskFault(pub Effect);

impl World {
    /// Starts a task; its name.
    pub(crate) fn fork(
        &mut self,
        node: &str,
        kind: &str,
        id: &str,
        owner: &Caller,
        work: Work,
    ) -> String {
        let number = self.number();
        let (pid, pstart, started) =
            (0x1000 + number, 0x5_0000 + self.clock.now() / 10, self.clock.unix());
        let fault = self.task_fault.take();
        let slow = match &fault {
            Some(TaskFault(Effect::Slow(extra))) => *extra,
            _ => 0,
        };
        let upid = format!(
            "UPID:{node}:{pid:08X}:{pstart:08X}:{started:08X}:{kind}:{id}:{}:",
            owner.token
        );
        self.tasks.push(Task {
            upid: upid.clone(),
            node: node.to_owned(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            owner: owner.clone(),
            pid,
            pstart,
            started,
            ended: None,
            due: self.clock.now() + self.duration(kind) + slow,
            log: Vec::new(),
            exit: None,
            polls: 0,
            waiting_since: None,
            asked: false,
            work: Some(work),
            fault,
        });
        upid
    }

    /// The running task that ends next, if its time is up.
    pub(super) fn next_due(&self, now: u64) -> Option<usize> {
        let due = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.exit.is_none() && task.due <= now);
        due.min_by_key(|(index, task)| (task.due, *index)).map(|(index, _)| index)
    }

    /// Does a task's work and writes its end.
    pub(super) fn run_task(&mut self, index: usize) {
        let Some(work) = self.tasks[index].work.take() else { return };
        if self.waits_for_lock(index, &work) {
            if self.tasks[index].exit.is_none() {
                self.tasks[index].work = Some(work);
            }
            return;
        }
        if self.waits_for_guest(index, &work) {
            self.tasks[index].work = Some(work);
            return;
        }
        let fault = self.tasks[index].fault.clone().map(|fault| fault.0);
        if fault == Some(Effect::Killed) {
            self.end(index, "unexpected status", None);
            return;
        }
        let mut log = std::mem::take(&mut self.tasks[index].log);
        let owner = self.tasks[index].owner.clone();
        let done = self.perform(&work, &owner, fault.as_ref(), &mut log);
        self.tasks[index].log = log;
        match (done, fault) {
            (Ok(()), Some(Effect::Warnings(count))) => self.warned(index, count),
            (Ok(()), Some(Effect::DisksStay)) => self.warned(index, 1),
            (Ok(()), _) => self.end(index, "OK", Some("TASK OK")),
            (Err(text), _) => self.end(index, &text, Some(&format!("TASK ERROR: {text}"))),
        }
    }

    fn warned(&mut self, index: usize, count: u32) {
        self.tasks[index].log.push("WARN: something needs a look".to_owned());
        self.end(index, &format!("WARNINGS: {count}"), Some(&format!("TASK WARNINGS: {count}")));
    }

    pub(super) fn end(&mut self, index: usize, exit: &str, line: Option<&str>) {
        let unix = self.clock.unix();
        let task = &mut self.tasks[index];
        task.log.extend(line.map(str::to_owned));
        task.exit = Some(exit.to_owned());
        task.ended = Some(unix);
        task.work = None;
    }

    /// A lock held outside: the task waits, and fails when the wait is over. True while it waits.
    fn waits_for_lock(&mut self, index: usize, work: &Work) -> bool {
        let now = self.clock.now();
        let (vms, storages) = self.locks_of(work);
        let vm =
            vms.into_iter().find(|id| self.held_vm_locks.get(id).is_some_and(|until| *until > now));
        let held =
            |name: &&String| self.held_storage_locks.get(*name).is_some_and(|until| *until > now);
        let storage = storages.iter().find(held);
        let until = vm
            .map(|id| self.held_vm_locks[&id])
            .or(storage.map(|name| self.held_storage_locks[name]));
        let Some(until) = until else { return false };
        let due = self.tasks[index].due;
        if self.tasks[index].waiting_since.is_none() {
            self.tasks[index].log.push("trying to acquire lock...".to_owned());
        }
        let begun = *self.tasks[index].waiting_since.get_or_insert(due);
        let patience = self.setup.delays.lock;
        if until > begun + patience && now >= begun + patience {
            if let (None, Some(storage)) = (vm, storage) {
                let text = self.storage_lock_text(storage);
                self.tasks[index].fault = Some(TaskFault(Effect::TaskFails(text)));
                return false;
            }
            if let Work::Clone(copy) = work {
                self.vms.remove(&copy.target);
            }
            let text = vm_lock_text(vm.unwrap_or_default());
            self.end(index, &text, Some(&format!("TASK ERROR: {text}")));
            return true;
        }
        self.tasks[index].due = until.min(begun + patience);
        true
    }

    /// A real machine is asked to end and takes its time; one of the model has ended by now.
    fn waits_for_guest(&mut self, index: usize, work: &Work) -> bool {
        let (Work::Shutdown { vmid, .. }, Some(machine)) = (work, &mut self.machine) else {
            return false;
        };
        let task = &mut self.tasks[index];
        let asked = std::mem::replace(&mut task.asked, true);
        if task.fault.is_some() || (!asked && machine.press_power(*vmid).is_err()) {
            return false;
        }
        task.due = self.clock.now() + GUEST_POLL;
        machine.runs(*vmid)
    }

    /// Proxmox' words when a storage's lock is not had in time.
    pub(crate) fn storage_lock_text(&self, storage: &str) -> String {
        if self.storages.get(storage).is_some_and(|storage| storage.shared) {
            return format!("cfs-lock 'storage-{storage}' error: got lock request timeout");
        }
        format!("can't lock file '/var/lock/pve-manager/pve-storage-{storage}' - got timeout")
    }

    /// The task's process dies: what it made stays as it is, with its lock.
    pub fn kill_task(&mut self, upid: &str) {
        let running = |task: &Task| task.upid == upid && task.exit.is_none();
        if let Some(index) = self.tasks.iter().position(running) {
            self.end(index, "unexpected status", None);
        }
    }

    /// Stops a task from outside.
    pub(crate) fn interrupt(&mut self, upid: &str) {
        let running = |task: &Task| task.upid == upid && task.exit.is_none();
        let Some(index) = self.tasks.iter().position(running) else { return };
        let work = self.tasks[index].work.take();
        let mut log = Vec::new();
        let owner = self.tasks[index].owner.clone();
        let waited =
            self.tasks[index].waiting_since.and(work.as_ref()).map(|work| self.locks_of(work).1);
        let waited = waited.and_then(|storages| {
            storages.into_iter().find(|name| self.held_storage_locks.contains_key(name))
        });
        let text = waited.map_or("interrupted by signal".to_owned(), |storage| {
            self.storage_lock_text(&storage).replace("got timeout", "interrupted by signal")
        });
        let fault = Effect::TaskFails(text);
        let text = work.and_then(|work| self.perform(&work, &owner, Some(&fault), &mut log).err());
        let text = text.unwrap_or_else(|| "interrupted by signal".to_owned());
        self.end(index, &text, Some(&format!("TASK ERROR: {text}")));
    }
}

/// Proxmox' words when a VM's lock is not had in time.
pub(crate) fn vm_lock_text(vmid: u32) -> String {
    format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
}
