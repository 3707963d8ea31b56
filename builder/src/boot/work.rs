//! The throw-away files of one boot.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use node::command::Run;
use node::values::Digest;

use super::inject::{self, Credential, Task};
use super::plan::{BootPlan, Ending, Firmware};
use super::seed::{self, SeedFiles};

/// Start of the folders' names.
const PREFIX: &str = "node-boot-";
/// The file in each that its boot holds locked.
const OWNER: &str = "owner";

/// Everything on disk that one boot needs besides the image; gone when dropped.
#[derive(Debug)]
pub struct Work {
    pub(super) folder: tempfile::TempDir,
    /// Held as long as the folder is in use.
    pub(super) _owner: Option<Flock<File>>,
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
        sweep(&std::env::temp_dir())?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let owner = own(folder.path())?;
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
        let ssh = if plan.ending == Ending::Keep { Some(free_port()?) } else { None };
        Ok(Self { folder, _owner: Some(owner), overlay, seed, smbios, uuid: uuid.to_string(), ssh })
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Marks a folder as in use, for as long as the result lives. The file gets its name when it is
/// locked, so that nobody sees it free before.
fn own(folder: &Path) -> Result<Flock<File>> {
    let fresh = folder.join("owner.new");
    let file = fs_err::File::create(&fresh)?.into_file();
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| e)
        .context("failed to lock a new file")?;
    fs_err::rename(&fresh, folder.join(OWNER))?;
    Ok(lock)
}

/// Removes what boots left behind that were killed without a chance to clean up.
fn sweep(temp: &Path) -> Result<()> {
    for entry in fs_err::read_dir(temp)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Another user's folder, or one being made or removed right now, is not ours to judge.
        let Ok(file) = fs_err::File::open(entry.path().join(OWNER)) else { continue };
        if Flock::lock(file.into_file(), FlockArg::LockExclusiveNonblock).is_ok() {
            match fs_err::remove_dir_all(entry.path()) {
                // Another builder swept it at the same time.
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A copy-on-write layer of the plan's size, or the one that an earlier boot left; the image below
/// is opened read-only.
fn overlay(plan: &BootPlan, work: &Path) -> Result<PathBuf> {
    let image = fs_err::canonicalize(&plan.image)?;
    let overlay = match &plan.disk_file {
        Some(kept) if kept.try_exists()? => return Ok(fs_err::canonicalize(kept)?),
        Some(kept) => kept.clone(),
        None => work.join("disk.qcow2"),
    };
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
    fn only_a_folder_whose_boot_is_gone_is_swept() {
        let temp = tempfile::tempdir().unwrap();
        let made = ["node-boot-dead", "node-boot-live", "node-boot-new", "other"].map(|name| {
            let path = temp.path().join(name);
            fs_err::create_dir(&path).unwrap();
            path
        });
        drop(own(&made[0]).unwrap());
        let _live = own(&made[1]).unwrap();
        fs_err::write(made[3].join(OWNER), "").unwrap();
        sweep(temp.path()).unwrap();
        assert_eq!(made.map(|path| path.exists()), [false, true, true, true]);
    }

    #[test]
    fn the_digest_of_a_file_is_that_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![7; (1 << 20) + 5];
        fs_err::write(dir.path().join("f"), &bytes).unwrap();
        assert_eq!(digest_of(&dir.path().join("f")).unwrap(), Digest::of(&bytes));
    }
}
