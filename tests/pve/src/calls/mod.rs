//! The calls of the table, done on the model.

#![allow(
    clippy::unnecessary_wraps,
    reason = "all calls have one shape, also those that cannot fail"
)]

mod agent;
mod cluster;
mod config;
mod create;
mod destroy;
mod drives;
mod power;
mod storage;
mod tasks;
mod vm;

use crate::access::Caller;
use crate::model::World;
use crate::reply::{Fail, Reply};
use crate::table::Args;

type Handler = fn(&mut World, &Caller, &Args) -> Reply;

/// Which function does which call.
const HANDLERS: [(&str, Handler); 38] = [
    ("GET /version", cluster::version),
    ("GET /access/permissions", cluster::permissions),
    ("GET /cluster/nextid", cluster::next_id),
    ("GET /cluster/resources", cluster::resources),
    ("GET /pools", cluster::pools),
    ("GET /nodes", cluster::nodes),
    ("GET /nodes/{node}/status", cluster::node_status),
    ("GET /nodes/{node}/certificates/info", cluster::certificates),
    ("GET /nodes/{node}/storage", storage::list),
    ("GET /nodes/{node}/storage/{storage}/status", storage::status),
    ("GET /nodes/{node}/storage/{storage}/content", storage::content),
    ("POST /nodes/{node}/storage/{storage}/upload", storage::upload),
    ("DELETE /nodes/{node}/storage/{storage}/content/{volume}", storage::delete),
    ("GET /nodes/{node}/qemu", vm::list),
    ("POST /nodes/{node}/qemu", create::create),
    ("GET /nodes/{node}/qemu/{vmid}/config", config::read),
    ("PUT /nodes/{node}/qemu/{vmid}/config", config::change_now),
    ("POST /nodes/{node}/qemu/{vmid}/config", config::change),
    ("GET /nodes/{node}/qemu/{vmid}/pending", config::pending),
    ("GET /nodes/{node}/qemu/{vmid}/cloudinit", config::cloudinit),
    ("PUT /nodes/{node}/qemu/{vmid}/cloudinit", config::regenerate),
    ("GET /nodes/{node}/qemu/{vmid}/cloudinit/dump", config::dump),
    ("GET /nodes/{node}/qemu/{vmid}/feature", vm::feature),
    ("POST /nodes/{node}/qemu/{vmid}/template", vm::template),
    ("POST /nodes/{node}/qemu/{vmid}/clone", create::clone),
    ("PUT /nodes/{node}/qemu/{vmid}/resize", vm::resize),
    ("DELETE /nodes/{node}/qemu/{vmid}", destroy::destroy),
    ("GET /nodes/{node}/qemu/{vmid}/status/current", vm::current),
    ("POST /nodes/{node}/qemu/{vmid}/status/start", power::start),
    ("POST /nodes/{node}/qemu/{vmid}/status/shutdown", power::shutdown),
    ("POST /nodes/{node}/qemu/{vmid}/status/stop", power::stop),
    ("POST /nodes/{node}/qemu/{vmid}/agent/ping", agent::ping),
    ("GET /nodes/{node}/qemu/{vmid}/agent/network-get-interfaces", agent::interfaces),
    ("POST /nodes/{node}/qemu/{vmid}/agent/file-write", agent::file_write),
    ("GET /nodes/{node}/tasks", tasks::list),
    ("GET /nodes/{node}/tasks/{upid}/status", tasks::status),
    ("GET /nodes/{node}/tasks/{upid}/log", tasks::log),
    ("DELETE /nodes/{node}/tasks/{upid}", tasks::stop),
];

fn no_call(_: &mut World, _: &Caller, _: &Args) -> Reply {
    Err(Fail::new(501, "not in the table"))
}

/// Does a checked call.
pub(crate) fn run(on: &str, world: &mut World, caller: &Caller, args: &Args) -> Reply {
    let handler = HANDLERS
        .iter()
        .find(|(name, _)| *name == on)
        .map_or(no_call as Handler, |(_, handler)| *handler);
    handler(world, caller, args)
}

impl World {
    /// Whether the caller may, or the 403 that names what is missing.
    pub(crate) fn need(
        &self,
        caller: &Caller,
        path: &str,
        privileges: &[&str],
    ) -> Result<(), Fail> {
        if privileges.iter().any(|name| self.access.has(caller, path, name, &self.pools)) {
            return Ok(());
        }
        Err(Fail::denied(path, &privileges.join("|")))
    }

    /// The same where the VM is to be in a pool.
    fn need_vm(
        &self,
        caller: &Caller,
        (vmid, pool): (u32, Option<&str>),
        privileges: &[&str],
    ) -> Result<(), Fail> {
        let in_pool = pool.map(|pool| format!("/pool/{pool}"));
        if in_pool.is_some_and(|path| {
            privileges.iter().any(|name| self.access.has(caller, &path, name, &self.pools))
        }) {
            return Ok(());
        }
        self.need(caller, &format!("/vms/{vmid}"), privileges)
    }
}

#[cfg(test)]
mod tests {
    use crate::table::TABLE;

    #[test]
    fn each_call_of_the_table_has_its_function_and_each_function_its_call() {
        let calls: Vec<&str> = TABLE.calls.iter().map(|call| call.on.as_str()).collect();
        let done: Vec<&str> = super::HANDLERS.iter().map(|(on, _)| *on).collect();
        assert_eq!(calls, done);
    }
}
