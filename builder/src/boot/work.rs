//! The throw-away files of one boot.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::command::Run;
use node::values::Digest;

use super::inject::{self, Credential, Task};
use super::plan::{BootPlan, Firmware};
use super::seed::{self, SeedFiles};

/// Everything on disk that one boot needs besides the image; gone when dropped.
#[derive(Debug)]
pub struct Work {
    pub(super) folder: tempfile::TempDir,
    /// The disk.
    pub(super) overlay: PathBuf,
    /// The cloud-init drive.
    pub(super) seed: Option<PathBuf>,
    /// Files of SMBIOS strings.
    pub(super) smbios: Vec<PathBuf>,
    pub(super) uuid: String,
    /// Loopback port that leads to the guest's SSH, with `keep`.
    pub ssh: Option<SocketAddr>,
}

impl Work {
    /// Makes overlay, cloud-init drive, firmware variables and credentials.
    ///
    /// # Errors
    /// No space, or one of the programs fails.
    pub fn prepare(plan: &BootPlan, task: &Task, files: &SeedFiles) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("node-boot-").tempdir()?;
        let overlay = overlay(plan, folder.path())?;
        let seed = seed::make(plan.seed, files, &plan.tools, folder.path())?;
        if plan.firmware == Firmware::Ovmf {
            fs_err::copy(&plan.tools.ovmf.1, folder.path().join("vars.fd"))
                .context("failed to copy the UEFI variables (package ovmf)")?;
        }
        let credentials: Vec<Credential> =
            inject::facts(task).into_iter().chain(plan.credentials.iter().cloned()).collect();
        let smbios = credentials.iter().enumerate().map(|(n, c)| c.write(folder.path(), n));
        let smbios = smbios.collect::<Result<_>>()?;
        // Proxmox gives each VM a UUID; systemd makes the machine-id of it.
        let uuid = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, task.nonce.as_bytes());
        let ssh = if plan.keep { Some(free_port()?) } else { None };
        Ok(Self { folder, overlay, seed, smbios, uuid: uuid.to_string(), ssh })
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A copy-on-write layer of the plan's size; the image below is opened read-only.
fn overlay(plan: &BootPlan, work: &Path) -> Result<PathBuf> {
    let image = fs_err::canonicalize(&plan.image)?;
    let overlay = work.join("disk.qcow2");
    (plan.tools.qemu_img)()
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(&image)
        .arg(&overlay)
        .arg(plan.disk.bytes().to_string())
        .run()
        .context("failed to make the overlay disk (package qemu-utils)")?;
    Ok(overlay)
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// SHA-256 of a file, read in pieces.
///
/// # Errors
/// The file cannot be read.
pub fn digest_of(path: &Path) -> Result<Digest> {
    use sha2::Digest as _;
    use std::io::Read as _;
    let mut file = fs_err::File::open(path)?;
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            n => hash.update(&piece[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_a_file_is_that_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; (1 << 20) + 5];
        fs_err::write(dir.path().join("f"), &bytes).unwrap();
        assert_eq!(digest_of(&dir.path().join("f")).unwrap(), Digest::of(&bytes));
    }
}
