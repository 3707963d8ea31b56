//! Start, shutdown, stop.

use serde_json::json;

use crate::access::Caller;
use crate::model::{Work, World};
use crate::reply::Reply;
use crate::table::Args;

fn power(world: &mut World, caller: &Caller, args: &Args, (kind, work): (&str, Work)) -> Reply {
    super::config::no_skiplock(args)?;
    let node = args.text("node").to_owned();
    world.vm(&node, args.vmid())?;
    Ok(json!(world.fork(&node, kind, args.text("vmid"), caller, work)))
}

pub(super) fn start(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    power(world, caller, args, ("qmstart", Work::Start { vmid: args.vmid() }))
}

pub(super) fn shutdown(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let work = Work::Shutdown { vmid: args.vmid(), force: args.flag("forceStop") };
    power(world, caller, args, ("qmshutdown", work))
}

pub(super) fn stop(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    power(world, caller, args, ("qmstop", Work::Stop { vmid: args.vmid() }))
}
