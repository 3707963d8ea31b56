//! wip
use crate::config::Project;
use crate::status::html::Event;
use anyhow::Result;
pub fn events(_: &Project) -> Result<Vec<Event>> {
    Ok(vec![])
}
