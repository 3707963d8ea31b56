//! The guest agent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use crate::access::Caller;
use crate::model::World;
use crate::reply::{Fail, Reply};
use crate::table::Args;

pub(super) fn ping(world: &mut World, _: &Caller, args: &Args) -> Reply {
    world.agent(args.text("node"), args.vmid())?;
    Ok(json!({"result": {}}))
}

pub(super) fn interfaces(world: &mut World, _: &Caller, args: &Args) -> Reply {
    world.agent(args.text("node"), args.vmid())?;
    Ok(json!({"result": world.interfaces(args.vmid())?}))
}

pub(super) fn file_write(world: &mut World, _: &Caller, args: &Args) -> Reply {
    world.agent(args.text("node"), args.vmid())?;
    let content = args.text("content");
    let bytes = match args.get("encode") {
        Some("0") => STANDARD
            .decode(content)
            .map_err(|error| Fail::new(500, format!("Agent error: {error}")))?,
        _ => content.as_bytes().to_vec(),
    };
    world.write_file(args.vmid(), args.text("file"), &bytes)?;
    Ok(Json::Null)
}
