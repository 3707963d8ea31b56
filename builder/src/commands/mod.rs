//! One file per command: each a short story over the modules.

mod boot;
mod bundle;
mod cache;
mod check;
mod enroll;
mod fence;
mod fetch;
mod first;
mod gates;
mod history;
mod image;
mod inputs;
mod lock;
mod node;
mod preflight;
mod push;
mod quarantine;
mod rollout;
mod schema;
mod secrets;
mod site;
mod status;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cli::{Cli, Command, Global};
use crate::config::{Problems, Project};
use crate::ui::Ui;

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    /// The project folder, as found or given; `None` where there is none.
    root: Option<PathBuf>,
    /// The terminal.
    pub ui: Ui,
    /// Whether data is wanted as JSON.
    pub json: bool,
}

impl Context {
    /// From the flags and the folder the program was started in.
    ///
    /// # Errors
    /// The folder it was started in is gone.
    pub fn new(global: &Global) -> Result<Self> {
        let root = if let Some(root) = &global.root {
            Some(root.clone())
        } else {
            let here = std::env::current_dir().context("failed to find the current folder")?;
            here.ancestors().find(|folder| is_project(folder)).map(Path::to_owned)
        };
        Ok(Self { root, ui: Ui::new(global.quiet), json: global.json })
    }

    /// The project folder.
    ///
    /// # Errors
    /// None was given, and none is at or above the current folder: [`Problems`].
    pub fn root(&self) -> Result<&Path, Problems> {
        self.root.as_deref().ok_or_else(|| {
            Problems::usage(
                "no folder with `profiles/` and `images/` here or above",
                Some("go into the project, or name it with --root".to_owned()),
            )
        })
    }

    /// The project's configuration, checked.
    ///
    /// # Errors
    /// [`Problems`], whatever is wrong with it.
    pub fn project(&self) -> Result<Project, Problems> {
        Project::load(self.root()?)
    }
}

fn is_project(folder: &Path) -> bool {
    folder.join("profiles").is_dir() && folder.join("images").is_dir()
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever stopped it; [`Problems`] where usage or configuration was wrong.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let ctx = Context::new(&cli.global)?;
    match &cli.command {
        Command::Check => check::run(&ctx),
        Command::Schema(args) => schema::run(args),
        Command::Lock(args) => lock::run(&ctx, args),
        Command::Fetch(args) => fetch::run(&ctx, args),
        Command::Image(args) => image::run(&ctx, args),
        Command::Boot(args) => boot::run(&ctx, args),
        Command::Verify(args) => verify::run(&ctx, args),
        Command::Preflight(args) => preflight::run(&ctx, args),
        Command::Push(args) => push::run(&ctx, args),
        Command::Node(command) => node::run(&ctx, command),
        Command::Rollout(args) => rollout::run(&ctx, args),
        Command::Status(args) => status::run(&ctx, args),
        Command::History(args) => history::run(&ctx, args),
        Command::Quarantine(command) => quarantine::run(&ctx, command),
        Command::Relay { server } => Ok(crate::boot::relay(*server)),
        Command::Bundle(command) => bundle::run(&ctx, command),
        Command::Cache(command) => cache::run(&ctx, command),
        Command::Cluster(command) => secrets::cluster(&ctx, command),
        Command::Secrets(command) => secrets::run(&ctx, command),
    }
}
