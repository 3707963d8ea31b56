//! Steps at Kubernetes: a node's pods, its Node, and how the new one is told from the old.

use node::config::Role;
use node::values::Hostname;

use super::failed::Failed;
use super::journal::{Kind, Operation};
use super::on_vm;
use super::op::Op;
use super::seams::{Answer, Health, NodeState};
use super::step::{Seen, done_if};

/// How many pods a message names.
const SHOWN: usize = 5;

/// Whether a server answered for a snapshot.
pub fn has_snapshot(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.marks.snapshot.is_some() || !op.journal.options.snapshot {
        return Ok(Seen::Done);
    }
    let Some(server) = server(op)? else {
        return Ok(Seen::Refused("no server is Ready that could make a snapshot".to_owned()));
    };
    let answer = op.world.cluster.snapshot(&server, &op.journal.id)?;
    let seen = done_if(answer.is_some(), || format!("{server} has not answered for a snapshot"));
    op.journal.marks.snapshot = answer;
    seen
}

/// Asks for one; the same request again is the same.
pub fn ask_snapshot(op: &mut Op<'_>) -> Answer<()> {
    let Some(server) = server(op)? else { return Ok(()) };
    op.world.cluster.request_snapshot(&server, &op.journal.id)
}

/// The sole server; otherwise one that stays.
fn server(op: &Op<'_>) -> Answer<Option<Hostname>> {
    let (own, sole) = (&op.journal.member.name, op.journal.kind == Kind::Sole);
    let nodes = op.world.cluster.nodes()?;
    let ready = |name: &Hostname| nodes.iter().any(|node| node.name == *name && node.ready);
    let mut servers = op.world.members.iter().filter(|m| m.role == Role::Server).map(|m| &m.name);
    Ok(servers.find(|name| (sole || *name != own) && ready(name)).cloned())
}

/// Whether the Node was looked at.
pub fn is_known(op: &mut Op<'_>) -> Answer<Seen> {
    done_if(op.at.once, || "the Node was not looked at yet".to_owned())
}

/// What tells the new Node from this one.
pub fn remember(op: &mut Op<'_>) -> Answer<()> {
    let node = node(op)?;
    let marks = &mut op.journal.marks;
    if let Some(node) = node {
        marks.uid = Some(node.uid);
        marks.boot_id = Some(node.boot_id);
        marks.lease = node.lease;
        marks.was_ready = node.ready;
        marks.was_cordoned = node.cordoned;
    }
    op.at.once = true;
    Ok(())
}

fn node(op: &Op<'_>) -> Answer<Option<NodeState>> {
    op.world.cluster.node(&op.journal.member.name)
}

/// Whether no new pods come.
pub fn is_cordoned(op: &mut Op<'_>) -> Answer<Seen> {
    let cordoned = node(op)?.is_none_or(|node| node.cordoned);
    done_if(cordoned, || "the Node still takes pods".to_owned())
}

/// Lets none come.
pub fn cordon(op: &mut Op<'_>) -> Answer<()> {
    op.world.cluster.cordon(&op.journal.member.name, true)
}

/// Whether all pods have gone that have to.
pub fn is_drained(op: &mut Op<'_>) -> Answer<Seen> {
    let left = &op.at.left;
    done_if(op.at.once, || match left.len() {
        0 => "the drain has not begun".to_owned(),
        n if n > SHOWN => format!("{} and {} more", left[..SHOWN].join("; "), n - SHOWN),
        _ => left.join("; "),
    })
}

/// One pass of evictions.
pub fn drain(op: &mut Op<'_>) -> Answer<()> {
    let (name, how) = (&op.journal.member.name, op.journal.options.drain);
    let gone = node(op)?.is_none();
    op.at.left =
        if gone { vec![] } else { op.world.cluster.drain(name, how, op.at.last_chance)? };
    op.at.once = op.at.left.is_empty();
    Ok(())
}

/// Whether a VM of the name may join.
pub fn is_forgotten(op: &mut Op<'_>) -> Answer<Seen> {
    let traces = op.world.cluster.traces(&op.journal.member)?;
    done_if(traces.is_clean(), || {
        let left = [
            (traces.node, "the Node"),
            (traces.password, "its node-password Secret"),
            (traces.member, "its etcd member"),
        ];
        let left = left.iter().filter(|(there, _)| *there).map(|(_, what)| *what);
        format!("still there: {}", left.collect::<Vec<_>>().join(", "))
    })
}

/// Only with the VMs off: a K3s that lives would register again (k3s#13072).
pub fn forget(op: &mut Op<'_>) -> Answer<()> {
    on_vm::hold_off(op)?;
    op.world.cluster.forget(&op.journal.member)
}

