//! What the engine asks of the world: VMs ([`Hypervisor`]), Nodes ([`Cluster`]), the user's own checks
//! ([`Gates`]) and time ([`Time`]). The real ones speak to Proxmox and Kubernetes, the tests' one is a
//! model of both in the same process.
//!
//! **The contract of every call.** Reality is the truth, the journal says only what was meant. A
//! builder can end before, in or after any call, and an answer can be lost. So each call that changes
//! something is made so that it can be made again after anything: it looks first, does what is
//! missing, and says `Ok` when all is as wanted, whoever made it so. What cannot be known is
//! [`Failed::Later`], never a guess. Calls that read never change anything.
//!
//! A call may take as long as the task it starts in Proxmox, with a deadline of its own; it does not
//! wait for a guest, a pod or a Node: the engine polls for those, so that several nodes can be under
//! way in one thread. No text of an answer holds a secret: texts go into the journal.

use std::collections::BTreeSet;

use jiff::Timestamp;
use node::config::Role;
use node::image_id::ImageId;
use node::values::Hostname;
use serde::{Deserialize, Serialize};

use super::failed::Failed;
use crate::proxmox::clock::Clock;

/// What a call answers.
pub type Answer<T> = Result<T, Failed>;

/// A node as the cluster's file describes it; addresses, sizes and keys are the adapters' business,
/// which look the name up there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Host name, Node name and VM name.
    pub name: Hostname,
    /// Profile of its image.
    pub profile: Hostname,
    /// What K3s is on it.
    pub role: Role,
    /// Proxmox host.
    pub host: Hostname,
}

/// Where a VM is: host and number. Numbers are the cluster's, hosts say whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Proxmox host.
    pub host: Hostname,
    /// Number of the VM.
    pub vmid: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VM {} on {}", self.vmid, self.host)
    }
}

/// A VM of this cluster that is no template, by its own configuration and not by the cluster's late list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one thing that Proxmox says")]
pub struct Vm {
    /// Where it is.
    pub place: Place,
    /// Its name, which is its node's.
    pub name: String,
    /// The image that it was cloned from, by its tag; `None`: no such tag.
    pub image: Option<ImageId>,
    /// Whether it runs. A paused or suspended one does.
    pub running: bool,
    /// Proxmox' lock, such as `clone` while it is being copied.
    pub lock: Option<String>,
    /// Whether everything stands that [`Hypervisor::configure`] sets.
    pub configured: bool,
    /// Whether it starts with its host.
    pub onboot: bool,
    /// Whether its network card's cable is in.
    pub link: bool,
}

/// What is at a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the number is free.
    Free,
    /// Something that the token does not see: a clone that is still being copied (it is in no pool
    /// until the copy is done), or a VM of somebody else's.
    Hidden,
    /// A VM that is seen.
    Vm(Vm),
}

/// A whole template of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Where it is.
    pub place: Place,
    /// The image in it; its profile is in its name.
    pub image: ImageId,
    /// When it was made, in seconds since 1970: the order of templates.
    pub made: i64,
    /// K3s inside, such as `v1.36.4+k3s1`, or as its tag spells that.
    pub k3s: Option<String>,
    /// Whether its tags say that its image is bad.
    pub quarantined: bool,
}

/// How a VM is turned off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The guest is asked: it ends by itself, or not. Returns when it was asked.
    Clean,
    /// The power is cut, also in the middle of a clean end.
    Hard,
}

/// What a node is told when it gets its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// Join the cluster: a short-lived token for agents, the server token for servers.
    Join,
    /// The sole server: it takes back the newest snapshot that fits, and never starts a new cluster.
    Restore,
    /// The first server of a new cluster, once.
    Bootstrap,
}

/// By which way the secret goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Written by the guest's agent into memory.
    Agent,
    /// A second ISO with our label, for a guest whose agent does not answer. It may be attached to
    /// a VM that is off or on; the call may turn the VM off and on for it.
    Drive,
}

