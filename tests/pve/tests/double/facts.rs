//! The collected facts about the real API, where they are: `../shared/proxmox` beside the checkout, or the
//! folder named by `PROXMOX_FACTS`. Nothing of them is part of the project.

use std::path::PathBuf;

use pve_double::{
    Acl, Double, NodeSetup, Pace, SECRET, Setup, StorageKind, StorageSetup, TokenSetup,
};
use serde_json::Value;

/// The folder, if it is there; says so if not.
pub fn folder(what: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/proxmox");
    let folder =
        std::env::var_os("PROXMOX_FACTS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    if folder.join(what).is_file() {
        return Some(folder);
    }
    println!("{what}: not compared, no facts in ../shared/proxmox and none named by PROXMOX_FACTS");
    None
}

/// The rows of a file with one JSON on each line.
pub fn lines(what: &str) -> Option<Vec<Value>> {
    let text = fs_err::read_to_string(folder(what)?.join(what)).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Long texts are written as `{"$repeat": [start, letter, times]}`.
pub fn spelt_out(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.contains_key("$repeat") => {
            let parts = &map["$repeat"];
            let times = usize::try_from(parts[2].as_u64().unwrap()).unwrap();
            Value::from(format!(
                "{}{}",
                parts[0].as_str().unwrap(),
                parts[1].as_str().unwrap().repeat(times)
            ))
        }
        Value::Object(map) => {
            map.iter().map(|(key, value)| (key.clone(), spelt_out(value))).collect()
        }
        Value::Array(items) => items.iter().map(spelt_out).collect(),
        other => other.clone(),
    }
}

/// How much agrees, and what does not.
#[derive(Debug, Default)]
pub struct Score {
    agree: usize,
    differ: Vec<String>,
    skipped: usize,
}

impl Score {
    /// One comparison.
    pub fn count(&mut self, what: &str, want: &str, got: &str) {
        if want == got {
            self.agree += 1;
        } else {
            self.differ.push(format!("{what}\n    want {want}\n    got  {got}"));
        }
    }

    /// A row about a call that the project does not make.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Prints the count and each difference; the table must agree with 95 of 100.
    pub fn close(self, name: &str) {
        let all = self.agree + self.differ.len();
        println!("{name}: {} of {all} agree, {} about other calls", self.agree, self.skipped);
        for text in &self.differ {
            println!("  {text}");
        }
        assert!(self.agree * 100 >= all * 95, "{name}: {} of {all} agree", self.agree);
    }
}

/// Places in Perl's sources, names of temporary files and other things that no two runs share.
pub fn same(text: &str) -> String {
    let mut text = text.trim().to_owned();
    if let Some(at) = text.find(" at /usr/share/perl5/") {
        text.truncate(at);
    }
    text = text.trim_end_matches('.').replace("\\n", "");
    let upload = "/var/tmp/pveupload-";
    if let Some((before, after)) = text.clone().split_once(upload) {
        let after = after.trim_start_matches(|letter: char| letter.is_ascii_hexdigit());
        text = format!("{before}{upload}*{after}");
    }
    text
}

/// The privileges that the recordings' main token held on `/`: a fact of those recordings, which stays when
/// the project needs more or less.
pub const WIDE: [&str; 19] = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "SDN.Use",
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
/// What an administrator's token holds.
const ADMIN: [&str; 6] =
    ["Sys.Audit", "Sys.Modify", "VM.Snapshot", "Pool.Allocate", "Pool.Audit", "Sys.Console"];

/// The cluster that the recordings were made on.
pub fn recorded() -> Setup {
    let storage = |kind, content: &[&str]| StorageSetup {
        kind,
        content: content.iter().map(|&name| name.to_owned()).collect(),
        total: 12 << 30,
        nodes: Vec::new(),
        shared: kind == StorageKind::Nfs,
        enabled: true,
    };
    let local = storage(StorageKind::Dir, &["iso", "vztmpl", "backup", "import", "snippets"]);
    let off = StorageSetup { enabled: false, ..storage(StorageKind::Dir, &["images", "import"]) };
    let thin = StorageSetup {
        nodes: vec!["pve2".to_owned()],
        ..storage(StorageKind::LvmThin, &["images"])
    };
    let storages = [
        ("local", local),
        ("disks", storage(StorageKind::Dir, &["images"])),
        ("noimport", storage(StorageKind::Dir, &["iso"])),
        ("off", off),
        ("thin", thin),
        ("nas", storage(StorageKind::Nfs, &["images", "import"])),
    ];
    let token = |id: &str| TokenSetup {
        id: id.to_owned(),
        secret: SECRET.to_owned(),
        separated: true,
        expired: id.ends_with("!old"),
    };
    let ids = [
        "builder@pve!ci",
        "builder@pve!old",
        "builder@pve!none",
        "audit@pve!audit",
        "root@pam!full",
        "s@pve!t1",
    ];
    let admin: Vec<&str> = WIDE.iter().chain(&ADMIN).copied().collect();
    let mut acl = vec![
        Acl::new("/", "builder@pve", &admin),
        Acl::new("/", "builder@pve!ci", &WIDE),
        Acl::new("/", "audit@pve", &["VM.Audit", "Datastore.Audit"]),
        Acl::new("/", "audit@pve!audit", &["VM.Audit", "Datastore.Audit"]),
        Acl::new("/", "root@pam!full", &admin),
    ];
    let scoped: [(&str, &[&str]); 4] = [
        ("/pool/k3s", &pve_double::POOL_PRIVILEGES),
        (
            "/storage/local",
            &["Datastore.AllocateTemplate", "Datastore.AllocateSpace", "Datastore.Allocate"],
        ),
        ("/storage/disks", &["Datastore.AllocateSpace"]),
        ("/sdn/zones/localnetwork/vmbr0", &["SDN.Use"]),
    ];
    acl.extend(
        scoped.iter().flat_map(|(path, rights)| {
            ["s@pve", "s@pve!t1"].map(|who| Acl::new(path, who, rights))
        }),
    );
    let offline = NodeSetup { online: false, ..NodeSetup::default() };
    Setup {
        version: "9.2.11".to_owned(),
        nodes: [("pve1".to_owned(), NodeSetup::default()), ("pve2".to_owned(), offline)].into(),
        storages: storages.into_iter().map(|(name, storage)| (name.to_owned(), storage)).collect(),
        tokens: ids.map(token).into(),
        acl,
        pace: Pace::Step(0),
        idle_ms: 400,
        ..Setup::default()
    }
}

/// The double in that state.
pub fn double() -> Double {
    Double::start(recorded()).unwrap()
}
