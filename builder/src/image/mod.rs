//! From a profile to an image file: the plan, the stages in their order, and the runner that
//! reuses what is there already.

pub mod assemble;
pub mod base;
mod damage;
pub mod facts;
pub mod helm;
pub mod k3s;
pub mod key;
pub mod loader;
pub mod manifest;
pub mod overlay;
pub mod plan;
pub mod preflight;
pub mod scan;
mod scratch;
pub mod tarball;
pub mod tools;
pub mod verify;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use fs_err as fs;
use node::values::Digest;

pub use manifest::{Manifest, Paths};
pub use plan::Plan;

use crate::fetch::pool_stage;
use crate::store::Store;
use crate::ui::{Ui, since};
use tools::Tools;

/// A stage whose output is kept in the store under its key.
struct Stage {
    name: &'static str,
    what: &'static str,
    key: fn(&Plan) -> Digest,
    inputs: fn(&Plan) -> Vec<(String, Digest)>,
    make: fn(&Build, &Path) -> Result<()>,
}

/// The order: tools first, as the boot loader needs its programs; the rest could go in any order,
/// and the disk (see [`Build::image`]) needs all.
const STAGES: [Stage; 5] = [
    Stage {
        name: "tools",
        what: "unpack the programs that make the image",
        key: |p| p.keys.tools,
        inputs: |p| vec![("packages".to_owned(), p.tools.digest())],
        make: |b, dest| tools::unpack(b.store, &b.plan.tools, dest),
    },
    Stage {
        name: "tools",
        what: "unpack the distribution's signed boot loaders",
        key: |p| p.keys.signed,
        inputs: |p| vec![("packages".to_owned(), p.signed.digest())],
        make: |b, dest| tools::unpack(b.store, &b.plan.signed, dest),
    },
    Stage {
        name: "loader",
        what: "make the boot loader for BIOS and UEFI",
        key: |p| p.keys.loader,
        inputs: |p| vec![("tools".to_owned(), p.keys.tools)],
        make: |b, dest| loader::make(&b.tools(), &b.signed(), &b.plan.image, dest),
    },
    Stage {
        name: "base",
        what: "install the operating system",
        key: |p| p.keys.base,
        inputs: |p| vec![("packages".to_owned(), p.base.digest())],
        make: |b, dest| base::make(b.store, b.plan, b.ui, dest),
    },
    Stage {
        name: "k3s",
        what: "unpack K3s' data directory and Helm",
        key: |p| p.keys.k3s,
        inputs: |p| {
            let inputs = std::iter::once(&p.k3s).chain(&p.helm);
            inputs.map(|a| (a.name.clone(), a.sha256)).collect()
        },
        make: |b, dest| k3s::unpack(b.store, b.plan, dest),
    },
];

/// A build under way. All inputs are in the store.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// What is built.
    pub plan: &'a Plan,
    /// Where inputs and stage outputs lie.
    pub store: &'a Store,
    /// Where progress is shown.
    pub ui: &'a Ui,
}

