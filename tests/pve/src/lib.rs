//! A Proxmox VE to test against.
//!
//! [`Double::start`] listens on loopback with TLS and behaves as the API of Proxmox VE does: it routes,
//! authorises, checks parameters in the real order with the real words, and refuses what Proxmox refuses.
//! Behind the calls stands a model ([`World`]) of nodes, storages, VMs and tasks in virtual time. Faults
//! are a script ([`Fault`]); at the end [`Double::finish`] fails for faults that never struck and for
//! requests that the project's own table of calls does not have.
//!
//! ```
//! use pve_double::{Double, Effect, Fault, Setup};
//!
//! # fn main() -> anyhow::Result<()> {
//! let double = Double::start(Setup::default())?;
//! double.fault(Fault::new("POST /nodes/{node}/qemu/{vmid}/clone", 1, Effect::Timeout { applied: true }));
//! let _client_needs = (double.url(), double.ca_pem(), double.fingerprint(), double.token());
//! assert!(double.world(|world| world.leftovers().vms.is_empty()));
//! # Ok(())
//! # }
//! ```

mod access;
mod agent;
mod api;
mod calls;
mod clock;
mod control;
mod direct;
mod fault;
mod form;
mod hook;
mod model;
mod qemu;
mod reply;
mod serve;
mod setup;
pub mod table;
mod tls;
mod upload;
mod wire;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

pub use access::{Access, Acl, Caller, Pools};
pub use clock::{Clock, Pace};
pub use direct::{Direct, raw_params};
pub use fault::{Effect, Fault, Faults};
pub use hook::{Disk, Machine, Start};
pub use model::{
    Config, Leftovers, Run, SeedFiles, Seen, Storage, StorageKind, TagAccess, Task, Upload, Vm,
    Volume, World,
};
pub use qemu::Qemu;
pub use setup::{
    CertificateSetup, Delays, NodeSetup, POOL_PRIVILEGES, SECRET, Setup, StorageSetup, TOKEN,
    TokenSetup, USER,
};

use serve::Shared;

/// A running double; it stops when dropped.
pub struct Double {
    shared: Arc<Shared>,
    port: u16,
    ca_pem: String,
    fingerprint: String,
    listener: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl std::fmt::Debug for Double {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Double").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Double {
    /// Starts a double in its own threads.
    ///
    /// # Errors
    /// No certificate could be made, or no port of the loopback be had.
    pub fn start(setup: Setup) -> Result<Self> {
        let identity = tls::identity(&setup.certificate)?;
        let folder = tempfile::Builder::new()
            .prefix("pve-double-")
            .tempdir()
            .context("failed to make a folder for volumes")?;
        fs_err::create_dir(folder.path().join("uploads"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, setup.port))
            .with_context(|| format!("failed to listen on 127.0.0.1:{}", setup.port))?;
        let port = listener.local_addr()?.port();
        let certificates = [
            (identity.fingerprint.clone(), identity.pem),
            (identity.ca_fingerprint, identity.ca_pem.clone()),
        ];
        let world = World::new(setup, folder.path().to_owned(), certificates);
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            tls: identity.config,
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let listener = std::thread::spawn(move || serve::listen(&for_thread, &listener));
        let (ca_pem, fingerprint) = (identity.ca_pem, identity.fingerprint);
        Ok(Self { shared, port, ca_pem, fingerprint, listener: Some(listener), _folder: folder })
    }

    /// `https://127.0.0.1:PORT`, without a path.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA that signed the node's certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the node's certificate: upper case, with colons.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The first token of the setup as `user@realm!name=secret`.
    pub fn token(&self) -> String {
        let world = self.shared.world();
        world
            .setup
            .tokens
            .first()
            .map(|token| format!("{}={}", token.id, token.secret))
            .unwrap_or_default()
    }

    /// Looks at the model, or changes it, between two requests. All that is due has happened before.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.shared.world();
        world.settle();
        look(&mut world)
    }

    /// Lets virtual time pass; all that becomes due happens.
    pub fn advance(&self, by: Duration) {
        let mut world = self.shared.world();
        world.clock.advance(by);
        world.settle();
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.world().faults.add(fault);
    }

    /// Real machines behind the VMs from now on.
    pub fn machine(&self, machine: impl Machine + 'static) {
        self.shared.world().machine = Some(Box::new(machine));
    }

    /// Tells of each request after its effect and before its answer: the moment to kill a client.
    pub fn watch(&self, watcher: impl FnMut(&Seen) + Send + 'static) {
        self.shared.world().watcher = Some(model::Watcher(Box::new(watcher)));
    }

    /// Listens for [control requests](control) on another port of the loopback; the port.
    ///
    /// # Errors
    /// No port could be had.
    pub fn control(&self, port: u16) -> Result<u16> {
        control::listen(&self.shared, port)
    }

    /// The end of a test.
    ///
    /// # Errors
    /// A fault never struck, or a request was not in the project's table.
    pub fn finish(self) -> Result<()> {
        self.world(|world| world.verdict())
    }
}

impl World {
    /// Whether the script was played and the table kept to.
    ///
    /// # Errors
    /// A fault never struck, or a request was not in the project's table.
    pub fn verdict(&self) -> Result<()> {
        ensure!(
            self.outside.is_empty(),
            "requests outside the table of calls: {}",
            self.outside.join("; ")
        );
        let unused = self.faults.unused();
        ensure!(unused.is_empty(), "faults that never struck: {unused:?}");
        Ok(())
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the listener up.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        drop(self.listener.take().map(JoinHandle::join));
    }
}
