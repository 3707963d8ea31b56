//! An NFS 4 server on loopback (nfs-ganesha), which can go away and come back: the host's kernel
//! need not have one, and nothing of the host is changed.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fs_err as fs;

/// From start to the first accepted connection; it takes about a second.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running, or stopped, server with one export.
#[derive(Debug)]
pub struct Nfs {
    place: tempfile::TempDir,
    /// Where it listens.
    pub address: SocketAddr,
    child: Option<Child>,
}

impl Nfs {
    /// Starts a server that exports an empty folder as `export`.
    ///
    /// # Errors
    /// nfs-ganesha is missing or does not start; its log is in the error.
    pub fn start(export: &str) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        fs::create_dir(place.path().join("export"))?;
        fs::create_dir(place.path().join("state"))?;
        let config = config(place.path(), address, export);
        fs::write(place.path().join("ganesha.conf"), config)?;
        let mut this = Self { place, address, child: None };
        this.bring_back()?;
        Ok(this)
    }

    /// The exported folder, as the host sees it.
    pub fn folder(&self) -> PathBuf {
        self.place.path().join("export")
    }

    /// Kills the server, as a power cut would: clients get no answer any more.
    ///
    /// # Errors
    /// It cannot be ended.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("failed to kill nfs-ganesha")?;
            child.wait().context("failed to wait for nfs-ganesha")?;
        }
        Ok(())
    }

    /// Starts it again on the same port with the same folder.
    ///
    /// # Errors
    /// It does not start; its log is in the error.
    pub fn bring_back(&mut self) -> Result<()> {
        let own = |name: &str| self.place.path().join(name);
        // It ends with this process, however that ends.
        let mut server = node::command::tied("KILL", "ganesha.nfsd");
        server.arg("-F").arg("-f").arg(own("ganesha.conf")).arg("-L").arg(own("log"));
        server.arg("-p").arg(own("pid"));
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(server.spawn().context("failed to start nfs-ganesha")?);
        let limit = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None)));
            if ended || Instant::now() > limit {
                let log = fs::read_to_string(own("log")).unwrap_or_default();
                bail!("nfs-ganesha (packages nfs-ganesha, nfs-ganesha-vfs) did not start: {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let _ = self.kill(); // it ends with this process at the latest
    }
}

/// NFS 4.1 only: Linux 6.12 as a client misreads what Debian 12's nfs-ganesha answers to `READ_PLUS`
/// of 4.2 (a snapshot read back had other bytes than the server's file).
fn config(place: &Path, address: SocketAddr, export: &str) -> String {
    let (port, ip, place) = (address.port(), address.ip(), place.display());
    format!(
        "NFS_CORE_PARAM {{ NFS_Port = {port}; Bind_addr = {ip}; Protocols = 4;\n\
         Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         NFSv4 {{ Graceless = true; Minor_Versions = 1; Only_Numeric_Owners = true; RecoveryRoot = \"{place}/state\"; }}\n\
         EXPORT {{ Export_Id = 1; Path = \"{place}/export\"; Pseudo = \"{export}\";\n\
         Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 4;\n\
         Transports = TCP; FSAL {{ Name = VFS; }} }}\n"
    )
}
