//! Proxmox VE, 8.4 and newer: a thin client for the calls we make, and what stands on it.
//!
//! [`Client`] is what everything else uses. It repeats what is safe to repeat, looks before it
//! repeats what is not, follows every task to its end and waits for locks, always with a deadline.
//! [`calls`] read, [`changes`] change; each change can be made again after anything and finds what
//! is done already. [`transport`] and [`clock`] are seams: a test may put a model of Proxmox in the
//! same process behind the one and let hours pass in a moment by the other.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! # let project = builder::config::Project::load(std::path::Path::new("."))?;
//! let client = builder::proxmox::connect(&project, &builder::ui::Ui::new(false))?.client;
//! for vm in client.vms()?.iter().filter(|vm| vm.template) {
//!     println!("{} {} {}", vm.node, vm.vmid, vm.name);
//! }
//! # Ok(())
//! # }
//! ```

pub mod calls;
pub mod changes;
mod client;
#[cfg(test)]
mod client_tests;
pub mod clock;
mod error;
mod http;
pub mod inventory;
pub mod iso;
pub mod life;
mod machine;
mod parse;
pub mod preflight;
mod prune;
pub mod push;
mod secret;
pub mod settings;
pub mod tags;
mod task;
pub mod tls;
pub mod token;
pub mod transport;
mod upload;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

pub use client::{Action, Client, Limits, Look};
pub use error::{Class, Error};
pub use http::Http;
pub use task::{TaskEnd, Upid};
pub use upload::Uploaded;

use self::tls::{Fingerprint, Trust, Verifier};
use self::token::Token;
use crate::config::{Project, Proxmox};
use crate::ui::Ui;

/// A client and whose token it has.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// `USER@REALM!ID`.
    pub token_id: String,
    /// `USER@REALM`.
    pub user: String,
    /// The file or the variable that held the token.
    pub token_from: String,
}

impl Connection {
    /// An error with what only this connection knows: which token it was that Proxmox does not know.
    #[must_use]
    pub fn told(&self, error: Error) -> Error {
        if error.class != Class::Auth {
            return error;
        }
        let Self { token_id, token_from, user, .. } = self;
        error.fix(format!(
            "Proxmox does not know the token {token_id} with the secret in {token_from}, or it has \
             expired: `pveum user token list {user}` on a host shows it; `pveum user token add` makes a new \
             one, see docs/proxmox.md"
        ))
    }
}

/// A client as `[proxmox]` of the cluster's file describes it. Nothing is sent yet.
///
/// # Errors
/// There is no token, or the CA file cannot be read.
pub fn connect(project: &Project, ui: &Ui) -> Result<Connection> {
    let settings = &project.cluster.proxmox;
    let token = Token::find(settings.token_file.as_deref())?;
    let verifier = Verifier::new(trust(&project.root, settings))?;
    let http = Http::new(&settings.endpoint, &token, verifier)?;
    let clock = Arc::new(clock::System::new());
    let client = Client::new(settings.endpoint.clone(), Arc::new(http), clock, ui.clone());
    Ok(Connection {
        client,
        token_id: token.id().to_owned(),
        user: token.user().to_owned(),
        token_from: token.from().to_owned(),
    })
}

/// Pinned fingerprints first: they are the narrower trust.
fn trust(root: &Path, settings: &Proxmox) -> Trust {
    match &settings.ca_file {
        _ if !settings.fingerprints.is_empty() => Trust::Pinned(
            settings.fingerprints.iter().filter_map(|text| Fingerprint::parse(text)).collect(),
        ),
        Some(path) => Trust::Ca(root.join(path)),
        None => Trust::System,
    }
}
