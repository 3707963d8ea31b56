//! K3s as it lies in the image: binary, data directory already unpacked, container images in place
//! with the files that make their import conditional (k3s.md, traps B6).

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::{Run, tied};
use node::values::Digest;

use super::helm;
use super::key::Key;
use super::plan::Plan;
use super::scan::{self, Scan};
use super::tarball::{Content, Entry, Tarball};
use crate::lock::{Artifact, ArtifactKind};
use crate::store::{Store, sync_tree};

/// Version of this stage's code.
const VERSION: u32 = 3;
/// Where K3s keeps its data on a node.
const DATA_DIR: &str = "var/lib/rancher/k3s";
/// Programs that are K3s under another name.
const ALIASES: [&str; 3] = ["kubectl", "crictl", "ctr"];
const BINARY: &str = "usr/local/bin/k3s";
const HELM: &str = "usr/local/bin/helm";
/// Where K3s looks for container images.
const IMAGES_DIR: &str = "var/lib/rancher/k3s/agent/images";

/// Helm as the stage unpacked it from its archive.
const UNPACKED_HELM: &str = "helm";

/// Key of what is unpacked.
pub fn key(k3s: &Artifact, helm: Option<&Artifact>) -> Digest {
    let key = Key::of("k3s", VERSION).with("scan", scan::VERSION).digest("k3s", &k3s.sha256);
    helm.iter().fold(key, |key, helm| key.digest("helm", &helm.sha256)).finish()
}

/// Lets K3s unpack its data directory below `dest/data-dir`, by running a subcommand that does
/// nothing else (`dest/k3s` is a copy of the binary that may be executed), and unpacks Helm.
///
/// # Errors
/// The binary does not run, or unpacks nothing; Helm's archive has no program in it.
pub fn unpack(store: &Store, plan: &Plan, dest: &Path) -> Result<()> {
    unpack_data(store, &plan.k3s, dest)?;
    if let Some(helm) = plan.helm.as_ref().filter(|helm| helm.kind == ArtifactKind::Archive) {
        helm::unpack(&store.object(&helm.sha256), &dest.join(UNPACKED_HELM))?;
    }
    let programs = programs(store, plan, dest)?;
    // What was unpacked goes to the disk meanwhile; storing the output then has little to wait for.
    let scan = std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = sync_tree(dest); // the sync that must succeed is the store's
        });
        scan::tarball(&programs)
    })?;
    fs::write(dest.join("scan.json"), serde_json::to_vec(&scan)?)?;
    Ok(())
}

