//! The files an image adds to its base: trees below `images/` copied as they lie, their `.tera`
//! files rendered, and what only the build knows (D1: render at build, apply at boot).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::image_id::ImageId;
use node::packages::Packages;
use node::values::Digest;

use super::facts::{Facts, Identity};
use super::key::Key;
use super::tarball::{Entry, Tarball};

/// Ending of files that are rendered; the file in the image has its name without it.
const TEMPLATE: &str = ".tera";
/// Where firstboot lies in the image.
const FIRSTBOOT: &str = "usr/bin/firstboot";

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    File { content: Vec<u8>, mode: u32 },
    Template { name: PathBuf, text: String, mode: u32 },
    Link(String),
}

/// The files of several trees by their path in the image; a later tree's file replaces an
/// earlier's.
#[derive(Debug, Clone, Default)]
pub struct Trees {
    files: BTreeMap<String, Source>,
}

impl Trees {
    /// Reads `images/<tree>` below the project's root for every name in `trees`.
    ///
    /// # Errors
    /// A tree or file cannot be read, or a template is not UTF-8.
    pub fn read(root: &Path, trees: &[String]) -> Result<Self> {
        let mut all = Self::default();
        for tree in trees {
            let top = root.join("images").join(tree);
            all.walk(&top, &top)?;
        }
        Ok(all)
    }

    fn walk(&mut self, top: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                self.walk(top, &path)?;
                continue;
            }
            let inside = path.strip_prefix(top)?.to_string_lossy().into_owned();
            let (place, source) = source(&path, &meta, inside)?;
            self.files.insert(place, source);
        }
        Ok(())
    }

    /// Digest over every file's path, kind, mode and content.
    pub fn digest(&self) -> Digest {
        let key = Key::of("trees", 1);
        let add = |key: Key, (place, source): (&String, &Source)| match source {
            Source::File { content, mode } => {
                key.with(place, content).with("mode", mode.to_string())
            }
            Source::Template { text, mode, .. } => {
                key.with(place, text).with("template", mode.to_string())
            }
            Source::Link(target) => key.with(place, target).with("link", ""),
        };
        self.files.iter().fold(key, add).finish()
    }
}

/// Where a file goes in the image, and what it is. Git keeps no mode but "executable".
fn source(path: &Path, meta: &std::fs::Metadata, inside: String) -> Result<(String, Source)> {
    if meta.is_symlink() {
        let target = fs::read_link(path)?.to_string_lossy().into_owned();
        return Ok((inside, Source::Link(target)));
    }
    let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    match inside.strip_suffix(TEMPLATE) {
        Some(place) => {
            let text = fs::read_to_string(path)?;
            Ok((place.to_owned(), Source::Template { name: path.to_owned(), text, mode }))
        }
        None => Ok((inside, Source::File { content: fs::read(path)?, mode })),
    }
}

/// Renders the overlay. `os_release` is the base's file, which is completed.
///
/// # Errors
/// A template that does not parse, or names what does not exist, with its file and line.
pub fn render(
    trees: &Trees,
    facts: &Facts,
    identity: &Identity,
    os_release: &str,
) -> Result<Tarball> {
    let mut context = tera::Context::from_serialize(facts).context("failed to set up templates")?;
    context.extend(tera::Context::from_serialize(identity).context("failed to set up templates")?);
    let mut tarball = Tarball::default();
    for (place, source) in &trees.files {
        match source {
            Source::Link(target) => tarball.add(place, Entry::Link(target.clone()))?,
            Source::File { content, mode } => tarball.file(place, content.clone(), *mode)?,
            Source::Template { name, text, mode } => {
                let rendered = tera::Tera::one_off(text, &context, false)
                    .with_context(|| format!("failed to render {}", name.display()))?;
                tarball.file(place, rendered, *mode)?;
            }
        }
    }
    for unit in facts.image.mask.keys() {
        tarball.add(&format!("etc/systemd/system/{unit}"), Entry::Link("/dev/null".to_owned()))?;
    }
    tarball.file("usr/lib/os-release", complete_os_release(os_release, identity), 0o644)?;
    Ok(tarball)
}

