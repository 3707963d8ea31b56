//! A rollout: which nodes, in which order, and how far it came. The file is the plan; what is done to a
//! node stands in that node's own journal.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use node::config::Role;
use node::image_id::ImageId;
use node::values::Hostname;
use serde::{Deserialize, Serialize};

use super::begin::{ask, good, refuse_beside_others};
use super::checks::{minor, moved};
use super::journal::{self, Options};
use super::op::World;
use super::seams::{Member, NodeState, Template};
use super::shelf;
use super::window::Window;

/// Version of the file's form.
const SCHEMA: u32 = 1;

/// How a node of it fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its turn has not come.
    Waiting,
    /// Its operation is under way, or waits for the operator.
    UnderWay,
    /// It carries the image and is proven.
    Done,
    /// It is as it was before.
    WentBack,
    /// It could not be begun.
    Refused,
}

/// A node of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The node.
    pub node: Hostname,
    /// The image it has; `None`: not known.
    pub from: Option<ImageId>,
    /// The image it gets.
    pub to: ImageId,
    /// How it fares.
    pub state: State,
    /// Its journal, once begun.
    pub operation: Option<String>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// All nodes carry their image.
    Done,
    /// A node went back or could not be begun: the rest was left alone.
    Stopped,
    /// By the operator.
    Aborted,
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Time and `rollout`; the file's name.
    pub id: String,
    /// The nodes in their order; those that carry the image already are not among them.
    pub rows: Vec<Row>,
    /// Whether the first node is tried alone.
    pub canary: bool,
    /// When nodes may be taken; `None`: always.
    pub window: Option<Window>,
    /// For each node.
    pub options: Options,
    /// Who asked for it, as USER@HOST.
    pub who: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended; `None`: it has not.
    pub outcome: Option<End>,
    /// Why it did not end as meant.
    pub cause: Option<String>,
    /// The operator ended it: nodes under way go back, or come to their end.
    pub aborted: bool,
}

impl Rollout {
    /// Reads a file of this program.
    ///
    /// # Errors
    /// It is none, or of another version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let rollout: Self =
            serde_json::from_slice(text).context("is no rollout of this version")?;
        ensure!(
            rollout.schema == SCHEMA,
            "has schema {}; this builder writes {SCHEMA}",
            rollout.schema
        );
        Ok(rollout)
    }

    pub(super) fn save(&self, shelf: &dyn shelf::Shelf) -> Result<()> {
        shelf.put(shelf::Drawer::Rollout, &self.id, &serde_json::to_vec_pretty(self)?)
    }
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Only nodes of this profile.
    pub profile: Option<Hostname>,
    /// The node that goes first and alone.
    pub canary: Option<Hostname>,
    /// When nodes may be taken.
    pub window: Option<Window>,
    /// For each node.
    pub options: Options,
    /// Who asks.
    pub who: String,
}

/// The plan: every node whose image is not its profile's newest good one. Nothing is written.
///
/// # Errors
/// Something is under way, an image is missing on a host, or the canary is no node of it.
pub fn plan(world: &World<'_>, wish: &Wish) -> Result<Rollout> {
    refuse_beside_others(world)?;
    let vms = ask(world, || world.hypervisor.vms())?;
    let mut good = BTreeMap::new();
    let mut rows = Vec::new();
    let mut versions = Vec::new();
    let wanted = |m: &&Member| wish.profile.as_ref().is_none_or(|profile| *profile == m.profile);
    for member in world.members.iter().filter(wanted) {
        // A node that was never made is not rolled out to.
        let Some(vm) = vms.iter().find(|vm| vm.name == member.name.as_str()) else { continue };
        if !good.contains_key(&member.profile) {
            good.insert(member.profile.clone(), self::good(world, &member.profile)?);
        }
        let template = target(member, &good[&member.profile])?;
        if vm.image.as_ref() == Some(&template.image) {
            continue;
        }
        versions.push((member.clone(), template.k3s.clone()));
        rows.push(Row {
            node: member.name.clone(),
            from: vm.image.clone(),
            to: template.image,
            state: State::Waiting,
            operation: None,
        });
    }
    let servers_first = !rows.is_empty() && {
        let nodes = ask(world, || world.cluster.nodes())?;
        refuse_moved(&versions, &nodes)?;
        is_newer_than_servers(world, &versions, &nodes)
    };
    order(world, &mut rows, servers_first, wish.canary.as_ref())?;
    let now = world.time.wall();
    Ok(Rollout {
        schema: SCHEMA,
        id: journal::free_id(world.shelf, shelf::Drawer::Rollout, now, ("rollout", "all"))?,
        rows,
        canary: wish.canary.is_some(),
        window: wish.window,
        options: wish.options.clone(),
        who: wish.who.clone(),
        started: now,
        ended: None,
        outcome: None,
        cause: None,
        aborted: false,
    })
}

/// The newest good template of a node's profile, on its host.
fn target(member: &Member, good: &[Template]) -> Result<Template> {
    let profile = &member.profile;
    let newest = good.first().map(|t| t.image.clone()).with_context(|| {
        format!(
            "no good template of profile {profile} is there; run `builder push --profile {profile}`"
        )
    })?;
    let host = &member.host;
    let here = good.iter().find(|t| t.image == newest && t.place.host == *host);
    here.cloned().with_context(|| {
        format!(
            "{newest} is no template on {host}, where {} is; run `builder push --profile {profile} \
                 --to {host}`",
            member.name
        )
    })
}

/// Before the first node is touched, as the rollout would stop at that one.
fn refuse_moved(wanted: &[(Member, Option<String>)], nodes: &[NodeState]) -> Result<()> {
    let node = |member: &Member| nodes.iter().find(|node| node.name == member.name);
    let found = wanted.iter().find_map(|(member, _)| moved(member, node(member)?));
    found.map_or(Ok(()), |why| bail!(why))
}

/// Whether agents would get a K3s that a server does not have yet.
fn is_newer_than_servers(
    world: &World<'_>,
    wanted: &[(Member, Option<String>)],
    nodes: &[NodeState],
) -> bool {
    let agents = wanted.iter().filter(|(member, _)| member.role == Role::Agent);
    let Some(newest) = agents.filter_map(|(_, k3s)| minor(k3s.as_deref()?)).max() else {
        return false;
    };
    let servers = world.members.iter().filter(|member| member.role == Role::Server);
    let mut minors = servers
        .filter_map(|member| nodes.iter().find(|node| node.name == member.name))
        .filter_map(|node| minor(&node.k3s));
    minors.any(|minor| minor < newest)
}

/// Agents first: an image that is bad shows itself where no data and no majority is at stake. Only where
/// agents would become newer than the servers, which Kubernetes forbids, the servers come first. Within
/// a role in the order of the file; the canary before all of its role.
fn order(
    world: &World<'_>,
    rows: &mut [Row],
    servers_first: bool,
    canary: Option<&Hostname>,
) -> Result<()> {
    if let Some(name) = canary
        && !rows.iter().any(|row| row.node == *name)
    {
        bail!("the canary {name} is no node that gets a new image");
    }
    let role = |name: &Hostname| world.members.iter().find(|m| m.name == *name).map(|m| m.role);
    let canarys = canary.and_then(role);
    ensure!(
        !(servers_first && canarys == Some(Role::Agent)),
        "the canary must be a server: the new K3s is newer than the servers', which go first"
    );
    rows.sort_by_key(|row| {
        let is_server = role(&row.node) == Some(Role::Server);
        (canary != Some(&row.node), is_server != servers_first)
    });
    Ok(())
}