/// Whether the cluster knows nothing of the new VM, where it may have come to know it.
pub fn new_is_forgotten(op: &mut Op<'_>) -> Answer<Seen> {
    let journal = &op.journal;
    let came = journal.operation == Operation::Create && journal.meant("start");
    if journal.kind == Kind::Sole || !(came || journal.meant("forget")) {
        return Ok(Seen::Done);
    }
    is_forgotten(op)
}

/// Whether the new node is what it should be.
pub fn is_ready(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.kind == Kind::Sole {
        return is_sole_ready(op);
    }
    judge(op, node(op)?)
}

/// Its own API is the only one: that it does not answer, while Proxmox does, tells against it. From
/// its first answer on it may have taken writes.
fn is_sole_ready(op: &mut Op<'_>) -> Answer<Seen> {
    on_vm::watch_new(op)?;
    let answer = node(op);
    if let Err(Failed::Later(why)) = &answer {
        return done_if(false, || format!("its API is away: {why}"));
    }
    // A refusal is an answer, too.
    if !op.journal.marks.answered {
        op.journal.marks.answered = true;
        op.note_down()?;
    }
    let node = answer?;
    judge(op, node)
}

fn judge(op: &Op<'_>, node: Option<NodeState>) -> Answer<Seen> {
    let Some(node) = node else { return done_if(false, || "it has not registered".to_owned()) };
    if !is_new(op, &node) {
        return done_if(false, || "the Node is still that of before".to_owned());
    }
    is_in_service(&node, op.journal.to.as_ref(), op.journal.kind)
}

/// Another Node, or for a sole server another boot whose lease is newer than any that a snapshot has.
fn is_new(op: &Op<'_>, node: &NodeState) -> bool {
    let marks = &op.journal.marks;
    match op.journal.kind {
        Kind::Sole => marks.boot_id.as_ref() != Some(&node.boot_id) && node.lease > marks.lease,
        Kind::Agent | Kind::Server => marks.uid.as_ref() != Some(&node.uid),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the last expression of a look")]
fn is_in_service(
    node: &NodeState,
    image: Option<&node::image_id::ImageId>,
    kind: Kind,
) -> Answer<Seen> {
    let carried = node.image.as_ref();
    let why = match () {
        () if !node.ready => "it is not Ready".to_owned(),
        () if image.is_some() && carried.is_none() => "it does not say its image-id yet".to_owned(),
        () if image.is_some() && carried != image => {
            format!("it carries {}", carried.map(ToString::to_string).unwrap_or_default())
        }
        () if kind == Kind::Server && node.voter != Some(true) => {
            "it is no voter of etcd".to_owned()
        }
        () => return Ok(Seen::Done),
    };
    Ok(Seen::Not(why))
}

/// Whether it is, and the user's own checks agree.
pub fn is_healthy(op: &mut Op<'_>) -> Answer<Seen> {
    let seen = is_ready(op)?;
    if seen != Seen::Done {
        return Ok(seen);
    }
    match op.world.gates.ask(&op.journal.member.name)? {
        Health::Good => Ok(Seen::Done),
        Health::Bad(why) => Ok(Seen::Not(why)),
    }
}

/// Whether the old node serves again, if it did before.
pub fn old_is_ready(op: &mut Op<'_>) -> Answer<Seen> {
    let journal = &mut op.journal;
    if journal.old.is_none() {
        return Ok(Seen::Done);
    }
    if !journal.marks.was_ready {
        journal.note("the node was not Ready before either".to_owned());
        return Ok(Seen::Done);
    }
    let Some(node) = node(op)? else {
        return done_if(false, || "it has not registered".to_owned());
    };
    let (journal, marks) = (&op.journal, &op.journal.marks);
    // Its Node was deleted with both VMs off, or it booted: what the Node says must be of since then.
    let same_boot = marks.boot_id.as_ref() == Some(&node.boot_id);
    if journal.meant("off") && same_boot {
        return done_if(false, || "the Node is still that of before".to_owned());
    }
    is_in_service(&node, journal.from.as_ref(), journal.kind)
}

/// Whether it takes pods if it did before.
pub fn takes_pods(op: &mut Op<'_>) -> Answer<Seen> {
    let wanted = op.journal.marks.was_cordoned;
    let right = node(op)?.is_none_or(|node| node.cordoned == wanted);
    done_if(right, || format!("the Node is {}cordoned", if wanted { "not " } else { "" }))
}

/// Sets that.
pub fn let_pods_in(op: &mut Op<'_>) -> Answer<()> {
    op.world.cluster.cordon(&op.journal.member.name, op.journal.marks.was_cordoned)
}
