//! Steps at Proxmox with the new VM, from its number to its service, or to its end.

use std::time::Duration;

use super::checks;
use super::failed::Failed;
use super::journal::{Kind, Operation};
use super::on_old::old;
use super::op::Op;
use super::seams::{Answer, Entry, Found, Off, Place, Vm, Way};
use super::step::{Seen, done_if};

/// An agent that does not answer by then is asked no more: the secret goes by a drive.
const AGENT: Duration = Duration::from_mins(8);
/// A node that has not registered after this time may have lost its secret, by a reset: it lies in
/// memory.
const AGAIN: Duration = Duration::from_mins(4);
/// A copy that ended without its end (a host that went down) keeps its lock for ever. None of ours
/// takes this long.
const STUCK: Duration = Duration::from_mins(30);
/// Numbers tried in one go.
const TRIES: usize = 20;

/// The VM at a place if it is this node's: numbers are given again, names are not.
pub(super) fn ours(op: &Op<'_>, place: &Place) -> Answer<Option<Vm>> {
    let name = op.journal.member.name.as_str();
    Ok(match op.world.hypervisor.look(place)? {
        Found::Vm(vm) if vm.name == name => Some(vm),
        Found::Vm(_) | Found::Free | Found::Hidden => None,
    })
}

/// The new VM, once it was to be made.
fn new(op: &Op<'_>) -> Answer<Option<Vm>> {
    match &op.journal.new {
        Some(place) if op.journal.meant("clone") => ours(op, place),
        _ => Ok(None),
    }
}

fn new_place(op: &Op<'_>) -> Answer<Place> {
    op.journal.new.clone().ok_or_else(|| Failed::Never("the new VM has no number".to_owned()))
}

/// The new VM, which must be there. While a new sole server starts, Proxmox that does not answer is a
/// gap in the watch: nobody could tell then whether the API does.
pub(super) fn watch_new(op: &mut Op<'_>) -> Answer<Vm> {
    let seen = need_new(op);
    if seen.is_err() && op.journal.kind == Kind::Sole && !op.journal.marks.unwatched {
        op.journal.marks.unwatched = true;
        op.note_down()?;
    }
    seen
}

fn need_new(op: &Op<'_>) -> Answer<Vm> {
    let place = new_place(op)?;
    ours(op, &place)?.ok_or_else(|| Failed::Never(format!("the new {place} is gone")))
}

/// Whether the new VM has a number.
pub fn has_number(op: &mut Op<'_>) -> Answer<Seen> {
    done_if(op.journal.new.is_some(), || "no number is chosen".to_owned())
}

/// Takes one that none of the node's VMs has or had.
pub fn take_number(op: &mut Op<'_>) -> Answer<()> {
    let (journal, mut never) = (&op.journal, op.journal.given_up.clone());
    never.extend(journal.old.as_ref().map(|old| old.vmid));
    let vmid = op.world.hypervisor.number(&journal.member, &never)?;
    op.journal.new = Some(Place { host: op.journal.member.host.clone(), vmid });
    if op.journal.kind == Kind::Sole && op.journal.operation == Operation::Create {
        // What a snapshot brings back is older than this.
        op.journal.marks.lease = Some(op.wall());
    }
    // Before anything is made under it.
    op.note_down()
}

/// Whatever runs of this node is cut off: nobody may speak for its name now.
pub(super) fn hold_off(op: &Op<'_>) -> Answer<()> {
    for vm in [old(op)?, new(op)?].into_iter().flatten().filter(|vm| vm.running) {
        op.world.hypervisor.stop(&vm.place, Off::Hard)?;
    }
    Ok(())
}

/// Whether the copy is whole.
pub fn is_cloned(op: &mut Op<'_>) -> Answer<Seen> {
    let place = new_place(op)?;
    Ok(match op.world.hypervisor.look(&place)? {
        Found::Vm(vm) if is_own_copy(op, &vm) && vm.lock.is_none() => Seen::Done,
        Found::Vm(vm) if is_own_copy(op, &vm) => Seen::Not(format!("{place} is still copied")),
        Found::Vm(vm) => Seen::Not(format!("{place} is {}'s", vm.name)),
        Found::Hidden => Seen::Not(format!("{place} is still copied, or somebody else's")),
        Found::Free => Seen::Not(format!("{place} is not there")),
    })
}

