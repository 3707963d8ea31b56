//! Calls about tasks.

use serde_json::{Value as Json, json};

use crate::access::Caller;
use crate::model::{Task, World};
use crate::reply::{Fail, Reply};
use crate::table::Args;

/// A task by its name, if the caller may see it.
///
/// # Errors
/// 400 for a name that is none, 403 for others' tasks, 400 for a task that never was.
fn find<'a>(
    world: &'a mut World,
    caller: &Caller,
    args: &Args,
    privilege: &str,
) -> Result<&'a mut Task, Fail> {
    let (node, upid) = (args.text("node").to_owned(), args.text("upid"));
    let parts: Vec<&str> = upid.split(':').collect();
    let [_, home, _, _, _, _, _, user, ""] = parts[..] else {
        return Err(Fail::parameter("upid", "unable to parse worker upid"));
    };
    if user != caller.token {
        world.need(caller, &format!("/nodes/{node}"), &[privilege])?;
    }
    let missing = world.setup.first_poll_missing;
    let found = world.tasks.iter_mut().find(|task| task.upid == upid && home == node);
    let task = found.ok_or_else(|| Fail::parameter("upid", "no such task"))?;
    task.polls += 1;
    if missing && task.polls == 1 {
        return Err(Fail::parameter("upid", "no such task"));
    }
    Ok(task)
}

fn row(task: &Task) -> Json {
    json!({
        "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.pstart, "starttime": task.started, "type": task.kind,
        "id": task.id, "user": task.owner.user, "tokenid": task.owner.token_name(),
    })
}

pub(super) fn status(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let task = find(world, caller, args, "Sys.Audit")?;
    let mut row = row(task);
    row["status"] = json!(if task.exit.is_some() { "stopped" } else { "running" });
    if let Some(exit) = &task.exit {
        row["exitstatus"] = json!(exit);
    }
    Ok(row)
}

/// Lines from `start`; 50 unless `limit` says another number, 0 means all.
pub(super) fn log(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let task = find(world, caller, args, "Sys.Audit")?;
    let start = usize::try_from(args.number("start").unwrap_or(0)).unwrap_or(0);
    let limit = match args.number("limit") {
        Some(0) => usize::MAX,
        limit => usize::try_from(limit.unwrap_or(50)).unwrap_or(usize::MAX),
    };
    let lines = task.log.iter().enumerate().skip(start).take(limit);
    Ok(Json::Array(lines.map(|(index, text)| json!({"n": index + 1, "t": text})).collect()))
}

pub(super) fn stop(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let upid = find(world, caller, args, "Sys.Modify")?.upid.clone();
    world.interrupt(&upid);
    Ok(Json::Null)
}

pub(super) fn list(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let node = args.text("node");
    let all = world.need(caller, &format!("/nodes/{node}"), &["Sys.Audit"]).is_ok();
    let shown = world.tasks.iter().rev().filter(|task| {
        task.node == node
            && (all || task.owner.token == caller.token)
            && args.get("vmid").is_none_or(|want| want == task.id)
            && args.get("typefilter").is_none_or(|want| want == task.kind)
            && (!args.flag("errors") || task.exit.as_ref().is_some_and(|exit| exit != "OK"))
            && (args.get("source") == Some("all")
                || task.exit.is_some() == (args.get("source") != Some("active")))
    });
    let limit = usize::try_from(args.number("limit").unwrap_or(50)).unwrap_or(50);
    let row = |task: &Task| {
        let mut row = row(task);
        if let (Some(exit), Some(ended)) = (&task.exit, task.ended) {
            row["status"] = json!(exit);
            row["endtime"] = json!(ended);
        }
        row
    };
    Ok(Json::Array(shown.take(limit).map(row).collect()))
}
