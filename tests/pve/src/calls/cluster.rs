//! Calls about the cluster and its nodes.

use serde_json::{Map, Value as Json, json};

use crate::access::Caller;
use crate::model::World;
use crate::reply::{Fail, Reply};
use crate::table::Args;

pub(super) fn version(world: &mut World, _: &Caller, _: &Args) -> Reply {
    let version = &world.setup.version;
    let release: Vec<&str> = version.split('.').take(2).collect();
    Ok(json!({"version": version, "release": release.join("."), "repoid": "0d0ub1e0"}))
}

pub(super) fn permissions(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    if args.get("userid").is_some_and(|who| who != caller.token && who != caller.user) {
        world.need(caller, "/access", &["Sys.Audit"])?;
    }
    let all = world.access.permissions(caller, &world.pools);
    let shown =
        all.into_iter().filter(|(path, _)| args.get("path").is_none_or(|want| want == path));
    let entry = |(path, names): (String, Vec<String>)| {
        let names: Map<String, Json> = names.into_iter().map(|name| (name, json!(1))).collect();
        (path, Json::Object(names))
    };
    Ok(Json::Object(shown.map(entry).collect()))
}

pub(super) fn next_id(world: &mut World, _: &Caller, args: &Args) -> Reply {
    if let Some(vmid) = args.get("vmid") {
        let taken = world.vms.contains_key(&args.vmid());
        return if taken {
            Err(Fail::parameter("vmid", format!("VM {vmid} already exists")))
        } else {
            Ok(json!(vmid))
        };
    }
    let (low, high) = world.setup.next_id;
    match (low..=high).find(|id| !world.vms.contains_key(id)) {
        Some(id) => Ok(json!(id.to_string())),
        None => {
            Err(Fail::new(500, format!("unable to get any free VMID in range [{low}, {high}]")))
        }
    }
}

pub(super) fn resources(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let wants = |kind: &str| args.get("type").is_none_or(|want| want == kind);
    let mut found = Vec::new();
    if wants("vm") {
        found.extend(vms(world, caller));
    }
    if wants("node") {
        found.extend(node_list(world));
    }
    if wants("storage") {
        found.extend(storages(world, caller));
    }
    Ok(Json::Array(found))
}

/// Only what `VM.Audit` shows; tags and locks of now, names and states of the last look.
fn vms(world: &World, caller: &Caller) -> Vec<Json> {
    let visible = world.vms.iter().filter(|(id, _)| {
        world.access.has(caller, &format!("/vms/{id}"), "VM.Audit", &world.pools)
    });
    let row = |(id, vm): (&u32, &crate::model::Vm)| {
        let mut row = json!({"id": format!("qemu/{id}"), "vmid": id, "type": "qemu", "node": vm.node, "status": "unknown"});
        for key in ["tags", "lock"] {
            if let Some(value) = vm.get(key) {
                row[key] = json!(value);
            }
        }
        if let Some((pool, _)) = world.pools.iter().find(|(_, members)| members.contains(id)) {
            row["pool"] = json!(pool);
        }
        if let Some(seen) = world.statistics.get(id) {
            row["status"] = json!(if seen.running { "running" } else { "stopped" });
            row["name"] = json!(seen.name);
            row["template"] = json!(u8::from(seen.template));
        }
        row
    };
    visible.map(row).collect()
}

fn node_list(world: &World) -> Vec<Json> {
    let row = |(name, node): (&String, &crate::setup::NodeSetup)| {
        let fingerprint = node.online.then(|| world.certificates[0].0.clone());
        json!({
            "id": format!("node/{name}"), "node": name, "type": "node",
            "status": if node.online { "online" } else { "offline" }, "ssl_fingerprint": fingerprint,
        })
    };
    world.nodes.iter().map(row).collect()
}

fn storages(world: &World, caller: &Caller) -> Vec<Json> {
    let mut found = Vec::new();
    for (name, storage) in &world.storages {
        let path = format!("/storage/{name}");
        if world.need(caller, &path, &["Datastore.Audit", "Datastore.AllocateSpace"]).is_err() {
            continue;
        }
        for node in world.nodes.keys().filter(|node| storage.on(node)) {
            let content: Vec<&str> = storage.content.iter().map(String::as_str).collect();
            found.push(json!({
                "id": format!("storage/{node}/{name}"), "storage": name, "node": node, "type": "storage",
                "plugintype": storage.kind.name(), "shared": u8::from(storage.shared), "content": content.join(","),
                "status": "available", "maxdisk": storage.total, "disk": storage.used(),
            }));
        }
    }
    found
}

pub(super) fn pools(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let visible = world.pools.iter().filter(|(name, _)| {
        args.get("poolid").is_none_or(|want| want == *name)
            && world.access.has(caller, &format!("/pool/{name}"), "Pool.Audit", &world.pools)
    });
    let row = |(name, members): (&String, &std::collections::BTreeSet<u32>)| {
        let members: Vec<Json> = members
            .iter()
            .map(|id| json!({"vmid": id, "type": "qemu", "id": format!("qemu/{id}")}))
            .collect();
        match args.get("poolid") {
            Some(_) => json!({"poolid": name, "members": members}),
            None => json!({"poolid": name}),
        }
    };
    Ok(Json::Array(visible.map(row).collect()))
}

pub(super) fn nodes(world: &mut World, _: &Caller, _: &Args) -> Reply {
    Ok(Json::Array(node_list(world)))
}

pub(super) fn node_status(world: &mut World, _: &Caller, args: &Args) -> Reply {
    let root = world.nodes.get(args.text("node")).map_or(0, |node| node.root_bytes);
    let taken: u64 = world.uploads.values().map(|upload| upload.size).sum();
    let avail = root.saturating_sub(taken);
    Ok(json!({
        "pveversion": format!("pve-manager/{}/0d0ub1e0", world.setup.version), "uptime": world.clock.now() / 1000, "cpu": 0.01,
        "loadavg": ["0.00", "0.00", "0.00"], "cpuinfo": {"cpus": 8, "cores": 8, "sockets": 1, "model": "double"},
        "memory": {"total": 64_u64 << 30, "used": 4_u64 << 30, "free": 60_u64 << 30, "available": 60_u64 << 30},
        "rootfs": {"total": root, "used": taken, "avail": avail, "free": avail},
    }))
}

pub(super) fn certificates(world: &mut World, _: &Caller, _: &Args) -> Reply {
    let row = |(name, (fingerprint, pem)): (&str, &(String, String))| json!({"filename": name, "fingerprint": fingerprint, "pem": pem, "issuer": "/CN=double", "subject": "/CN=double"});
    let files = ["pve-ssl.pem", "pve-root-ca.pem"];
    Ok(Json::Array(files.into_iter().zip(&world.certificates).map(row).collect()))
}