fn is_own_copy(op: &Op<'_>, vm: &Vm) -> bool {
    vm.name == op.journal.member.name.as_str() && vm.image == op.journal.to
}

/// Makes it, or waits for one under way, or takes another number.
pub fn clone(op: &mut Op<'_>) -> Answer<()> {
    // At once, before another node of the same rollout takes that one, too.
    for _ in 0..TRIES {
        let place = new_place(op)?;
        match op.world.hypervisor.look(&place)? {
            Found::Free => {
                let template = checks::template(op)?;
                match op.world.hypervisor.clone_vm(&template, &place, &op.journal.member) {
                    Err(Failed::Taken(_)) => give_up(op, &place)?,
                    result => return result,
                }
            }
            Found::Vm(vm) if !is_own_copy(op, &vm) => give_up(op, &place)?,
            Found::Vm(_) | Found::Hidden if number_age(op) > STUCK => {
                let text = stuck(&place);
                op.journal.note(text);
                give_up(op, &place)?;
            }
            Found::Vm(_) | Found::Hidden => return Ok(()),
        }
    }
    Err(Failed::Later(format!("{TRIES} numbers one after the other were taken by others")))
}

/// How long this process waits for the copy at the number of now.
fn number_age(op: &Op<'_>) -> Duration {
    op.world.time.now().saturating_sub(op.at.numbered.unwrap_or(op.at.since))
}

fn give_up(op: &mut Op<'_>, place: &Place) -> Answer<()> {
    op.journal.given_up.insert(place.vmid);
    op.at.numbered = Some(op.world.time.now());
    take_number(op)
}

/// No token can remove the lock of a copy that was cut off.
fn stuck(place: &Place) -> String {
    let (host, vmid) = (&place.host, place.vmid);
    format!(
        "{place} is a copy that does not end, or somebody else's VM: if it is ours, run \
         `qm unlock {vmid} && qm destroy {vmid}` as root on {host}"
    )
}

/// Whether the clone is this node.
pub fn is_configured(op: &mut Op<'_>) -> Answer<Seen> {
    done_if(need_new(op)?.configured, || "the new VM is not configured".to_owned())
}

/// Makes it that.
pub fn configure(op: &mut Op<'_>) -> Answer<()> {
    op.world.hypervisor.configure(&new_place(op)?, &op.journal.member)
}

/// Whether the new VM runs.
pub fn is_started(op: &mut Op<'_>) -> Answer<Seen> {
    done_if(need_new(op)?.running, || "the new VM does not run".to_owned())
}

/// Starts it, with the old one held off.
pub fn start(op: &mut Op<'_>) -> Answer<()> {
    if let Some(vm) = old(op)?.filter(|vm| vm.running) {
        op.world.hypervisor.stop(&vm.place, Off::Hard)?;
    }
    op.world.hypervisor.start(&new_place(op)?)
}

/// Whether the guest has its secret: it took it, or uses it already.
pub fn has_secret(op: &mut Op<'_>) -> Answer<Seen> {
    if !watch_new(op)?.running {
        return done_if(false, || "the new VM does not run".to_owned());
    }
    done_if(op.at.once, || "the guest takes no join secret".to_owned())
}

/// Gives it.
pub fn deliver(op: &mut Op<'_>) -> Answer<()> {
    let (place, journal) = (new_place(op)?, &op.journal);
    op.world.hypervisor.start(&place)?;
    let entry = match (journal.kind, journal.operation) {
        (Kind::Agent | Kind::Server, _) => Entry::Join,
        (Kind::Sole, Operation::Create) => journal.options.entry,
        (Kind::Sole, _) => Entry::Restore,
    };
    let way = if op.age() < AGENT { Way::Agent } else { Way::Drive };
    op.world.hypervisor.deliver(&place, &journal.member, entry, way)?;
    op.at.once = true;
    op.at.delivered = Some(op.world.time.now());
    Ok(())
}

/// While it becomes ready: a guest that turned itself off is started, and what a reset took from its
/// memory is given again.
pub fn keep_going(op: &mut Op<'_>) -> Answer<()> {
    let running = need_new(op)?.running;
    let given = op.at.delivered.unwrap_or(op.at.since);
    if running && op.world.time.now().saturating_sub(given) < AGAIN {
        return Ok(());
    }
    // Told that it failed, the step would know no better what to do.
    let result = deliver(op);
    op.at.once = false;
    op.at.delivered = Some(op.world.time.now());
    result
}

