//! Steps at Proxmox with the old VM, which is kept until the new one is proven.

use std::time::Duration;

use super::failed::Failed;
use super::journal::Operation;
use super::on_vm::ours;
use super::op::Op;
use super::seams::{Answer, Found, Off, Vm};
use super::step::{Seen, done_if};
use super::{on_node, on_vm};

/// A guest that does not end by itself in this time is cut off.
const CLEAN: Duration = Duration::from_mins(3);

pub(super) fn old(op: &Op<'_>) -> Answer<Option<Vm>> {
    let Some(place) = &op.journal.old else { return Ok(None) };
    if op.world.hypervisor.look(place)? == Found::Hidden {
        let text =
            format!("the token does not see the old {place} any more: is it in another pool?");
        return Err(Failed::Later(text));
    }
    ours(op, place)
}

/// Whether the old VM is off.
pub fn old_is_off(op: &mut Op<'_>) -> Answer<Seen> {
    let running = old(op)?.is_some_and(|vm| vm.running);
    done_if(!running, || "the old VM still runs".to_owned())
}

/// The same, where it was to be off at all.
pub fn old_is_off_again(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.meant("off") { old_is_off(op) } else { Ok(Seen::Done) }
}

/// Asks the guest, then cuts.
pub fn turn_old_off(op: &mut Op<'_>) -> Answer<()> {
    let Some(vm) = old(op)? else { return Ok(()) };
    let how = if op.age() < CLEAN { Off::Clean } else { Off::Hard };
    if how == Off::Hard {
        op.journal.note(format!("the old {} did not end by itself and was cut off", vm.place));
    }
    op.world.hypervisor.stop(&vm.place, how)
}

/// Whether the old VM can neither start by itself nor reach the network.
pub fn old_is_aside(op: &mut Op<'_>) -> Answer<Seen> {
    let aside = old(op)?.is_none_or(|vm| !vm.onboot && !vm.link);
    done_if(aside, || "the old VM is not put aside".to_owned())
}

/// Puts it there.
pub fn put_old_aside(op: &mut Op<'_>) -> Answer<()> {
    old(op)?.map_or(Ok(()), |vm| op.world.hypervisor.set_aside(&vm.place, true))
}

/// Whether the old VM is gone.
pub fn old_is_gone(op: &mut Op<'_>) -> Answer<Seen> {
    let Some(place) = op.journal.old.clone() else { return Ok(Seen::Done) };
    if op.world.hypervisor.look(&place)? == Found::Hidden && op.at.last_chance {
        op.journal.note(format!("{place} is not seen any more: it is gone, or in another pool"));
        return Ok(Seen::Done);
    }
    done_if(old(op)?.is_none(), || "the old VM is still there".to_owned())
}

/// Removes it. The step before saw the new node Ready, but Proxmox may have been away since, for longer
/// than a node that died goes on saying so: it is asked once more, right before.
pub fn destroy_old(op: &mut Op<'_>) -> Answer<()> {
    let Some(vm) = old(op)? else { return Ok(()) };
    if vm.running {
        return op.world.hypervisor.stop(&vm.place, Off::Hard);
    }
    if op.journal.operation != Operation::Delete
        && let Seen::Not(why) | Seen::Refused(why) = on_node::is_ready(op)?
    {
        on_vm::keep_going(op)?;
        return Err(Failed::Later(format!("{} is still needed: {why}", vm.place)));
    }
    op.world.hypervisor.destroy(&vm.place)
}

/// Whether the old VM is on the network again and starts with its host.
pub fn old_is_back(op: &mut Op<'_>) -> Answer<Seen> {
    let Some(place) = op.journal.old.clone().filter(|_| op.journal.meant("off")) else {
        return Ok(Seen::Done);
    };
    Ok(match old(op)? {
        None => Seen::Refused(format!("the old {place} is gone: there is nothing to go back to")),
        Some(vm) if vm.onboot && vm.link => Seen::Done,
        Some(_) => Seen::Not("the old VM is still put aside".to_owned()),
    })
}

/// Puts it there.
pub fn put_old_back(op: &mut Op<'_>) -> Answer<()> {
    old(op)?.map_or(Ok(()), |vm| op.world.hypervisor.set_aside(&vm.place, false))
}

/// Whether the old VM runs.
pub fn old_runs(op: &mut Op<'_>) -> Answer<Seen> {
    let off = op.journal.meant("off") && old(op)?.is_some_and(|vm| !vm.running);
    done_if(!off, || "the old VM does not run".to_owned())
}

/// Starts it.
pub fn start_old(op: &mut Op<'_>) -> Answer<()> {
    old(op)?.map_or(Ok(()), |vm| op.world.hypervisor.start(&vm.place))
}

/// A guest that turned itself off again is started again; so is one that was Ready before and that died
/// meanwhile, without our doing.
pub fn keep_old_going(op: &mut Op<'_>) -> Answer<()> {
    start_old(op)
}