/// Adds what only the build knows: firstboot, its configuration, units of its NFS exports, the list of
/// packages, and GRUB's.
///
/// # Errors
/// A file cannot be read, or firstboot is not a static program, or no longer the one planned with.
pub fn add_own(
    tarball: &mut Tarball,
    (firstboot, digest): (&Path, &Digest),
    config: &node::config::NodeConfig,
    packages: &Packages,
    identity: &Identity,
) -> Result<()> {
    tarball.file(FIRSTBOOT, program(firstboot, digest)?, 0o755)?;
    let json = serde_json::to_vec_pretty(config).context("failed to write node.json")?;
    tarball.file(node::config::PATH, json, 0o644)?;
    tarball.file(node::packages::PATH, packages.list(), 0o644)?;
    add_units(tarball, config)?;
    tarball.file("boot/grub/grub.cfg", grub_cfg(identity), 0o644)
}

/// The bytes of firstboot, which must be those that the image's key was made with.
fn program(path: &Path, planned: &Digest) -> Result<Vec<u8>> {
    let program = fs::read(path)?;
    let shown = path.display();
    ensure_static(&program).with_context(|| format!("{shown} cannot be used"))?;
    let same = Digest::of(&program) == *planned;
    ensure!(same, "{shown} was changed while the image was made; run this again");
    Ok(program)
}

/// The mount and the timer of each NFS export; firstboot starts them by name.
fn add_units(tarball: &mut Tarball, config: &node::config::NodeConfig) -> Result<()> {
    for (path, text) in config.cluster.nfs.iter().flat_map(node::nfs::files) {
        tarball.file(&path, text, 0o644)?;
    }
    Ok(())
}

/// `kubectl get nodes -o wide` shows `PRETTY_NAME`, so the image-id stands there too (D6).
fn complete_os_release(base: &str, identity: &Identity) -> String {
    let line = |line: &str| match line.strip_prefix("PRETTY_NAME=") {
        Some(name) => {
            format!("PRETTY_NAME=\"{} ({})\"\n", name.trim_matches('"'), identity.image_id)
        }
        None => format!("{line}\n"),
    };
    let own = format!("IMAGE_ID={}\nIMAGE_VERSION={}\n", identity.image_id, identity.image_version);
    let base = base.lines().filter(|l| !l.starts_with("IMAGE_"));
    base.map(line).chain(std::iter::once(own)).collect()
}

/// No menu and no delay; a serial console where there is one. The kernel is found by the links
/// that the distribution's kernel package keeps in `/`.
fn grub_cfg(identity: &Identity) -> String {
    format!(
        "if serial --unit=0 --speed=115200; then\n\
         \x20 terminal_input serial console\n\
         \x20 terminal_output serial console\n\
         fi\n\
         set timeout=0\n\
         set default=0\n\
         menuentry '{id}' {{\n\
         \x20 linux /vmlinuz root=UUID={uuid} ro console=tty0 console=ttyS0,115200 panic=30\n\
         \x20 initrd /initrd.img\n\
         }}\n",
        id = identity.image_id,
        uuid = identity.root_uuid
    )
}

/// A dynamic firstboot would run on this host and fail in the image's: look for the interpreter
/// its ELF program headers would name (`PT_INTERP`, System V ABI chapter 5).
fn ensure_static(program: &[u8]) -> Result<()> {
    const PT_INTERP: u32 = 3;
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is not a 64-bit ELF program");
    let u16_at = |at: usize| {
        program.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])))
    };
    let start =
        program.get(32..40).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes) as usize;
    let (size, count) = (u16_at(54), u16_at(56));
    let kinds = (0..count).filter_map(|i| program.get(start + i * size..start + i * size + 4));
    let dynamic =
        kinds.filter_map(|b| b.try_into().ok()).any(|b| u32::from_le_bytes(b) == PT_INTERP);
    ensure!(!dynamic, "it is linked dynamically; build it with `just firstboot`");
    Ok(())
}