/// Whether the new VM comes up with its host.
pub fn is_adopted(op: &mut Op<'_>) -> Answer<Seen> {
    let vm = need_new(op)?;
    done_if(vm.onboot && vm.link, || "the new VM does not start with its host".to_owned())
}

/// Makes it.
pub fn adopt(op: &mut Op<'_>) -> Answer<()> {
    op.world.hypervisor.set_aside(&new_place(op)?, false)
}

/// Copies under numbers that were given up and that have ended since: they are ours to remove.
fn strays(op: &Op<'_>) -> Answer<Vec<Vm>> {
    let mut found = Vec::new();
    for vmid in &op.journal.given_up {
        let place = Place { host: op.journal.member.host.clone(), vmid: *vmid };
        let own = ours(op, &place)?.filter(|vm| is_own_copy(op, vm) && vm.lock.is_none());
        found.extend(own.filter(|vm| !vm.running));
    }
    Ok(found)
}

/// Whether no secret and no stray copy is left.
pub fn is_swept(op: &mut Op<'_>) -> Answer<Seen> {
    let left = op.world.hypervisor.has_secret(&op.journal.member)? || !strays(op)?.is_empty();
    done_if(!left, || "something with a join secret, or a stray copy, is left".to_owned())
}

/// Removes them.
pub fn sweep(op: &mut Op<'_>) -> Answer<()> {
    op.world.hypervisor.sweep(&op.journal.member)?;
    strays(op)?.iter().try_for_each(|vm| op.world.hypervisor.destroy(&vm.place))
}

/// Whether the new VM is silent. One that is still copied was never started.
pub fn new_is_off(op: &mut Op<'_>) -> Answer<Seen> {
    let running = new(op)?.is_some_and(|vm| vm.running);
    done_if(!running, || "the new VM still runs".to_owned())
}

/// Silences it.
pub fn turn_new_off(op: &mut Op<'_>) -> Answer<()> {
    new(op)?.map_or(Ok(()), |vm| op.world.hypervisor.stop(&vm.place, Off::Hard))
}

/// Whether the new VM is gone, or can only be removed by root.
pub fn new_is_gone(op: &mut Op<'_>) -> Answer<Seen> {
    let Some(place) = op.journal.new.clone().filter(|_| op.journal.meant("clone")) else {
        return Ok(Seen::Done);
    };
    let text = match op.world.hypervisor.look(&place)? {
        Found::Vm(vm) if is_own_copy(op, &vm) && vm.lock.is_none() => {
            return done_if(false, || "the new VM is still there".to_owned());
        }
        Found::Vm(vm) if is_own_copy(op, &vm) => format!("{place} is locked"),
        Found::Hidden => format!("{place} is still copied, or somebody else's"),
        Found::Vm(_) | Found::Free => return Ok(Seen::Done),
    };
    if op.age() < STUCK {
        return Ok(Seen::Not(text));
    }
    op.journal.note(stuck(&place));
    Ok(Seen::Done)
}

/// Removes it. One that is still copied cannot be yet.
pub fn destroy_new(op: &mut Op<'_>) -> Answer<()> {
    let Some(vm) = new(op)?.filter(|vm| is_own_copy(op, vm) && vm.lock.is_none()) else {
        return Ok(());
    };
    if vm.running {
        return op.world.hypervisor.stop(&vm.place, Off::Hard);
    }
    op.world.hypervisor.destroy(&vm.place)
}

/// Whether other machines can see that the image is bad. Ours knows by its own record, so that this
/// is not worth a question to the operator.
pub fn is_marked(op: &mut Op<'_>) -> Answer<Seen> {
    let Some(image) = op.journal.to.clone().filter(|_| op.journal.marks.suspect) else {
        return Ok(Seen::Done);
    };
    let unmarked = op.world.hypervisor.templates()?;
    let unmarked = unmarked.iter().filter(|t| t.image == image && !t.quarantined).count();
    if unmarked > 0 && op.at.last_chance {
        op.journal.note(format!("{unmarked} templates of {image} could not be tagged as bad"));
        return Ok(Seen::Done);
    }
    done_if(unmarked == 0, || format!("{unmarked} templates of {image} are not tagged as bad"))
}

/// Tags them.
pub fn mark_bad(op: &mut Op<'_>) -> Answer<()> {
    op.journal.to.as_ref().map_or(Ok(()), |image| op.world.hypervisor.mark_bad(image))
}