fn unpack_data(store: &Store, k3s: &Artifact, dest: &Path) -> Result<()> {
    let binary = dest.join("k3s");
    fs::copy(store.object(&k3s.sha256), &binary)?;
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let data_dir = dest.join("data-dir");
    let mut command = tied("KILL", &binary);
    command.args(["ctr", "--version"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("HOME", dest).env("K3S_DATA_DIR", &data_dir);
    let what = || format!("failed to let K3s {} unpack its data directory", k3s.version);
    command.stdout_text().with_context(what)?;
    let current = data_dir.join("data/current/bin");
    ensure!(current.is_dir(), "K3s {} ran but unpacked nothing", k3s.version);
    fs::remove_file(&binary)?;
    settle_links(&data_dir, &data_dir)
}

/// What the secret scan of the stage output `stage` looked at.
///
/// # Errors
/// The file is missing or damaged.
pub fn scanned(stage: &Path) -> Result<Scan> {
    Ok(serde_json::from_slice(&fs::read(stage.join("scan.json"))?)?)
}

/// Everything large in the image beside the base: what the stage output `stage` holds, and K3s'
/// container images.
///
/// # Errors
/// A file cannot be read.
pub fn payload(store: &Store, plan: &Plan, stage: &Path) -> Result<Tarball> {
    let mut tarball = programs(store, plan, stage)?;
    if let Some(images) = &plan.images {
        let path = store.object(&images.sha256);
        let name = format!("{IMAGES_DIR}/{}.{}", images.name, archive_suffix(&path)?);
        tarball.add(&name, Entry::File(Content::File(path), 0o644))?;
    }
    Ok(tarball)
}

/// K3s and Helm.
fn programs(store: &Store, plan: &Plan, stage: &Path) -> Result<Tarball> {
    let mut tarball = entries(store, &plan.k3s, stage)?;
    if let Some(helm) = &plan.helm {
        let program = match helm.kind {
            ArtifactKind::Archive => stage.join(UNPACKED_HELM),
            _ => store.object(&helm.sha256),
        };
        tarball.add(HELM, Entry::File(Content::File(program), 0o755))?;
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
    add_tree(&mut tarball, &stage.join("data-dir"), &data, ".lock")?;
    // An empty cache file turns on conditional import; K3s opens it but never creates it. The
    // barrier sorts last: K3s' wait for the import does not cover the last file.
    tarball.file(&format!("{IMAGES_DIR}/.cache.json"), "", 0o644)?;
    tarball.file(&format!("{IMAGES_DIR}/zz-barrier.txt"), "", 0o644)?;
    Ok(tarball)
}

/// K3s links its programs by absolute paths. They are turned to where they will lie on the node
/// while this folder still has the name that K3s saw: a finished stage is renamed.
fn settle_links(data_dir: &Path, folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            settle_links(data_dir, &path)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path)?;
            let Ok(inside) = target.strip_prefix(data_dir) else {
                let to = target.display();
                ensure!(!target.is_absolute(), "K3s made a link out of its data, to {to}");
                continue;
            };
            fs::remove_file(&path)?;
            fs_err::os::unix::fs::symlink(Path::new("/").join(DATA_DIR).join(inside), &path)?;
        }
    }
    Ok(())
}

/// Adds `folder` and all below it, each in K3s' folder on the node as it lies below `base`.
fn add_tree(tarball: &mut Tarball, base: &Path, folder: &Path, skip: &str) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if path.file_name().is_some_and(|n| n == skip) {
            continue;
        }
        let place = format!("{DATA_DIR}/{}", path.strip_prefix(base)?.display());
        if meta.is_dir() {
            tarball.add(&place, Entry::Folder(0o755))?;
            add_tree(tarball, base, &path, skip)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path)?.to_string_lossy().into_owned();
            tarball.add(&place, Entry::Link(target))?;
        } else {
            let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            tarball.add(&place, Entry::File(Content::File(path), mode))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_to_where_the_data_lies_on_the_node_and_stay_so_when_the_stage_moves() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("work/data-dir");
        let bin = data_dir.join("data/0f/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("bridge"), "").unwrap();
        symlink(data_dir.join("data/0f"), data_dir.join("data/current")).unwrap();
        symlink("bridge", bin.join("loopback")).unwrap();
        settle_links(&data_dir, &data_dir).unwrap();
        let stage = dir.path().join("stage");
        fs::rename(dir.path().join("work"), &stage).unwrap();
        let mut tarball = Tarball::default();
        let base = stage.join("data-dir");
        add_tree(&mut tarball, &base, &base.join("data"), ".lock").unwrap();
        let link = |path: &str| tarball.entries().get(&format!("{DATA_DIR}/data/{path}")).cloned();
        let on_node = "/var/lib/rancher/k3s/data/0f".to_owned();
        assert_eq!(link("current"), Some(Entry::Link(on_node)));
        assert_eq!(link("0f/bin/loopback"), Some(Entry::Link("bridge".to_owned())));
    }

    #[test]
    fn a_link_out_of_the_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/shadow", dir.path().join("x")).unwrap();
        let text = settle_links(dir.path(), dir.path()).unwrap_err().to_string();
        assert!(text.contains("link out of its data"), "{text}");
    }
}
