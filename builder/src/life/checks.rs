//! What has to be so before a node is touched, and the record of images that proved bad.

use std::collections::BTreeMap;

use node::config::Role;
use node::image_id::ImageId;

use super::failed::Failed;
use super::history::{self, Bad};
use super::journal::{Kind, Operation};
use super::op::Op;
use super::seams::{Answer, Member, NodeState, Template};
use super::step::{Seen, done_if, refused_unless};

/// A template of the image on the node's host, of which nothing bad is known.
pub fn image(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.to.is_none() {
        return Ok(Seen::Done);
    }
    Ok(match template(op) {
        Ok(_) => Seen::Done,
        Err(Failed::Never(why)) => Seen::Refused(why),
        Err(e) => return Err(e),
    })
}

/// The template to clone.
pub fn template(op: &Op<'_>) -> Answer<Template> {
    let (journal, host) = (&op.journal, &op.journal.member.host);
    let Some(image) = &journal.to else {
        return Err(Failed::Never("no image is wanted".to_owned()));
    };
    let known = history::bad(op.world.shelf, image).map_err(|e| Failed::Never(format!("{e:#}")))?;
    if let Some(bad) = known {
        return Err(Failed::Never(quarantined(image, &bad.told())));
    }
    let found = op.world.hypervisor.templates()?.into_iter();
    let mut found = found.filter(|t| t.image == *image).peekable();
    if found.peek().is_none() {
        let text = format!("{image} is no template on any host; run `builder push`");
        return Err(Failed::Never(text));
    }
    let all: Vec<_> = found.collect();
    if all.iter().any(|t| t.quarantined) {
        return Err(Failed::Never(quarantined(image, "by a tag of its template")));
    }
    all.into_iter().find(|t| t.place.host == *host).ok_or_else(|| {
        Failed::Never(format!("{image} is no template on {host}; run `builder push --to {host}`"))
    })
}

/// What to do about an image that is bad.
fn quarantined(image: &ImageId, why: &str) -> String {
    format!(
        "{image} is quarantined: {why}; build another image, or where it is not to blame \
         `builder quarantine lift {image}`"
    )
}

/// A node is server or agent for its life: what it leaves behind in the cluster differs.
pub fn role(op: &mut Op<'_>) -> Answer<Seen> {
    let member = &op.journal.member;
    let node = op.world.cluster.node(&member.name)?;
    let moved = node.and_then(|node| moved(member, &node));
    refused_unless(moved.is_none(), || moved.unwrap_or_default())
}

/// What to do where the cluster's file makes a node something else than it is.
pub(super) fn moved(member: &Member, node: &NodeState) -> Option<String> {
    let word = |server| if server { "a server" } else { "an agent" };
    let (is, wanted, name) = (node.server, member.role == Role::Server, &member.name);
    (is != wanted).then(|| {
        format!(
            "{name} is {} in the cluster, and {} by its profile `{}` in cluster.toml: a node keeps its \
             role. Give it its old profile again; to change it, `builder node delete {name}` with the \
             old profile, then `builder node create {name}` with the new one",
            word(is),
            word(wanted),
            member.profile
        )
    })
}

/// K3s' own rules: an agent is never newer than the servers; and what a newer etcd wrote, an older one
/// does not read (k3s.md §0).
pub fn skew(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.to.is_none() {
        return Ok(Seen::Done);
    }
    let Some(wanted) = template(op)?.k3s.as_deref().and_then(minor) else { return Ok(Seen::Done) };
    let nodes = op.world.cluster.nodes()?;
    let own = &op.journal.member;
    let minors = |alone: bool| {
        let servers = op.world.members.iter().filter(|m| m.role == Role::Server);
        let servers = servers.filter(move |m| alone || m.name != own.name);
        servers
            .filter_map(|m| nodes.iter().find(|n| n.name == m.name))
            .filter_map(|n| minor(&n.k3s))
    };
    if own.role == Role::Agent {
        let oldest = minors(true).min();
        return refused_unless(oldest.is_none_or(|oldest| wanted <= oldest), || {
            format!("K3s 1.{wanted} is newer than a server's: roll out the servers first")
        });
    }
    let sole = op.journal.kind == Kind::Sole;
    let oldest = minors(sole).min();
    refused_unless(oldest.is_none_or(|oldest| wanted >= oldest), || {
        format!(
            "K3s 1.{wanted} is older than what wrote the cluster's data, which it may not be able to \
             read; take an image with 1.{} or newer",
            oldest.unwrap_or_default()
        )
    })
}