/// Proxmox, as far as nodes are concerned. See the module for what holds of every call.
pub trait Hypervisor {
    /// Templates of this cluster on all hosts, the newest first. Unfinished ones are none.
    fn templates(&self) -> Answer<Vec<Template>>;
    /// VMs of this cluster's nodes (by its tag and pool), on all hosts: a new one and the old one
    /// have the same name. Those that are still being copied are not among them.
    fn vms(&self) -> Answer<Vec<Vm>>;
    /// Those that may be one node's: the same, without looking at what is surely another's. A cluster
    /// has many nodes, and each look is a call.
    fn vms_of(&self, node: &Hostname) -> Answer<Vec<Vm>> {
        Ok(self.vms()?.into_iter().filter(|vm| vm.name == node.as_str()).collect())
    }
    /// What is at a number, asked of the VM's own configuration; where that cannot be seen, of the
    /// list of free numbers.
    fn look(&self, place: &Place) -> Answer<Found>;
    /// A number for a node's next VM that is free now and not in `never`. Nothing is reserved.
    fn number(&self, node: &Member, never: &BTreeSet<u32>) -> Answer<u32>;
    /// Makes a VM called as the node from a template, with `onboot` off, and follows the copy to its
    /// end. [`Failed::Taken`] when another has the number. Ours at that number (same name, same
    /// image tag) counts as made.
    fn clone_vm(&self, from: &Template, to: &Place, node: &Member) -> Answer<()>;
    /// Sets what makes the clone this node: fixed MAC and address, name servers, keys, `ciupgrade=0`,
    /// size, tags. The VM is off.
    fn configure(&self, vm: &Place, node: &Member) -> Answer<()>;
    /// Starts it; one that runs is left alone.
    fn start(&self, vm: &Place) -> Answer<()>;
    /// Turns it off; one that is off is left alone.
    fn stop(&self, vm: &Place, how: Off) -> Answer<()>;
    /// Pulls the network cable or puts it back, and sets whether the VM starts with its host. An old
    /// VM is put aside with both off: it must not come up beside the new one.
    fn set_aside(&self, vm: &Place, aside: bool) -> Answer<()>;
    /// Removes a VM that is off, with its disks; one that is gone counts as removed. ISOs stay.
    fn destroy(&self, vm: &Place) -> Answer<()>;
    /// Gives a running VM its join secret. [`Failed::Later`] until the agent answers. May be called
    /// again for a node that still waits; a minted token is then a new one.
    fn deliver(&self, vm: &Place, node: &Member, entry: Entry, way: Way) -> Answer<()>;
    /// Whether anything that held a join secret of this node is left outside the guest: an ISO,
    /// attached or not.
    fn has_secret(&self, node: &Member) -> Answer<bool>;
    /// Ejects and deletes them, and revokes what was minted for the node.
    fn sweep(&self, node: &Member) -> Answer<()>;
    /// Marks all templates of an image as bad (tag), so that a push on another machine knows.
    fn mark_bad(&self, image: &ImageId) -> Answer<()>;
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: Hostname,
    /// `metadata.uid`: changes when the Node is deleted and registers again.
    pub uid: String,
    /// `status.nodeInfo.bootID`: changes with every boot.
    pub boot_id: String,
    /// Annotation with the whole image-id; `None`: firstboot has not patched it yet.
    pub image: Option<ImageId>,
    /// `status.nodeInfo.kubeletVersion`.
    pub k3s: String,
    /// Whether it is a server, by the label that K3s gives those.
    pub server: bool,
    /// Condition `Ready` is `True`.
    pub ready: bool,
    /// `spec.unschedulable`.
    pub cordoned: bool,
    /// When its lease was renewed last, by the node's own clock.
    pub lease: Option<Timestamp>,
    /// Condition `EtcdIsVoter` of a server; `None` on agents, and where it is not set yet.
    pub voter: Option<bool>,
}

/// How a drain is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Pods with an `emptyDir` go too: its content is lost.
    pub empty_dirs: bool,
    /// Pods that no controller makes again go too, and those that a disruption budget holds when
    /// the deadline is over are deleted.
    pub force: bool,
}

/// What is left of a node whose Node was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    /// The Node is there, if only with a finalizer.
    pub node: bool,
    /// `kube-system/NAME.node-password.k3s` is there.
    pub password: bool,
    /// An etcd member of this name is listed. Always `false` for agents.
    pub member: bool,
}

impl Traces {
    /// Whether a VM of the same name may join.
    pub fn is_clean(self) -> bool {
        self == Self::default()
    }
}

/// A snapshot that a server answered for: on NFS and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Name of the file.
    pub file: String,
    /// Digest of its content, hexadecimal.
    pub sha256: String,
}

/// Kubernetes. The API may be away: that is [`Failed::Later`], never an absent Node. Calls about a
/// server are made through another one where there is one.
pub trait Cluster {
    /// All Nodes.
    fn nodes(&self) -> Answer<Vec<NodeState>>;
    /// One, or `None` when there is none (404).
    fn node(&self, name: &Hostname) -> Answer<Option<NodeState>>;
    /// Makes a Node take no new pods, or take them again. No Node: nothing to do.
    fn cordon(&self, name: &Hostname, on: bool) -> Answer<()>;
    /// One pass: asks for the eviction of every pod that has to go and was not asked yet. Returns
    /// what is still there, each `namespace/name: why`; empty when drained. Pods of a `DaemonSet` and
    /// mirror pods stay and do not count. `last`: the deadline is over, and [`Drain::force`] deletes.
    fn drain(&self, name: &Hostname, how: Drain, last: bool) -> Answer<Vec<String>>;
    /// Deletes the Node, and explicitly its node-password Secret once the Node is gone. Does not
    /// wait.
    fn forget(&self, member: &Member) -> Answer<()>;
    /// What is left of it.
    fn traces(&self, member: &Member) -> Answer<Traces>;
    /// Bound volumes whose data lies on this node's disk alone (local-path), each
    /// `namespace/claim`; empty where a rebuild loses nothing.
    fn local_data(&self, name: &Hostname) -> Answer<Vec<String>>;
    /// Asks the server for a snapshot by annotation. The same `nonce` again is the same request.
    fn request_snapshot(&self, server: &Hostname, nonce: &str) -> Answer<()>;
    /// The answer to `nonce`; `None` until there is one.
    fn snapshot(&self, server: &Hostname, nonce: &str) -> Answer<Option<Snapshot>>;
}

/// How a node fares by the user's own standards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// As it should.
    Good,
    /// Not yet, or not: asked again until the deadline. The text says why.
    Bad(String),
}

/// The user's health gates: commands or Jobs that are asked after a node is Ready and before the next
/// one is touched. They only look; they may be asked often.
pub trait Gates {
    /// Asks them all about a node.
    fn ask(&self, node: &Hostname) -> Answer<Health>;
}

/// Time: how it passes, and what a calendar says. Only differences count for deadlines; the calendar
/// stands in the journal and opens the window.
pub trait Time: Clock {
    /// Now, in UTC.
    fn wall(&self) -> Timestamp;
}

impl Time for crate::proxmox::clock::System {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }
}
