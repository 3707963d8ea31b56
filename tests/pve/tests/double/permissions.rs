//! Privileges, one by one: each step with all of them, and with each one taken away.

use std::collections::BTreeMap;
use std::time::Duration;

use pve_double::{Acl, Direct, Double, Run, SECRET, Storage, Vm, raw_params};
use serde_json::{Value, json};

use super::client::{call_as, done, template};
use super::facts::{Score, double, folder};

const TOKEN: &str = "builder@pve!ci";
const KEY: &str =
    "ssh-ed25519%20AAAAC3NzaC1lZDI1NTE5AAAAIPqGMX%2FHfsxurGp7NODdzAO3CTBIBeRPEEDWrEcEXA5q%20a";

/// Steps whose name is not `PUT config …` or `create …`: method, path, parameters.
const STEPS: [(&str, &str, &str, &[(&str, &str)]); 25] = [
    (
        "upload content=import",
        "POST",
        "/nodes/pve1/storage/local/upload",
        &[("content", "import"), ("filename", "y.qcow2")],
    ),
    ("GET storage content lists the volume", "GET", "/nodes/pve1/storage/local/content", &[]),
    ("GET /nodes/{n}/storage", "GET", "/nodes/pve1/storage", &[]),
    ("GET /cluster/resources?type=vm", "GET", "/cluster/resources", &[("type", "vm")]),
    ("GET config", "GET", "/nodes/pve1/qemu/300/config", &[]),
    ("GET status/current", "GET", "/nodes/pve1/qemu/300/status/current", &[]),
    ("GET /cluster/nextid", "GET", "/cluster/nextid", &[]),
    ("POST template", "POST", "/nodes/pve1/qemu/320/template", &[]),
    ("clone linked", "POST", "/nodes/pve1/qemu/9000/clone", &[("newid", "330")]),
    (
        "clone full to storage",
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        &[("newid", "330"), ("full", "1"), ("storage", "disks")],
    ),
    (
        "clone into pool",
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        &[("newid", "330"), ("pool", "k3s")],
    ),
    ("PUT config sshkeys=…", "PUT", "/nodes/pve1/qemu/300/config", &[("sshkeys", KEY)]),
    (
        "PUT config eject iso (ide3=none,media=cdrom)",
        "PUT",
        "/nodes/pve1/qemu/300/config",
        &[("ide3", "none,media=cdrom")],
    ),
    (
        "PUT config re-create cloudinit drive (ide3=disks:cloudinit)",
        "PUT",
        "/nodes/pve1/qemu/300/config",
        &[("ide3", "disks:cloudinit")],
    ),
    (
        "PUT config scsi0 option change (discard=on)",
        "PUT",
        "/nodes/pve1/qemu/300/config",
        &[("scsi0", "disks:300/vm-300-disk-0.qcow2,discard=on")],
    ),
    ("PUT cloudinit (regenerate)", "PUT", "/nodes/pve1/qemu/300/cloudinit", &[]),
    ("GET cloudinit/dump user", "GET", "/nodes/pve1/qemu/300/cloudinit/dump", &[("type", "user")]),
    ("resize", "PUT", "/nodes/pve1/qemu/300/resize", &[("disk", "scsi0"), ("size", "+1M")]),
    ("status/start", "POST", "/nodes/pve1/qemu/300/status/start", &[]),
    ("agent ping", "POST", "/nodes/pve1/qemu/300/agent/ping", &[]),
    (
        "agent network-get-interfaces",
        "GET",
        "/nodes/pve1/qemu/300/agent/network-get-interfaces",
        &[],
    ),
    (
        "agent file-write",
        "POST",
        "/nodes/pve1/qemu/300/agent/file-write",
        &[("file", "/run/x"), ("content", "y")],
    ),
    ("status/shutdown", "POST", "/nodes/pve1/qemu/300/status/shutdown", &[]),
    ("status/stop", "POST", "/nodes/pve1/qemu/300/status/stop", &[]),
    ("DELETE vm purge=1", "DELETE", "/nodes/pve1/qemu/340", &[("purge", "1")]),
];

