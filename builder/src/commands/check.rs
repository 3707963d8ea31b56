//! `builder check`: all configuration and the lock, every problem at once.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use node::config::Role;

use super::{Context, inputs};
use crate::bundle::Bundle;
use crate::config::{Problem, Problems, Project};
use crate::image::plan::facts;
use crate::lock::Lock;
use crate::secrets::needs::Needs;

/// Reads everything and says what is wrong, or what there is.
///
/// # Errors
/// [`Problems`]; with `--json` they are data on stdout instead, with exit code 2.
pub fn run(ctx: &Context) -> Result<ExitCode> {
    let root = ctx.root()?;
    let checked = ctx.project().and_then(|project| {
        let lock = check_lock(ctx, root, &project);
        // A lock that cannot be read has no charts, which is not the bundle's fault.
        let bundle = match &lock {
            Ok(lock) => check_bundle(root, &project, lock),
            Err(_) => Ok(None),
        };
        let bundle = lock.and(bundle)?;
        Needs::load(root)?;
        Ok((project, bundle))
    });
    match checked {
        Ok((project, bundle)) => {
            if ctx.json {
                println!("[]");
            }
            ctx.ui.line(format!("configuration is sound: {}", summary(&project, bundle.as_ref())));
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
fn check_lock(ctx: &Context, root: &Path, project: &Project) -> Result<Lock, Problems> {
    let name = inputs::LOCK;
    if !root.join(name).exists() {
        ctx.ui.line(format!("there is no {name} yet; make it with `builder lock`"));
        return Ok(Lock::default());
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
    if problems.is_empty() { Ok(lock) } else { Err(problems.sorted()) }
}

/// The bundle as each server's image would hold it; the last one is returned.
fn check_bundle(root: &Path, project: &Project, lock: &Lock) -> Result<Option<Bundle>, Problems> {
    let mut bundle = None;
    for profile in project.profiles.values().filter(|p| p.role == Role::Server) {
        let facts = facts(project, profile)
            .map_err(|error| Problems::from(Problem::of_file("profiles", format!("{error:#}"))))?;
        bundle = Bundle::load(root, &facts, lock)?;
        bundle.as_ref().map_or(Ok(()), |bundle| bundle.check_capacity(project))?;
    }
    Ok(bundle)
}

fn summary(project: &Project, bundle: Option<&Bundle>) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut parts = vec![
        count(project.images.len(), "image"),
        count(project.profiles.len(), "profile"),
        count(project.cluster.nodes.len(), "node"),
    ];
    if let Some(bundle) = bundle {
        parts.push(format!("bundle {}", bundle.revision));
        parts.push(count(bundle.releases().count(), "release"));
    }
    parts.join(", ")
}
