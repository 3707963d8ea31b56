//! `builder check`: all configuration and the lock, every problem at once.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::{Context, inputs};
use crate::config::{Problem, Problems, Project};
use crate::lock::Lock;

/// Reads everything and says what is wrong, or what there is.
///
/// # Errors
/// [`Problems`]; with `--json` they are data on stdout instead, with exit code 2.
pub fn run(ctx: &Context) -> Result<ExitCode> {
    let root = ctx.root()?;
    let checked = ctx.project().and_then(|project| {
        check_lock(ctx, root, &project)?;
        Ok(project)
    });
    match checked {
        Ok(project) => {
            if ctx.json {
                println!("[]");
            }
            ctx.ui.line(format!("configuration is sound: {}", summary(&project)));
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) if ctx.json => {
            println!("{}", serde_json::to_string_pretty(problems.list())?);
            Ok(ExitCode::from(crate::USAGE))
        }
        Err(problems) => Err(problems.into()),
    }
}

/// The lock must be readable and answer what the images ask for now. A project without one is
/// sound: it is made by `builder lock`.
fn check_lock(ctx: &Context, root: &Path, project: &Project) -> Result<(), Problems> {
    let name = inputs::LOCK;
    if !root.join(name).exists() {
        ctx.ui.line(format!("there is no {name} yet; make it with `builder lock`"));
        return Ok(());
    }
    let broken = |error: anyhow::Error| match error.downcast::<Problems>() {
        Ok(problems) => problems,
        Err(error) => Problems::from(Problem::of_file(name, format!("{error:#}"))),
    };
    let read = fs_err::read_to_string(root.join(name)).map_err(anyhow::Error::from);
    let lock = read.and_then(|text| Lock::parse(Path::new(name), &text)).map_err(broken)?;
    let requests = inputs::all_requests(project).map_err(broken)?;
    let mut problems = Problems::default();
    problems.extend(requests.iter().filter_map(|request| {
        let error = lock.base(request).err()?;
        Some(Problem::of_file(name, error.to_string()))
    }));
    if problems.is_empty() { Ok(()) } else { Err(problems.sorted()) }
}

fn summary(project: &Project) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let parts = [
        count(project.images.len(), "image"),
        count(project.profiles.len(), "profile"),
        count(project.cluster.nodes.len(), "node"),
    ];
    parts.join(", ")
}
