//! The operations as tables of steps, in the order that D20 gives and `docs/rebuild.md` explains.
//!
//! The order is the safety: nothing of the old node goes before its pods have a place (drain), no new
//! VM starts while the old one could speak for the same name (off, aside), no join before the cluster
//! has forgotten the old one (forget), and the old VM goes last.

use std::time::Duration;

use super::journal::{Direction, Kind, Operation};
use super::step::{Blame, Step, wait};
use super::{checks, on_node, on_old, on_vm};

/// A read of Proxmox and Kubernetes, through whatever they suffer at the moment.
const ASK: Duration = Duration::from_mins(5);
/// A change of a few calls there.
const CHANGE: Duration = Duration::from_mins(10);
/// Pods with long grace periods and narrow budgets.
const DRAIN: Duration = Duration::from_mins(15);
/// The server saves within a minute or so, NFS may be slow.
const SNAPSHOT: Duration = Duration::from_mins(10);
/// A full copy of a disk, and a copy under way that a killed builder started.
const COPY: Duration = Duration::from_hours(1);
/// The agent's share and the drive's.
const SECRET: Duration = Duration::from_mins(15);
/// Boot, import of the images, join, bundle of a restored server.
const READY: Duration = Duration::from_mins(20);
/// The user's own checks.
const GATES: Duration = Duration::from_mins(15);
/// The Secret goes within a minute, a member's removal within a few.
const FORGET: Duration = Duration::from_mins(10);