/// What `create` was tried with besides the usual.
const CREATE: [(&str, &[(&str, &str)]); 10] = [
    ("create: import + cloudinit drive + net + serial + agent", &[]),
    ("create: the same + tags", &[("tags", "a")]),
    ("create: the same + efidisk0", &[("efidisk0", "disks:1,efitype=4m"), ("bios", "ovmf")]),
    (
        "create: the same + ciuser/ipconfig0/sshkeys",
        &[("ciuser", "u"), ("ipconfig0", "ip=dhcp"), ("sshkeys", KEY)],
    ),
    ("create: the same + pool", &[("pool", "k3s")]),
    ("create: the same + smbios1", &[("smbios1", "serial=YQ==,base64=1")]),
    ("create: the same + start=1", &[("start", "1")]),
    ("create: the same + iso on ide3", &[("ide3", "local:iso/x.iso,media=cdrom")]),
    (
        "create: the same + onboot,description,protection",
        &[("onboot", "1"), ("description", "d"), ("protection", "0")],
    ),
    ("create: the same + ha-managed", &[("ha-managed", "1")]),
];

type Call = (String, String, Vec<(String, String)>);

/// The call of a step, if it is one of the project's.
fn call_of(step: &str) -> Option<Call> {
    let owned = |params: &[(&str, &str)]| {
        params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    if let Some((_, method, path, params)) = STEPS.iter().find(|(name, ..)| *name == step) {
        return Some(((*method).to_owned(), (*path).to_owned(), owned(params)));
    }
    if let Some((_, more)) = CREATE.iter().find(|(name, _)| *name == step) {
        let usual = [
            ("vmid", "310"),
            ("name", "n"),
            ("memory", "512"),
            ("cores", "1"),
            ("agent", "1"),
            ("serial0", "socket"),
            ("scsihw", "virtio-scsi-single"),
            ("ostype", "l26"),
            ("boot", "order=scsi0"),
            ("net0", "virtio,bridge=vmbr0"),
            ("ide2", "disks:cloudinit"),
            ("scsi0", "disks:0,import-from=local:import/node.qcow2"),
        ];
        let all: Vec<(&str, &str)> = usual.iter().chain(*more).copied().collect();
        return Some(("POST".to_owned(), "/nodes/pve1/qemu".to_owned(), owned(&all)));
    }
    if step == "DELETE import volume" {
        return Some((
            "DELETE".to_owned(),
            "/nodes/pve1/storage/local/content/local:import/node.qcow2".to_owned(),
            Vec::new(),
        ));
    }
    let (key, value) = step.strip_prefix("PUT config ")?.split_once('=')?;
    // Options the project will never set are not in its table.
    let known = !key.starts_with("usb");
    known.then(|| {
        ("PUT".to_owned(), "/nodes/pve1/qemu/300/config".to_owned(), owned(&[(key, value)]))
    })
}

struct Fixture {
    double: Double,
    vms: BTreeMap<u32, Vm>,
    storages: BTreeMap<String, Storage>,
}

/// A template, a running VM, two that stand, an image and an ISO.
fn fixture() -> Fixture {
    let double = double();
    template(&double);
    for id in ["300", "320", "340"] {
        done(&double, "POST", "/nodes/pve1/qemu/9000/clone", &[("newid", id), ("full", "1")]);
    }
    let (vms, storages) = double.world(|world| {
        let iso = world.storages["local"].volumes["import/node.qcow2"].clone();
        let iso = pve_double::Volume { content: "iso".to_owned(), ..iso };
        world.storages.get_mut("local").unwrap().volumes.insert("iso/x.iso".to_owned(), iso);
        let vm = world.vms.get_mut(&300).unwrap();
        vm.config.insert("ide3".to_owned(), "local:iso/x.iso,media=cdrom".to_owned());
        vm.config.insert("ciuser".to_owned(), "u".to_owned());
        world.vms.get_mut(&320).unwrap().config.remove("ide2");
        (world.vms.clone(), world.storages.clone())
    });
    Fixture { double, vms, storages }
}

impl Fixture {
    /// How a call ends for a token with these privileges on `/`.
    fn outcome(&self, (method, path, params): &Call, privileges: &[&str], all: &[&str]) -> String {
        self.double.world(|world| {
            world.vms.clone_from(&self.vms);
            world.storages.clone_from(&self.storages);
            world.tasks.clear();
            if path.contains("/agent/") {
                let run = Run { agent_at: Some(0), address_at: Some(0), ..Run::default() };
                world.vms.get_mut(&300).unwrap().run = Some(run);
            }
            world.access.acl.retain(|acl| !TOKEN.starts_with(&acl.who));
            world.access.acl.push(Acl::new("/", "builder@pve", all));
            world.access.acl.push(Acl::new("/", TOKEN, privileges));
        });
        let params: Value = params.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let answer =
            self.double.ask(&format!("{TOKEN}={SECRET}"), method, path, raw_params(&params));
        self.double.advance(Duration::from_mins(1));
        let task =
            self.double.world(|world| world.tasks.first().and_then(|task| task.exit.clone()));
        describe(&answer, task.filter(|_| !path.ends_with("/upload")))
    }
}

fn describe(answer: &Direct, task: Option<String>) -> String {
    let errors = &answer.body["errors"];
    match (answer.status, task) {
        (200, Some(exit)) if exit != "OK" => format!("task: {exit}"),
        (200, _) if answer.body["data"].as_array().is_some_and(Vec::is_empty) => {
            "empty list".to_owned()
        }
        (200, _) => "ok".to_owned(),
        (status, _) if errors.is_null() => format!("{status} {}", answer.reason),
        (status, _) => format!("{status} {} {errors}", answer.reason),
    }
}

#[test]
fn each_step_needs_the_privileges_it_was_measured_to_need() {
    let Some(folder) = folder("permissions.json") else { return };
    let all: Value =
        serde_json::from_str(&fs_err::read_to_string(folder.join("permissions.json")).unwrap())
            .unwrap();
    let privileges: Vec<&str> = all["tested_privileges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let (fixture, mut score) = (fixture(), Score::default());
    for (step, row) in all["steps"].as_object().unwrap() {
        let Some(call) = call_of(step) else {
            score.skip();
            continue;
        };
        let with_all = row["with_all"].as_str().unwrap();
        score.count(
            step,
            &plain(with_all),
            &plain(&fixture.outcome(&call, &privileges, &privileges)),
        );
        for gone in &privileges {
            let rest: Vec<&str> = privileges.iter().copied().filter(|name| name != gone).collect();
            let fails = row["fails_without"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|row| row["privilege"] == *gone);
            let Some(want) = fails
                .map_or(row.get("fails_without").map(|_| with_all), |row| row["result"].as_str())
            else {
                continue;
            };
            score.count(
                &format!("{step} without {gone}"),
                &plain(want),
                &plain(&fixture.outcome(&call, &rest, &privileges)),
            );
        }
    }
    score.close("permissions.json");
}

/// Without spaces after colons of JSON, which both sides write in their own way.
fn plain(text: &str) -> String {
    text.replace("\": \"", "\":\"")
}

#[test]
fn the_default_token_can_do_the_whole_flow_and_not_more() {
    let double = Double::start(pve_double::Setup::default()).unwrap();
    template(&double);
    done(&double, "POST", "/nodes/pve1/qemu/9000/clone", &[("newid", "101"), ("pool", "k3s")]);
    let token = double.token();
    for (method, path, params, want) in [
        ("POST", "/nodes/pve1/qemu/9000/clone", &[("newid", "102")][..], "Permission check failed"),
        (
            "POST",
            "/nodes/pve1/qemu/9000/clone",
            &[("newid", "102"), ("pool", "x")],
            "Permission check failed",
        ),
        (
            "PUT",
            "/nodes/pve1/qemu/101/config",
            &[("net0", "virtio,bridge=vmbr1")],
            "Permission check failed (/sdn/zones/localnetwork/vmbr1, SDN.Use)",
        ),
        (
            "PUT",
            "/nodes/pve1/qemu/101/config",
            &[("args", "-x")],
            "only root can set 'args' config",
        ),
        ("GET", "/nodes/pve1/status", &[], "Permission check failed (/nodes/pve1, Sys.Audit)"),
        (
            "PUT",
            "/nodes/pve1/qemu/101/config",
            &[("startup", "order=1")],
            "Permission check failed (/, Sys.Modify)",
        ),
    ] {
        assert_eq!(call_as(&double, &token, method, path, params).reason, want);
    }
    // The VM is in no pool while it is made, so its tags are refused inside the task.
    let params = [("vmid", "103"), ("pool", "k3s"), ("tags", "a")];
    let answer = call_as(&double, &token, "POST", "/nodes/pve1/qemu", &params);
    let text =
        "unable to create VM 103 - 403 Permission check failed (/vms/103, VM.Config.Options)";
    assert_eq!(super::client::task(&double, &answer).0, text);
}
