//! Whole conversations: the recorded requests in their order, and what came back.

use std::collections::BTreeMap;
use std::time::Duration;

use pve_double::{Direct, Double, Effect, Fault, SECRET, TagAccess, World, raw_params};
use serde_json::{Value, json};

use super::client::{image, parts, upload_as};
use super::compare::facts;
use super::facts::{Score, double, lines, spelt_out};

/// What somebody else did between two recorded requests: before the request of this number.
fn meanwhile(number: u64, world: &mut World) {
    const LONG: u64 = u64::MAX;
    let mut lock = |vmid: u32, value: Option<&str>| {
        if let Some(vm) = world.vms.get_mut(&vmid) {
            vm.config.remove("lock");
            vm.config.extend(value.map(|value| ("lock".to_owned(), value.to_owned())));
        }
    };
    match number {
        290 => lock(101, Some("clone")),
        308 => lock(101, Some("create")),
        326 => lock(101, Some("backup")),
        344 => {
            lock(101, None);
            lock(9000, Some("clone"));
        }
        345 => {
            lock(9000, None);
            world.held_vm_locks = [(101, LONG)].into();
        }
        355 => world.held_vm_locks = [(9000, LONG)].into(),
        358 => world.held_vm_locks = [(131, LONG)].into(),
        362 => {
            world.held_vm_locks.clear();
            world.held_storage_locks = [("disks".to_owned(), LONG)].into();
        }
        366 => world.held_storage_locks = [("nas".to_owned(), LONG)].into(),
        370 | 403 => world.held_storage_locks.clear(),
        390 | 398 => {
            world.vms.remove(&160);
            world.held_storage_locks = [("disks".to_owned(), LONG)].into();
        }
        // Time enough to begin, and to wait for the lock.
        391 | 399 => {
            world.clock.advance(Duration::from_secs(5));
            world.settle();
        }
        392 => {
            let upid = world.tasks.last().map(|task| task.upid.clone()).unwrap_or_default();
            world.kill_task(&upid);
        }
        77 => agent(world, None),
        79 => agent(world, Some(0)),
        421 => {
            world.faults.add(Fault::new(
                "DELETE /nodes/{node}/qemu/{vmid}",
                1,
                Effect::ConfigStays,
            ));
        }
        452 => world.tag_access = TagAccess::None,
        454 => world.tag_access = TagAccess::List(vec!["k3s".to_owned(), "web".to_owned()]),
        456 => {
            world.tag_access = TagAccess::Free;
            world.registered_tags = ["img".to_owned(), "prod".to_owned()].into();
        }
        458 => {
            world.registered_tags.clear();
            world.tag_access = TagAccess::Existing;
        }
        460 => {
            world.tag_access = TagAccess::Free;
            world.setup.next_id = (5000, 5003);
        }
        464 => world.setup.next_id = (101, 102),
        468 => snapshot(world, true),
        473 => {
            snapshot(world, false);
            world.faults.add(Fault::new(
                "GET /nodes/{node}/qemu",
                1,
                Effect::Timeout { applied: false },
            ));
        }
        474 => world.faults.add(Fault::new("PUT *", 1, Effect::Timeout { applied: true })),
        475 => world.faults.add(Fault::new("POST *", 1, Effect::Dropped { applied: false })),
        476 => world.faults.add(Fault::new("PUT *", 1, Effect::Unreachable)),
        _ => {}
    }
}

fn agent(world: &mut World, at: Option<u64>) {
    if let Some(run) = world.vms.get_mut(&101).and_then(|vm| vm.run.as_mut()) {
        run.agent_at = at;
    }
}

fn snapshot(world: &mut World, there: bool) {
    if let Some(vm) = world.vms.get_mut(&101) {
        vm.snapshots = if there { vec!["s1".to_owned()] } else { Vec::new() };
    }
}

