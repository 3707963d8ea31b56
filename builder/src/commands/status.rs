//! `builder status` and `builder history`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use node::files;

use super::Context;
use crate::cli::StatusArgs;
use crate::config::Project;
use crate::kubernetes::{self, Kube, Node};
use crate::life::{Answer, Failed};
use crate::proxmox::inventory::Inventory;
use crate::status::{Seen, Status, html, of, table};

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(5);
/// Clears a terminal and puts the cursor into its corner.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// `builder status`.
///
/// # Errors
/// The configuration is wrong. What cannot be asked is told in the notes, and counts as unhealthy.
#[expect(clippy::print_stdout, reason = "the status is the command's data")]
pub fn run(ctx: &Context, args: &StatusArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let kube = kubernetes::named(args.cluster.kubeconfig.as_deref());
    let kube = kube.map(|path| Kube::connect(&path)).transpose()?;
    loop {
        let status = of(&project, &look(ctx, &project, kube.as_ref()));
        if let Some(path) = &args.html {
            let events = super::history::events(&project)?;
            files::write_atomic(path, html::page(&status, &events).as_bytes(), 0o644)?;
            ctx.ui.line(format!("wrote {}", path.display()));
        }
        if args.watch && !ctx.json {
            print!("{CLEAR}");
        }
        if ctx.json {
            println!("{}", json(&status, args.watch)?);
        } else if args.html.is_none() {
            print!("{}", table::table(&status, &ctx.ui));
        }
        if !args.watch {
            let sound = status.is_sound();
            return Ok(ExitCode::from(if sound { 0 } else { crate::UNHEALTHY }));
        }
        std::thread::sleep(EVERY);
    }
}

/// One line each when many follow.
fn json(status: &Status, many: bool) -> serde_json::Result<String> {
    if many { serde_json::to_string(status) } else { serde_json::to_string_pretty(status) }
}

/// Asks both sides at once.
fn look(ctx: &Context, project: &Project, kube: Option<&Kube>) -> Seen {
    let (vms, nodes) = std::thread::scope(|scope| {
        let nodes = scope.spawn(|| kube.map(asked));
        let vms = inventory(ctx, project);
        (vms, nodes.join().unwrap_or_else(|_| Some(Err(Failed::Later("it ended".into())))))
    });
    let mut notes = Vec::new();
    let inventory = vms.map_err(|why| notes.push(format!("Proxmox was not asked: {why:#}"))).ok();
    let nodes = nodes.unwrap_or_else(|| {
        let why = "the cluster was not asked: no --kubeconfig, and";
        Err(Failed::Never(format!("{why} {} is not set", kubernetes::VARIABLE)))
    });
    let nodes = nodes.map_err(|why| notes.push(why.to_string())).ok();
    let offline = inventory.iter().flat_map(|i| &i.offline);
    notes.extend(offline.map(|host| format!("the host {host} is offline")));
    Seen { inventory, nodes, notes, at: jiff::Timestamp::now().as_second() }
}

/// The cluster's Nodes, or why it is no use to ask again.
fn asked(kube: &Kube) -> Answer<BTreeMap<String, Node>> {
    kube.nodes().map_err(|why| match kube.must_fit() {
        Err(misfit) => Failed::Never(format!("{misfit:#}")),
        Ok(()) => why,
    })
}

fn inventory(ctx: &Context, project: &Project) -> Result<Inventory> {
    let connection = crate::proxmox::connect(project, &ctx.ui)?;
    Ok(Inventory::read(&connection.client, &project.cluster).map_err(|e| connection.told(e))?)
}