impl Build<'_> {
    fn tools(&self) -> Tools {
        Tools::new(&self.store.stage("tools", &self.plan.keys.tools))
    }

    fn signed(&self) -> Tools {
        Tools::new(&self.store.stage("tools", &self.plan.keys.signed))
    }

    /// Builds into `out`, or finds the image there already. Whatever stops it, `out` never holds
    /// half an image.
    ///
    /// # Errors
    /// A stage fails; the error names it.
    pub fn run(&self, out: &Path) -> Result<Manifest> {
        fs::create_dir_all(out)?;
        let paths = Paths::new(out, &self.plan.id);
        let _lock = self.store.stage_lock("image", &self.plan.keys.image, self.ui)?;
        if let Some(manifest) = self.present(&paths)? {
            self.say(STAGES.len() + 1, "image", "present, nothing to do");
            self.again(&paths)?;
            return Ok(manifest);
        }
        node::files::sweep(out);
        self.stages().map_err(|error| damage::explain(error, self.plan, self.store))?;
        let start = Instant::now();
        let manifest = self.image(&paths).context("stage image failed")?;
        self.say(STAGES.len() + 1, "image", &format!("made, {}", since(start)));
        self.record()?;
        Ok(manifest)
    }

    /// Runs or reuses every stage before the image.
    ///
    /// # Errors
    /// A stage fails; the error names it.
    pub fn stages(&self) -> Result<()> {
        for (i, stage) in STAGES.iter().enumerate() {
            self.stage(i + 1, stage).with_context(|| format!("stage {} failed", stage.name))?;
        }
        Ok(())
    }

    fn stage(&self, number: usize, stage: &Stage) -> Result<()> {
        let key = (stage.key)(self.plan);
        let _lock = self.store.stage_lock(stage.name, &key, self.ui)?;
        if self.store.stage(stage.name, &key).exists() {
            self.say(number, stage.name, &format!("reused, key {} unchanged", key.short(12)));
            return Ok(());
        }
        self.say(
            number,
            stage.name,
            &format!("{}: no output for key {} yet", stage.what, key.short(12)),
        );
        let start = Instant::now();
        let temp = self.store.temp_dir(stage.name)?;
        (stage.make)(self, temp.path())?;
        let inputs = (stage.inputs)(self.plan).into_iter().map(|(name, d)| (name, d.to_string()));
        self.store.commit_stage(stage.name, &key, temp, &inputs.collect::<Vec<_>>())?;
        self.say(number, stage.name, &format!("made, {}", since(start)));
        Ok(())
    }

    fn say(&self, number: usize, name: &str, text: &str) {
        self.ui.line(format!("stage {number}/{} {name}: {text}", STAGES.len() + 1));
    }

    fn present(&self, paths: &Paths) -> Result<Option<Manifest>> {
        if !paths.manifest.exists() || !paths.qcow2.exists() {
            return Ok(None);
        }
        let manifest = Manifest::load(&paths.manifest)?;
        let size = fs::metadata(&paths.qcow2)?.len();
        Ok((manifest.key == self.plan.keys.image && size == manifest.qcow2.bytes)
            .then_some(manifest))
    }

    /// An image that was there already is from now on the newest of its profile, as one made now
    /// would be; and what boots it, the tools, is there again where the cache was emptied.
    fn again(&self, paths: &Paths) -> Result<()> {
        let tools = &STAGES[0];
        if !self.store.stage(tools.name, &(tools.key)(self.plan)).exists() {
            self.stage(1, tools).with_context(|| format!("stage {} failed", tools.name))?;
        }
        let touched = fs::OpenOptions::new().append(true).open(&paths.manifest);
        touched.and_then(|file| file.file().set_modified(std::time::SystemTime::now()))?;
        self.record()
    }

    /// The last stage: overlay, disk, manifest. Its files come from a folder inside `out`, so that
    /// each appears by one rename; the manifest comes last.
    fn image(&self, paths: &Paths) -> Result<Manifest> {
        let plan = self.plan;
        let base = self.store.stage("base", &plan.keys.base);
        let k3s_stage = self.store.stage("k3s", &plan.keys.k3s);
        let facts = base::Facts::load(&base)?;
        let identity = overlay::identity(&plan.id, assemble::root_uuid(&plan.keys.image));
        let mut overlay = overlay::render(&plan.trees, &plan.facts, &identity, &facts.os_release)?;
        // The base was compared with the lock, so that this is also what dpkg says.
        let packages = plan.base.packages.iter().map(|p| (p.name.clone(), p.version.clone()));
        let packages = packages.collect();
        let config = plan.facts.node_config(&plan.id, &plan.cluster);
        let firstboot = (plan.firstboot.0.as_path(), &plan.firstboot.1);
        overlay::add_own(&mut overlay, firstboot, &config, &packages, &identity)?;
        if let Some(bundle) = &plan.bundle {
            for (path, bytes) in crate::bundle::pack(bundle, self.store)? {
                overlay.file(&format!("{}/{path}", node::bundle::FOLDER), bytes, 0o644)?;
            }
        }
        let scan = scan::tarball(&overlay)?.plus(facts.scan).plus(k3s::scanned(&k3s_stage)?);
        let payload = k3s::payload(self.store, plan, &k3s_stage)?;
        let parts = assemble::Parts {
            base: &base,
            facts: &facts,
            payload: &payload,
            overlay: &overlay,
            loader: &self.store.stage("loader", &plan.keys.loader),
            key: &plan.keys.image,
            epoch: plan.image.source_date_epoch,
        };
        let temp = self.store.temp_dir("image")?;
        let disk = assemble::make(&parts, plan.profile.vm.disk, temp.path())?;
        let manifest = Manifest::new(plan, &disk, facts.bytes, scan);
        publish(&temp.path().join("image.qcow2"), &paths.qcow2)?;
        let json = |value: &serde_json::Value| serde_json::to_vec_pretty(value);
        node::files::write_atomic(&paths.sbom, &json(&manifest::sbom(plan))?, 0o644)?;
        let text = serde_json::to_vec_pretty(&manifest)?;
        node::files::write_atomic(&paths.manifest, &text, 0o644)?;
        Ok(manifest)
    }

    /// Tells the store what this image uses, so that garbage collection keeps it.
    fn record(&self) -> Result<()> {
        let plan = self.plan;
        let sets = [&plan.base, &plan.tools, &plan.signed];
        let packages = sets.into_iter().flat_map(|s| &s.packages).map(|p| p.sha256);
        let artifacts = plan.artifacts().map(|a| a.sha256);
        let objects: Vec<Digest> = packages.chain(artifacts).collect();
        let mut stages: Vec<_> =
            STAGES.iter().map(|s| (s.name.to_owned(), (s.key)(plan))).collect();
        stages.push(pool_stage(&plan.base));
        self.store.record_use(&plan.id.to_string(), &objects, &stages)
    }
}

/// Moves a finished, synced file to where people look for it; copies where that is another file
/// system.
fn publish(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Ok(()) => node::files::sync_folder_of(to),
        Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
            let temp = node::files::temp_beside(to);
            let copied = fs::copy(from, &temp).and_then(|_| fs::File::open(&temp)?.sync_all());
            if let Err(e) = copied.and_then(|()| fs::rename(&temp, to)) {
                let _ = fs::remove_file(&temp); // the copy's error is the one to tell
                return Err(e.into());
            }
            node::files::sync_folder_of(to)
        }
        Err(e) => Err(e.into()),
    }
}
