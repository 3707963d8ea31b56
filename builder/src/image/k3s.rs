//! K3s as it lies in the image: binary, data directory already unpacked, container images in place
//! with the files that make their import conditional (k3s.md, traps B6).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::Run;
use node::values::Digest;

use super::helm;
use super::key::Key;
use super::plan::Plan;
use super::scan::{self, Scan};
use super::tarball::{Content, Entry, Tarball};
use crate::lock::{Artifact, ArtifactKind};
use crate::store::Store;

/// Version of this stage's code.
const VERSION: u32 = 1;
/// Where K3s keeps its data on a node.
const DATA_DIR: &str = "var/lib/rancher/k3s";
/// Programs that are K3s under another name.
const ALIASES: [&str; 3] = ["kubectl", "crictl", "ctr"];
const BINARY: &str = "usr/local/bin/k3s";
const HELM: &str = "usr/local/bin/helm";
/// Where K3s looks for container images.
const IMAGES_DIR: &str = "var/lib/rancher/k3s/agent/images";

/// Key of the unpacked data directory.
pub fn key(k3s: &Artifact) -> Digest {
    Key::of("k3s", VERSION).with("scan", scan::VERSION).digest("k3s", &k3s.sha256).finish()
}

/// Lets K3s unpack its data directory below `dest/data-dir`, by running a subcommand that does
/// nothing else. `dest/k3s` is a copy of the binary that may be executed.
///
/// # Errors
/// The binary does not run, or unpacks nothing.
pub fn unpack(store: &Store, k3s: &Artifact, dest: &Path) -> Result<()> {
    let binary = dest.join("k3s");
    fs::copy(store.object(&k3s.sha256), &binary)?;
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let data_dir = dest.join("data-dir");
    let mut command = Command::new(&binary);
    command.args(["ctr", "--version"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", dest).env("K3S_DATA_DIR", &data_dir);
    let what = || format!("failed to let K3s {} unpack its data directory", k3s.version);
    command.stdout_text().with_context(what)?;
    let current = data_dir.join("data/current/bin");
    ensure!(current.is_dir(), "K3s {} ran but unpacked nothing", k3s.version);
    fs::remove_file(&binary)?;
    let scan = scan::tarball(&entries(store, k3s, dest)?)?;
    fs::write(dest.join("scan.json"), serde_json::to_vec(&scan)?)?;
    Ok(())
}

/// What the secret scan of the stage output `stage` looked at.
///
/// # Errors
/// The file is missing or damaged.
pub fn scanned(stage: &Path) -> Result<Scan> {
    Ok(serde_json::from_slice(&fs::read(stage.join("scan.json"))?)?)
}

/// Everything large in the image beside the base: K3s from the stage output `stage`, its container
/// images, and Helm.
///
/// # Errors
/// A file cannot be read, or Helm's archive has no program in it.
pub fn payload(store: &Store, plan: &Plan, stage: &Path) -> Result<Tarball> {
    let mut tarball = entries(store, &plan.k3s, stage)?;
    if let Some(images) = &plan.images {
        let path = store.object(&images.sha256);
        let name = format!("{IMAGES_DIR}/{}.{}", images.name, archive_suffix(&path)?);
        tarball.add(&name, Entry::File(Content::File(path), 0o644))?;
    }
    if let Some(helm) = &plan.helm {
        let path = store.object(&helm.sha256);
        let content = match helm.kind {
            ArtifactKind::Archive => Content::Bytes(helm::program(&path)?),
            _ => Content::File(path),
        };
        tarball.add(HELM, Entry::File(content, 0o755))?;
    }
    Ok(tarball)
}

/// The entries of K3s itself.
fn entries(store: &Store, k3s: &Artifact, stage: &Path) -> Result<Tarball> {
    let mut tarball = Tarball::default();
    tarball.add(BINARY, Entry::File(Content::File(store.object(&k3s.sha256)), 0o755))?;
    for alias in ALIASES {
        tarball.add(&format!("usr/local/bin/{alias}"), Entry::Link("k3s".to_owned()))?;
    }
    let data = stage.join("data-dir/data");
    // K3s' lock file is left behind: it holds nothing and would differ by who made it.
    add_tree(&mut tarball, &stage.join("data-dir"), &data, DATA_DIR, ".lock")?;
    // An empty cache file turns on conditional import; K3s opens it but never creates it. The
    // barrier sorts last: K3s' wait for the import does not cover the last file.
    tarball.file(&format!("{IMAGES_DIR}/.cache.json"), "", 0o644)?;
    tarball.file(&format!("{IMAGES_DIR}/zz-barrier.txt"), "", 0o644)?;
    Ok(tarball)
}

/// Adds `folder` and all below it as `to` plus its path below `base`. Absolute links into `base`
/// are turned to where they will lie on the node.
fn add_tree(tarball: &mut Tarball, base: &Path, folder: &Path, to: &str, skip: &str) -> Result<()> {
    let place = |path: &Path| -> Result<String> {
        Ok(format!("{to}/{}", path.strip_prefix(base)?.display()))
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if path.file_name().is_some_and(|n| n == skip) {
            continue;
        }
        if meta.is_dir() {
            tarball.add(&place(&path)?, Entry::Folder(0o755))?;
            add_tree(tarball, base, &path, to, skip)?;
        } else if meta.is_symlink() {
            let target: PathBuf = fs::read_link(&path)?;
            let target = match target.strip_prefix(base) {
                Ok(inside) => format!("/{to}/{}", inside.display()),
                Err(_) => target.to_string_lossy().into_owned(),
            };
            tarball.add(&place(&path)?, Entry::Link(target))?;
        } else {
            let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o755;
            tarball.add(&place(&path)?, Entry::File(Content::File(path), mode))?;
        }
    }
    Ok(())
}

/// What K3s must see at the end of an image archive's name to read it, from its first bytes.
fn archive_suffix(path: &Path) -> Result<&'static str> {
    let mut magic = [0; 4];
    std::io::Read::read_exact(&mut fs::File::open(path)?, &mut magic)
        .with_context(|| format!("{} is too short for an image archive", path.display()))?;
    Ok(match magic {
        [0x28, 0xb5, 0x2f, 0xfd] => "tar.zst",
        [0x1f, 0x8b, ..] => "tar.gz",
        _ => "tar",
    })
}