/// The 36 of `v1.36.4+k3s1`.
pub(super) fn minor(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').nth(1)?.parse().ok()
}

/// Whether the cluster can do without the node: never more out of service than allowed, never less
/// than a majority of the servers.
pub fn room(op: &mut Op<'_>) -> Answer<Seen> {
    let journal = &op.journal;
    let nodes = op.world.cluster.nodes()?;
    let own = &journal.member.name;
    let nodes: BTreeMap<_, _> = nodes.iter().map(|node| (&node.name, node)).collect();
    let others = op.world.members.iter().filter(|member| member.name != *own);
    let others: Vec<(&Member, &NodeState)> =
        others.filter_map(|member| Some((member, *nodes.get(&member.name)?))).collect();
    let out: Vec<_> =
        others.iter().filter(|(_, n)| !n.ready || n.cordoned).map(|(m, _)| &m.name).collect();
    if journal.operation != Operation::Create && out.len() >= journal.options.max_unavailable {
        let names = names(out.into_iter());
        let most = journal.options.max_unavailable;
        return Ok(Seen::Refused(format!(
            "{names} is out of service, and at most {most} may be: bring it back, or allow more with \
             --max-unavailable"
        )));
    }
    if journal.kind != Kind::Server {
        return Ok(Seen::Done);
    }
    let servers = others.iter().filter(|(m, _)| m.role == Role::Server).count() + 1;
    let voters =
        others.iter().filter(|(m, n)| m.role == Role::Server && n.ready && n.voter == Some(true));
    let (voters, majority) = (voters.count(), servers / 2 + 1);
    // A server that is not there yet takes nothing away.
    let majority = if journal.operation == Operation::Create { servers / 2 } else { majority };
    refused_unless(voters >= majority, || {
        format!("without {own} only {voters} of {servers} servers vote, and etcd needs {majority}")
    })
}

fn names<'a>(all: impl Iterator<Item = &'a node::values::Hostname>) -> String {
    all.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Data that lies on the node's disk alone.
pub fn local_data(op: &mut Op<'_>) -> Answer<Seen> {
    if op.journal.options.lose_local_data {
        return Ok(Seen::Done);
    }
    let claims = op.world.cluster.local_data(&op.journal.member.name)?;
    refused_unless(claims.is_empty(), || {
        format!(
            "volumes lie on this node's disk alone: {}; move them away, or lose them with \
             --lose-local-data",
            claims.join(", ")
        )
    })
}

/// Nothing of the name is there.
pub fn absent(op: &mut Op<'_>) -> Answer<Seen> {
    let name = op.journal.member.name.clone();
    if let Some(vm) = op.world.hypervisor.vms_of(&name)?.first() {
        return Ok(Seen::Refused(format!("{} is there: `builder node rebuild {name}`", vm.place)));
    }
    // A lost sole server has no API that could have a Node.
    if op.journal.kind == Kind::Sole {
        return Ok(Seen::Done);
    }
    let traces = op.world.cluster.traces(&op.journal.member)?;
    refused_unless(traces.is_clean(), || {
        format!(
            "the cluster still knows {name} ({traces:?}): a VM of this name could not join; \
             `builder node delete {name}`"
        )
    })
}

/// The cluster goes with it.
pub fn last_server(op: &mut Op<'_>) -> Answer<Seen> {
    refused_unless(op.journal.options.lose_cluster, || {
        format!(
            "{} is the only server: without it there is no cluster, and what was written since its \
             last snapshot is lost; say --force --lose-cluster if that is meant",
            op.journal.member.name
        )
    })
}

/// Whether the image is recorded as bad, where it is.
pub fn is_quarantined(op: &mut Op<'_>) -> Answer<Seen> {
    let Some(image) = op.journal.to.as_ref().filter(|_| op.journal.marks.suspect) else {
        return Ok(Seen::Done);
    };
    let known = history::bad(op.world.shelf, image).map_err(|e| Failed::Never(format!("{e:#}")))?;
    done_if(known.is_some(), || format!("{image} is not recorded as bad"))
}

/// Records it.
pub fn quarantine(op: &mut Op<'_>) -> Answer<()> {
    let journal = &op.journal;
    let Some(image) = journal.to.clone() else { return Ok(()) };
    let bad = Bad {
        image,
        node: Some(journal.member.name.clone()),
        operation: Some(journal.id.clone()),
        reason: journal.cause.clone().unwrap_or_default(),
        at: op.wall(),
        lifted: None,
    };
    history::quarantine(op.world.shelf, &bad).map_err(|e| Failed::Never(format!("{e:#}")))
}