#[test]
fn recorded_conversations_come_out_the_same() {
    let Some(rows) = lines("transcripts.jsonl") else { return };
    let (mut double, mut group, mut score) = (double(), "lifecycle".to_owned(), Score::default());
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut races: BTreeMap<String, [Vec<String>; 2]> = BTreeMap::new();
    let mut not_made: Vec<String> = Vec::new();
    for row in &rows {
        if row["group"] != group.as_str() {
            group = row["group"].as_str().unwrap().to_owned();
            double = self::double();
        }
        let number = row["n"].as_u64().unwrap();
        double.world(|world| meanwhile(number, world));
        let of_other = not_made.iter().any(|upid| row["path"].as_str().unwrap().contains(upid));
        let answer = if of_other { None } else { replay(&double, row, &names) };
        // 410 is about a file system that would not let a file go.
        let Some(answer) = answer.filter(|_| number != 410) else {
            not_made.extend(row["body"]["data"].as_str().map(str::to_owned));
            score.skip();
            continue;
        };
        if let (Some(old), Some(new)) = (row["body"]["data"].as_str(), answer.body["data"].as_str())
        {
            names.insert(old.to_owned(), new.to_owned());
        }
        // Two tasks are watched while they wait for a lock.
        if ![390, 391, 398].contains(&number) {
            double.advance(Duration::from_mins(2));
        }
        let path = row["path"].as_str().unwrap();
        let got = facts(path, answer.status, &answer.reason, &answer.body, &names);
        let status = u16::try_from(row["status"].as_u64().unwrap_or(0)).unwrap();
        let want =
            facts(path, status, row["reason"].as_str().unwrap_or_default(), &row["body"], &names);
        let note = row["note"].as_str().unwrap_or_default();
        if note.contains("parallel clones") {
            let [wants, gots] = races.entry(note.to_owned()).or_default();
            wants.push(want);
            gots.push(got);
            continue;
        }
        score.count(
            &format!("{number} {note} {} {path}", row["method"].as_str().unwrap()),
            &want,
            &got,
        );
    }
    for (note, [mut want, mut got]) in races {
        want.sort();
        got.sort();
        for (want, got) in want.iter().zip(&got) {
            score.count(&note, want, got);
        }
    }
    score.close("transcripts.jsonl");
}

/// Makes the recorded request; none for one about a call that is not in the table.
fn replay(double: &Double, row: &Value, names: &BTreeMap<String, String>) -> Option<Direct> {
    let (method, path) = (row["method"].as_str()?, row["path"].as_str()?);
    let token = format!("{}={SECRET}", token(row["token"].as_str()?));
    let params = spelt_out(&row["params"]);
    if let Some(fields) = params["multipart"].as_array() {
        return Some(send_parts(
            double,
            &token,
            path,
            fields,
            row["note"].as_str().unwrap_or_default(),
        ));
    }
    if params.get("multipart").is_some() {
        // Told in words; `wire` sends these as they were. Here their files must be there.
        let name = if path.contains('?') { "n2.qcow2" } else { "n.qcow2" };
        let body = parts(&[("content", "import")], name, &image());
        let path = path.split('?').next()?;
        let made = row["status"] == 200;
        let answer = made.then(|| upload_as(double, &token, path, &body))?;
        return Some(Direct { status: answer.status, reason: answer.reason, body: answer.json });
    }
    let path = names
        .iter()
        .find(|(old, _)| path.contains(old.as_str()))
        .map_or(path.to_owned(), |(old, new)| path.replace(old, new));
    pve_double::table::TABLE.route(method, path.split('?').next()?)?;
    if params["vmid"] == 130 && method == "POST" {
        double.world(|world| {
            world.vms.remove(&130);
            world
                .storages
                .get_mut("disks")
                .unwrap()
                .volumes
                .retain(|name, _| !name.starts_with("130/"));
        });
    }
    let params = if params.is_null() { json!({}) } else { params };
    Some(double.ask(&token, method, &path, raw_params(&params)))
}

fn token(name: &str) -> &'static str {
    match name {
        "root" => "root@pam!full",
        "audit" => "audit@pve!audit",
        "none" => "builder@pve!none",
        "old" => "builder@pve!old",
        "t1" => "s@pve!t1",
        _ => "builder@pve!ci",
    }
}

fn send_parts(double: &Double, token: &str, path: &str, fields: &[Value], note: &str) -> Direct {
    let text = |field: &Value, at: usize| field[at].as_str().unwrap_or_default().to_owned();
    let (file, fields): (Vec<&Value>, Vec<&Value>) =
        fields.iter().partition(|field| text(field, 1).starts_with('@'));
    let name = text(file[0], 1)[1..].to_owned();
    let bytes = match (note, name.as_str()) {
        ("raw bytes named .qcow2", _) => b"no image at all".repeat(9),
        ("empty file", _) => Vec::new(),
        ("qcow2 with a backing file", _) => {
            let mut bytes = image();
            bytes[15] = 1;
            bytes
        }
        (_, "s.raw" | "n.raw") => vec![0; 1 << 20],
        _ => image(),
    };
    let right = !note.contains("wrong");
    let fields: Vec<(String, String)> = fields
        .iter()
        .map(|field| {
            let sum = (text(field, 0) == "checksum" && right)
                .then(|| super::wire::checksum(&text(field, 1), &bytes));
            (text(field, 0), sum.unwrap_or_else(|| text(field, 1)))
        })
        .collect();
    let fields: Vec<(&str, &str)> =
        fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let answer = upload_as(double, token, path, &parts(&fields, &name, &bytes));
    Direct { status: answer.status, reason: answer.reason, body: answer.json }
}