/// The identity an image key gives: ids for the disk all come from it.
pub fn identity(id: &ImageId, root_uuid: uuid::Uuid) -> Identity {
    Identity { image_id: id.to_string(), image_version: id.short().to_owned(), root_uuid }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who() -> Identity {
        Identity {
            image_id: "worker-3f9c2a71b0de".into(),
            image_version: "3f9c2a71b0de".into(),
            root_uuid: uuid::Uuid::from_u128(7),
        }
    }

    #[test]
    fn os_release_names_the_image_once() {
        let text =
            complete_os_release("PRETTY_NAME=\"Debian 13\"\nID=debian\nIMAGE_ID=old\n", &who());
        assert_eq!(
            text,
            "PRETTY_NAME=\"Debian 13 (worker-3f9c2a71b0de)\"\nID=debian\n\
             IMAGE_ID=worker-3f9c2a71b0de\nIMAGE_VERSION=3f9c2a71b0de\n"
        );
    }

    #[test]
    fn a_tree_counts_by_path_mode_content_and_kind() {
        let digest = |change: &dyn Fn(&Path)| {
            let root = tempfile::tempdir().unwrap();
            let top = root.path().join("images/base");
            fs::create_dir_all(top.join("etc")).unwrap();
            fs::write(top.join("etc/a.tera"), "{{ image_id }}").unwrap();
            fs::write(top.join("etc/b"), "b").unwrap();
            change(&top);
            Trees::read(root.path(), &["base".into()]).unwrap().digest()
        };
        let plain = digest(&|_| {});
        assert_eq!(plain, digest(&|_| {}));
        let changes: [&dyn Fn(&Path); 5] = [
            &|t| fs::write(t.join("etc/b"), "c").unwrap(),
            &|t| fs::rename(t.join("etc/b"), t.join("etc/c")).unwrap(),
            &|t| fs::rename(t.join("etc/a.tera"), t.join("etc/a")).unwrap(),
            &|t| fs::set_permissions(t.join("etc/b"), PermissionsExt::from_mode(0o755)).unwrap(),
            &|t| fs::os::unix::fs::symlink("b", t.join("etc/l")).unwrap(),
        ];
        for change in changes {
            assert_ne!(plain, digest(change));
        }
    }

    #[test]
    fn every_export_has_the_units_that_firstboot_starts() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let project = crate::config::Project::load(root).unwrap();
        let profile = project.profile("worker").unwrap();
        let image = project.image_of(profile).unwrap();
        let facts = Facts::new(image, profile, &project.cluster, Vec::new());
        let id = "worker-3f9c2a71b0de".parse().unwrap();
        let config = facts.node_config(&id, &project.cluster);
        assert!(!config.cluster.nfs.is_empty(), "cluster.toml of this project has an export");
        let mut tarball = Tarball::default();
        add_units(&mut tarball, &config).unwrap();
        for fact in &config.cluster.nfs {
            for kind in ["mount", "timer"] {
                let path = format!("usr/lib/systemd/system/{}", node::nfs::unit(fact, kind));
                assert!(tarball.entries().contains_key(&path), "{path}");
            }
        }
    }

    #[test]
    fn a_firstboot_that_is_not_the_planned_one_any_more_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firstboot");
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        fs::write(&path, &bytes).unwrap();
        let planned = Digest::of(&bytes);
        assert_eq!(program(&path, &planned).unwrap(), bytes);
        fs::write(&path, [&bytes[..], b"newer"].concat()).unwrap();
        let text = program(&path, &planned).unwrap_err().to_string();
        assert!(text.ends_with("was changed while the image was made; run this again"), "{text}");
    }

    #[test]
    fn this_dynamic_test_program_is_refused() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let text = ensure_static(&own).unwrap_err().to_string();
        assert!(text.contains("linked dynamically"), "{text}");
        assert!(ensure_static(b"#!/bin/sh").is_err());
    }
}
