//! Deleting a VM.

use serde_json::json;

use crate::access::Caller;
use crate::model::{Work, World};
use crate::reply::{Fail, Reply};
use crate::table::Args;

pub(super) fn destroy(world: &mut World, caller: &Caller, args: &Args) -> Reply {
    super::config::no_skiplock(args)?;
    let (node, vmid) = (args.text("node").to_owned(), args.vmid());
    let vm = world.vm(&node, vmid)?;
    if vm.get("protection") == Some("1") {
        return Err(Fail::new(500, format!("can't remove VM {vmid} - protection mode enabled")));
    }
    if vm.run.is_some() {
        return Err(Fail::new(500, format!("VM {vmid} is running - destroy failed")));
    }
    let work = Work::Destroy {
        vmid,
        purge: args.flag("purge"),
        scan: args.flag("destroy-unreferenced-disks"),
    };
    Ok(json!(world.fork(&node, "qmdestroy", &vmid.to_string(), caller, work)))
}
