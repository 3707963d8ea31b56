//! What a double starts with: nodes, storages, pools, tokens, and how long things take. The program
//! reads the same as TOML.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::access::Acl;
use crate::clock::Pace;
use crate::model::{StorageKind, TagAccess};

/// The state at the start. [`Setup::default`] is one node with the storages `local` (images) and
/// `disks`, the pool `k3s` and a token that has exactly the privileges the project asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// `9.2.4`; on 8.x the guest agent needs `VM.Monitor`.
    pub version: String,
    /// By name.
    pub nodes: BTreeMap<String, NodeSetup>,
    /// By name.
    pub storages: BTreeMap<String, StorageSetup>,
    /// Names of empty pools.
    pub pools: Vec<String>,
    /// Tokens; the first is the one that [`crate::Double::token`] gives.
    pub tokens: Vec<TokenSetup>,
    /// Rights of users and tokens.
    pub acl: Vec<Acl>,
    /// The range `nextid` looks in, both ends included.
    pub next_id: (u32, u32),
    /// Who may set which tags.
    pub tag_access: TagAccess,
    /// Tags that need `Sys.Modify` on `/`.
    pub registered_tags: Vec<String>,
    /// What the server shows of itself.
    pub certificate: CertificateSetup,
    /// How time passes.
    pub pace: Pace,
    /// Virtual milliseconds; see [`Delays`].
    pub delays: Delays,
    /// Real milliseconds before a 401 is sent; 3000 on a real node.
    pub auth_delay_ms: u64,
    /// Real milliseconds after which an idle or stalled connection is closed; 5000 on a real node.
    pub idle_ms: u64,
    /// Whether the first look at a task finds `no such task`, as happens under load.
    pub first_poll_missing: bool,
    /// The port to listen on; 0 for any.
    pub port: u16,
}

/// A node of the cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSetup {
    /// Whether its daemons answer.
    pub online: bool,
    /// Free bytes in `/var/tmp`.
    pub root_bytes: u64,
}

/// A storage.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSetup {
    /// What it is made of.
    pub kind: StorageKind,
    /// Content types.
    pub content: Vec<String>,
    /// Bytes in all.
    #[serde(default = "hundred_gib")]
    pub total: u64,
    /// Only on these nodes; none: on all.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Whether all nodes see the same volumes.
    #[serde(default)]
    pub shared: bool,
    /// Whether it is switched on.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// The server's certificate, under a CA that is made new each time.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateSetup {
    /// Host names and addresses it is made for.
    pub names: Vec<String>,
    /// First day: year, month, day.
    pub from: (i32, u8, u8),
    /// The day on which it ends.
    pub until: (i32, u8, u8),
}

/// An API token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSetup {
    /// `user@realm!name`.
    pub id: String,
    /// The secret after `=`.
    pub secret: String,
    /// Whether it has rights of its own (cut by those of the user).
    #[serde(default = "yes")]
    pub separated: bool,
    /// Whether it ran out.
    #[serde(default)]
    pub expired: bool,
}

/// Virtual milliseconds that things take.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// Tasks by type (`qmclone`); what is not named takes `task`.
    pub tasks: BTreeMap<String, u64>,
    /// Any other task.
    pub task: u64,
    /// From start to an agent that answers.
    pub agent: u64,
    /// From the agent's first answer to an address.
    pub address: u64,
    /// Between two looks of the statistics daemon.
    pub statistics: u64,
    /// How long a lock is waited for.
    pub lock: u64,
}

fn yes() -> bool {
    true
}

fn hundred_gib() -> u64 {
    100 << 30
}

impl Default for NodeSetup {
    fn default() -> Self {
        Self { online: true, root_bytes: 50 << 30 }
    }
}

impl Default for CertificateSetup {
    fn default() -> Self {
        let names = ["127.0.0.1", "localhost", "pve1"].map(str::to_owned).into();
        Self { names, from: (2020, 1, 1), until: (2120, 1, 1) }
    }
}

impl Default for Delays {
    fn default() -> Self {
        let tasks = [
            ("imgcopy", 500),
            ("qmcreate", 3000),
            ("qmclone", 2000),
            ("qmtemplate", 800),
            ("qmconfig", 300),
            ("resize", 400),
            ("qmstart", 2000),
            ("qmshutdown", 3000),
            ("qmdestroy", 1500),
        ];
        let tasks = tasks.into_iter().map(|(name, ms)| (name.to_owned(), ms)).collect();
        Self { tasks, task: 1000, agent: 15_000, address: 2000, statistics: 10_000, lock: 10_000 }
    }
}

/// The user of the default token.
pub const USER: &str = "builder@pve";
/// The default token's name.
pub const TOKEN: &str = "builder@pve!ci";
/// Its secret, which is of the form of a real one and opens nothing.
pub const SECRET: &str = "00000000-0000-4000-8000-000000000001";

/// The privileges that the project asks for, on the pool of its VMs. The preflight has a list of its own:
/// a double that took the client's would grant whatever the client forgets.
pub const POOL_PRIVILEGES: [&str; 14] = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.FileWrite",
    "VM.PowerMgmt",
];

impl Default for Setup {
    fn default() -> Self {
        let storage = |content: &[&str]| StorageSetup {
            kind: StorageKind::Dir,
            content: content.iter().map(|&kind| kind.to_owned()).collect(),
            total: hundred_gib(),
            nodes: Vec::new(),
            shared: false,
            enabled: true,
        };
        let images =
            ["Datastore.AllocateTemplate", "Datastore.AllocateSpace", "Datastore.Allocate"];
        let rights: [(&str, &[&str]); 4] = [
            ("/pool/k3s", &POOL_PRIVILEGES),
            ("/storage/local", &images),
            ("/storage/disks", &["Datastore.AllocateSpace"]),
            ("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"]),
        ];
        let both = |(path, privileges): (&str, &[&str])| {
            [USER, TOKEN].map(|who| Acl::new(path, who, privileges))
        };
        Self {
            version: "9.2.4".to_owned(),
            nodes: BTreeMap::from([("pve1".to_owned(), NodeSetup::default())]),
            storages: BTreeMap::from([
                ("local".to_owned(), storage(&["iso", "vztmpl", "backup", "import", "snippets"])),
                ("disks".to_owned(), storage(&["images"])),
            ]),
            pools: vec!["k3s".to_owned()],
            tokens: vec![TokenSetup {
                id: TOKEN.to_owned(),
                secret: SECRET.to_owned(),
                separated: true,
                expired: false,
            }],
            acl: rights.into_iter().flat_map(both).collect(),
            next_id: (100, 999_999_999),
            tag_access: TagAccess::Free,
            registered_tags: Vec::new(),
            certificate: CertificateSetup::default(),
            pace: Pace::Step(100),
            delays: Delays::default(),
            auth_delay_ms: 0,
            idle_ms: 5000,
            first_poll_missing: false,
            port: 0,
        }
    }
}

impl Setup {
    /// The same with these privileges on `/` for the default token and its user.
    #[must_use]
    pub fn with_rights(mut self, path: &str, privileges: &[&str]) -> Self {
        self.acl.extend([USER, TOKEN].map(|who| Acl::new(path, who, privileges)));
        self
    }
}