const fn row(
    name: &'static str,
    limit: Duration,
    blame: Blame,
    look: fn(&mut super::Op<'_>) -> super::Answer<super::step::Seen>,
    act: fn(&mut super::Op<'_>) -> super::Answer<()>,
) -> Step {
    Step { name, limit, blame, look, act }
}

// Before anything is changed.
const CHECK_ROLE: Step = row("role", ASK, Blame::Nothing, checks::role, wait);
const CHECK_IMAGE: Step = row("image", ASK, Blame::Nothing, checks::image, wait);
const CHECK_SKEW: Step = row("skew", ASK, Blame::Nothing, checks::skew, wait);
const CHECK_ROOM: Step = row("room", ASK, Blame::Nothing, checks::room, wait);
const CHECK_LOCAL: Step = row("local-data", ASK, Blame::Nothing, checks::local_data, wait);
const CHECK_ABSENT: Step = row("absent", ASK, Blame::Nothing, checks::absent, wait);
const CHECK_LAST: Step = row("last-server", ASK, Blame::Nothing, checks::last_server, wait);
const FIRST_SNAPSHOT: Step =
    row("snapshot", SNAPSHOT, Blame::Nothing, on_node::has_snapshot, on_node::ask_snapshot);
const NUMBER: Step = row("number", ASK, Blame::Nothing, on_vm::has_number, on_vm::take_number);

// The old node leaves.
const REMEMBER: Step = row("remember", ASK, Blame::Nothing, on_node::is_known, on_node::remember);
const CORDON: Step = row("cordon", ASK, Blame::World, on_node::is_cordoned, on_node::cordon);
const DRAIN_: Step = row("drain", DRAIN, Blame::World, on_node::is_drained, on_node::drain);
const SOLE_SNAPSHOT: Step =
    row("snapshot", SNAPSHOT, Blame::World, on_node::has_snapshot, on_node::ask_snapshot);
/// A drain takes long: another node may have died meanwhile.
const STILL_ROOM: Step = row("still-room", ASK, Blame::World, checks::room, wait);
const OFF: Step = row("off", CHANGE, Blame::World, on_old::old_is_off, on_old::turn_old_off);
const ASIDE: Step = row("aside", CHANGE, Blame::World, on_old::old_is_aside, on_old::put_old_aside);
const FORGET_: Step = row("forget", FORGET, Blame::World, on_node::is_forgotten, on_node::forget);

// The new one comes.
const CLONE: Step = row("clone", COPY, Blame::World, on_vm::is_cloned, on_vm::clone);
const CONFIGURE: Step =
    row("configure", CHANGE, Blame::World, on_vm::is_configured, on_vm::configure);
const START: Step = row("start", CHANGE, Blame::World, on_vm::is_started, on_vm::start);
const SECRET_: Step = row("secret", SECRET, Blame::Image, on_vm::has_secret, on_vm::deliver);
const READY_: Step = row("ready", READY, Blame::Image, on_node::is_ready, on_vm::keep_going);
const GATES_: Step = row("gates", GATES, Blame::Image, on_node::is_healthy, wait);

// It is proven.
const UNCORDON: Step =
    row("uncordon", CHANGE, Blame::Onward, on_node::takes_pods, on_node::let_pods_in);
const ADOPT: Step = row("adopt", CHANGE, Blame::Onward, on_vm::is_adopted, on_vm::adopt);
const SWEEP: Step = row("sweep", CHANGE, Blame::Onward, on_vm::is_swept, on_vm::sweep);
/// Proven was some steps ago, and after a kill it may be days: what goes now cannot come back. It may
/// give the secret again, so the sweep comes after it.
const STILL_READY: Step =
    row("still-ready", READY, Blame::Onward, on_node::is_ready, on_vm::keep_going);
const OLD_GONE: Step =
    row("old-gone", CHANGE, Blame::Onward, on_old::old_is_gone, on_old::destroy_old);

// Back to the old one. Each is done at once where the way forward did not come so far.
const NEW_OFF: Step = row("new-off", CHANGE, Blame::Onward, on_vm::new_is_off, on_vm::turn_new_off);
const QUARANTINE: Step =
    row("quarantine", ASK, Blame::Onward, checks::is_quarantined, checks::quarantine);
/// A clean end that was asked for may come at any moment: only an old VM that is off is sure to stay.
const OLD_OFF: Step =
    row("old-off", CHANGE, Blame::Onward, on_old::old_is_off_again, on_old::turn_old_off);
const UNDO: Step =
    row("forget-new", FORGET, Blame::Onward, on_node::new_is_forgotten, on_node::forget);
const OLD_BACK: Step =
    row("old-back", CHANGE, Blame::Onward, on_old::old_is_back, on_old::put_old_back);
const OLD_START: Step =
    row("old-start", CHANGE, Blame::Onward, on_old::old_runs, on_old::start_old);
const OLD_READY: Step =
    row("old-ready", READY, Blame::Onward, on_node::old_is_ready, on_old::keep_old_going);
const AS_BEFORE: Step =
    row("schedulable", CHANGE, Blame::Onward, on_node::takes_pods, on_node::let_pods_in);
const NEW_GONE: Step = row("new-gone", COPY, Blame::Onward, on_vm::new_is_gone, on_vm::destroy_new);
const MARK: Step = row("mark-bad", ASK, Blame::Onward, on_vm::is_marked, on_vm::mark_bad);

/// A node that joins what is there.
static CREATE: &[Step] = &[
    CHECK_IMAGE,
    CHECK_SKEW,
    CHECK_ABSENT,
    CHECK_ROOM,
    NUMBER,
    CLONE,
    CONFIGURE,
    START,
    SECRET_,
    READY_,
    GATES_,
    UNCORDON,
    ADOPT,
    SWEEP,
];

/// The only server: no API may be there that could be asked.
static CREATE_SOLE: &[Step] = &[
    CHECK_IMAGE,
    CHECK_ABSENT,
    NUMBER,
    CLONE,
    CONFIGURE,
    START,
    SECRET_,
    READY_,
    GATES_,
    UNCORDON,
    ADOPT,
    SWEEP,
];

/// Agents, and servers among others.
static REBUILD: &[Step] = &[
    CHECK_ROLE,
    CHECK_IMAGE,
    CHECK_SKEW,
    CHECK_ROOM,
    CHECK_LOCAL,
    FIRST_SNAPSHOT,
    NUMBER,
    REMEMBER,
    CORDON,
    DRAIN_,
    STILL_ROOM,
    OFF,
    ASIDE,
    FORGET_,
    CLONE,
    CONFIGURE,
    START,
    SECRET_,
    READY_,
    GATES_,
    UNCORDON,
    ADOPT,
    STILL_READY,
    OLD_GONE,
    SWEEP,
];

/// The sole server is not drained, as workloads run on without it; and its Node is not deleted, as a
/// snapshot without it could not be restored (traps E3).
static REBUILD_SOLE: &[Step] = &[
    CHECK_ROLE,
    CHECK_IMAGE,
    CHECK_SKEW,
    CHECK_ROOM,
    CHECK_LOCAL,
    NUMBER,
    REMEMBER,
    CORDON,
    SOLE_SNAPSHOT,
    OFF,
    ASIDE,
    CLONE,
    CONFIGURE,
    START,
    SECRET_,
    READY_,
    GATES_,
    UNCORDON,
    ADOPT,
    STILL_READY,
    OLD_GONE,
    SWEEP,
];

/// The VM goes when the cluster has forgotten it.
static DELETE: &[Step] = &[
    CHECK_ROLE,
    CHECK_ROOM,
    CHECK_LOCAL,
    FIRST_SNAPSHOT,
    REMEMBER,
    CORDON,
    DRAIN_,
    STILL_ROOM,
    OFF,
    ASIDE,
    FORGET_,
    SWEEP,
    OLD_GONE,
];

/// With the sole server goes the API that could be asked.
static DELETE_SOLE: &[Step] = &[CHECK_LAST, OFF, ASIDE, SWEEP, OLD_GONE];

/// First the record, so that nothing can place the image again; then the new VM must be silent, then the cluster forgets it, then the old one speaks again; what
/// is left of the new one goes when the node is in service.
static BACK: &[Step] = &[
    QUARANTINE, NEW_OFF, OLD_OFF, UNDO, OLD_BACK, OLD_START, OLD_READY, AS_BEFORE, SWEEP, NEW_GONE,
    MARK,
];

/// The steps of an operation.
pub fn of(operation: Operation, kind: Kind, direction: Direction) -> &'static [Step] {
    match (direction, operation, kind) {
        (Direction::Back, _, _) => BACK,
        (_, Operation::Create, Kind::Sole) => CREATE_SOLE,
        (_, Operation::Create, _) => CREATE,
        (_, Operation::Delete, Kind::Sole) => DELETE_SOLE,
        (_, Operation::Delete, _) => DELETE,
        (_, Operation::Rebuild | Operation::Rollback, Kind::Sole) => REBUILD_SOLE,
        (_, Operation::Rebuild | Operation::Rollback, _) => REBUILD,
    }
}
