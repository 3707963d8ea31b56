//! Whether the token may do all that is needed, by path; each gap with the commands that close it.

use super::{Finding, Look, Outcome, told};
use crate::proxmox::Error;

// What the client asks for. `docs/proxmox.md` grants the same, and the double's token has just that, each by
// a list of its own: if they had one source, a privilege that is missing from it would be missing nowhere.
// `builder/tests/proxmox/rights.rs` holds the three together.

/// On the pool of VMs and templates, or on `/vms` without one.
const VMS: &[&str] = &[
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
    "VM.PowerMgmt",
];
/// From 9.0 the agent has privileges of its own; before, `VM.Monitor` covers it.
const AGENT: &[&str] = &["VM.GuestAgent.Audit", "VM.GuestAgent.FileWrite"];
const AGENT_8: &[&str] = &["VM.Monitor"];
/// `Datastore.Allocate` removes old images.
const IMAGES: &[&str] =
    &["Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.AllocateTemplate"];
const DISKS: &[&str] = &["Datastore.AllocateSpace"];
const BRIDGE: &[&str] = &["SDN.Use"];

/// A path, the name of the role for it, and what it must hold.
struct Need {
    path: String,
    role: &'static str,
    privileges: Vec<&'static str>,
}

fn needs(look: &Look<'_>) -> Vec<Need> {
    let proxmox = &look.project.cluster.proxmox;
    let pool = proxmox.pool.as_ref().map_or("/vms".to_owned(), |pool| format!("/pool/{pool}"));
    let agent = if look.version.number < (9, 0) { AGENT_8 } else { AGENT };
    let need = |path: String, role, privileges: &[&'static str]| Need {
        path,
        role,
        privileges: privileges.to_vec(),
    };
    let mut needs = vec![need(pool, "NodeImageVMs", &[VMS, agent].concat())];
    for place in look.hosts.iter().map(|host| proxmox.on(host)) {
        let images = format!("/storage/{}", place.import_storage);
        let disks = format!("/storage/{}", place.storage);
        needs.push(need(images, "NodeImageImages", IMAGES));
        needs.push(need(disks, "NodeImageDisks", DISKS));
    }
    let bridge = format!("/sdn/zones/localnetwork/{}", proxmox.bridge);
    needs.push(need(bridge, "NodeImageBridge", BRIDGE));
    needs.sort_by(|a, b| a.path.cmp(&b.path).then(b.privileges.len().cmp(&a.privileges.len())));
    needs.dedup_by(|a, b| a.path == b.path);
    needs
}

/// Asks for each path what the token has there.
pub fn check(look: &Look<'_>) -> Outcome {
    told(rights(look))
}

fn rights(look: &Look<'_>) -> Result<Outcome, Error> {
    let mut findings = Vec::new();
    let needs = needs(look);
    for need in &needs {
        let has = look.client.privileges(&need.path)?;
        let missing: Vec<_> =
            need.privileges.iter().copied().filter(|p| !has.contains(*p)).collect();
        if !missing.is_empty() {
            findings.push(gap(look, need, &missing));
        }
    }
    let found = format!("{} on {} paths", look.connection.token_id, needs.len());
    Ok((found, findings))
}

fn gap(look: &Look<'_>, need: &Need, missing: &[&str]) -> Finding {
    let (token, user) = (&look.connection.token_id, &look.connection.user);
    let text = format!("{token} lacks {} on {}", missing.join(", "), need.path);
    // A name that is misspelt looks just like rights that were never given.
    let first = match need.path.strip_prefix("/pool/") {
        _ if missing.len() < need.privileges.len() => String::new(),
        Some(pool) => {
            format!(
                "check the name, `pveum pool list`; a new one is made by `pveum pool add {pool}`; then "
            )
        }
        None => "check the name; then ".to_owned(),
    };
    // A token has at most what its user has.
    let fix = format!(
        "{first}as root on a host: `pveum role add {role} --privs \"{privileges}\"` (where it exists: \
         `role modify`), `pveum acl modify {path} --roles {role} --users {user}`, `pveum acl modify \
         {path} --roles {role} --tokens '{token}'`",
        role = need.role,
        privileges = need.privileges.join(" "),
        path = need.path,
    );
    Finding::new(text, fix)
}
