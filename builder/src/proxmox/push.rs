//! `builder push`: a boot-tested image becomes a template on each host that needs it. Every step asks
//! first whether it is done, so a second run does nothing, and one that was cut off is gone on with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::calls::Storage;
use super::client::Client;
use super::error::{Class, Error};
use super::inventory::{Inventory, Template};
use super::settings::Wanted;
use super::transport::Upload;
use super::upload::Uploaded;
use super::{prune, tags};
use crate::boot::plan::Expect;
use crate::boot::{Verdict, verdict};
use crate::config::{Cluster, Profile};
use crate::image::Manifest;
use crate::store::hash_file;
use crate::ui::Ui;

/// An image that may be pushed: whole, and its boot test passed.
#[derive(Debug)]
pub struct Tested {
    /// The file.
    pub file: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// How its boot went.
    pub verdict: Verdict,
}

impl Tested {
    /// Holds `file` against its manifest and its recorded boot.
    ///
    /// # Errors
    /// It was not boot-tested, is not the file that was, or is a stand-in.
    pub fn load(file: &Path, allow_standin: bool, ui: &Ui) -> Result<Self> {
        let manifest = Manifest::beside(file)?;
        let id = &manifest.image_id;
        ensure!(
            !id.is_standin() || allow_standin,
            "{id} holds the stand-in for K3s, which is for tests: it is never pushed; build it from \
             a lock with the real release (`builder lock`)"
        );
        let path = verdict::path_for(file);
        let again = format!("run `builder boot {}`", file.display());
        if !path.exists() {
            bail!("{id} was not boot-tested, and only a tested image is pushed; {again}");
        }
        let verdict: Verdict =
            serde_json::from_slice(&fs_err::read(&path)?).with_context(|| {
                format!("{} is no verdict of this version; {again}", path.display())
            })?;
        ensure!(
            verdict.passed && !verdict.sabotaged && verdict.expect == Expect::Ready,
            "the recorded boot of {id} did not end with a Node that is Ready; {again}"
        );
        ensure!(
            verdict.image_id.as_ref() == Some(id) && verdict.digest == manifest.qcow2.sha256,
            "the recorded boot is that of another file than the manifest of {id}; {again}"
        );
        ui.line(format!("checking {}", file.display()));
        let (digest, _) = hash_file(file)?;
        ensure!(
            digest == manifest.qcow2.sha256,
            "{} is not the file its manifest describes: sha256 {digest}, manifest {}; remove \
             it and build the image again",
            file.display(),
            manifest.qcow2.sha256
        );
        Ok(Self { file: file.to_owned(), manifest, verdict })
    }

    /// Name of the upload: it carries the image-id, and so the content.
    pub fn upload_name(&self) -> String {
        upload_name(&self.manifest.image_id.to_string())
    }

    /// What a person reads beside the template.
    pub fn description(&self) -> String {
        let m = &self.manifest;
        let v = &self.verdict;
        format!(
            "Node image {}\n\nK3s {}, {}, {} packages\nbuild key {}\nqcow2 sha256 {}\nboot test: \
             {} on {}, Ready after {:.0} s\nmade by node-image-builder {}; do not change: build a \
             new image instead",
            m.image_id,
            m.k3s_version,
            m.image,
            m.root.packages,
            m.key,
            m.qcow2.sha256,
            v.firmware,
            v.accel,
            v.seconds,
            env!("CARGO_PKG_VERSION"),
        )
    }
}

fn upload_name(image: &str) -> String {
    format!("{image}.qcow2")
}

/// What was done on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// The host.
    pub host: String,
    /// Number of the template.
    pub vmid: u32,
    /// Whether it was made now, or stood there.
    pub made: bool,
    /// Whether the file was sent now.
    pub uploaded: bool,
    /// Old templates that were removed.
    pub pruned: Vec<u32>,
    /// Old templates that stay, with the reason.
    pub kept: BTreeMap<u32, String>,
}

/// One push.
#[derive(Debug)]
pub struct Push<'a> {
    /// Proxmox.
    pub client: &'a Client,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The profile whose image it is.
    pub profile: &'a Profile,
    /// The image.
    pub image: &'a Tested,
    /// Whether old templates go.
    pub prune: bool,
}

impl Push<'_> {
    /// Makes the template on `host`, then removes old ones.
    ///
    /// # Errors
    /// A call failed for good; what was done stays and the next run goes on from there.
    pub fn to(&self, host: &str) -> Result<Pushed> {
        let inventory = Inventory::read(self.client, self.cluster)?;
        let id = &self.image.manifest.image_id;
        ensure!(
            !inventory.is_quarantined(id),
            "{id} is quarantined, as `builder quarantine ls` shows: a node made of it did not become \
             healthy, or somebody said so; build another image, or where it is not to blame `builder \
             quarantine lift {id}`"
        );
        let whole = inventory.whole(self.cluster, host);
        let found = whole.into_iter().find(|t| t.image.as_ref() == Some(id)).map(|t| t.vmid);
        let (vmid, uploaded) = match found {
            Some(vmid) => {
                self.client.ui().line(format!("{id} is template {vmid} on {host} already"));
                (vmid, false)
            }
            None => self.make(&inventory, host)?,
        };
        let mut pushed = Pushed {
            host: host.to_owned(),
            vmid,
            made: found.is_none(),
            uploaded,
            pruned: Vec::new(),
            kept: BTreeMap::new(),
        };
        if self.prune {
            self.prune_old(host, &mut pushed)?;
        }
        Ok(pushed)
    }

    /// From whatever is there to a template; its number, and whether the file was sent.
    fn make(&self, inventory: &Inventory, host: &str) -> Result<(u32, bool)> {
        let (vmid, uploaded) = match self.unfinished(inventory, host) {
            Some(vmid) => {
                self.client.ui().line(format!("going on with the unfinished VM {vmid} on {host}"));
                (vmid, false)
            }
            None => self.create(inventory, host)?,
        };
        let disk = self.profile.vm.disk.bytes();
        self.client.grow(host, vmid, "scsi0", disk)?;
        self.tag(host, vmid)?;
        if !self.client.config(host, vmid)?.is_template() {
            self.client.make_template(host, vmid)?;
        }
        self.client
            .ui()
            .line(format!("{} is template {vmid} on {host}", self.image.manifest.image_id));
        Ok((vmid, uploaded))
    }

    /// A VM of an earlier run that was cut off: it has the image's name, and is not whole.
    fn unfinished(&self, inventory: &Inventory, host: &str) -> Option<u32> {
        let name = self.image.manifest.image_id.to_string();
        let mut found = None;
        let own = inventory.templates.iter().filter(|t| t.host == host);
        for template in own.filter(|t| t.config.get("name") == name) {
            let lock = template.config.get("lock");
            if lock.is_empty() {
                found = found.or(Some(template.vmid));
                continue;
            }
            let (place, vmid) = (template.place(), template.vmid);
            self.client.ui().warn(format!(
                "VM {place} is a half-made template with the lock `{lock}`, which no token can \
                 remove: as root on {host} run `qm unlock {vmid} && qm destroy {vmid}`; another \
                 number is taken meanwhile"
            ));
        }
        found
    }

    fn create(&self, inventory: &Inventory, host: &str) -> Result<(u32, bool)> {
        let place = self.cluster.proxmox.on(host);
        let storage = self.storage(host, &place.storage)?;
        let upload = self.upload(host)?;
        let sent = self.client.upload(&upload)?;
        if sent == Uploaded::Found {
            self.client.ui().line(format!("{} is on {host} already", upload.volume()));
        }
        let description = self.image.description();
        let wanted = Wanted {
            vm: &self.profile.vm,
            firmware: self.image.verdict.firmware,
            bridge: &self.cluster.proxmox.bridge,
            storage: &storage,
            import: &upload.volume(),
            pool: self.cluster.proxmox.pool.as_deref(),
            description: &description,
        };
        let vmid = self.create_at_a_free_number(inventory, host, &wanted)?;
        Ok((vmid, sent == Uploaded::Sent))
    }

    /// The upload of the image to a host.
    ///
    /// # Errors
    /// The file is gone.
    pub fn upload(&self, host: &str) -> Result<Upload> {
        let place = self.cluster.proxmox.on(host);
        Ok(Upload {
            endpoint: place.endpoint.clone(),
            node: host.to_owned(),
            storage: place.import_storage.clone(),
            content: "import",
            name: self.image.upload_name(),
            file: self.image.file.clone(),
            bytes: fs_err::metadata(&self.image.file)?.len(),
            sha256: self.image.manifest.qcow2.sha256,
        })
    }

    fn storage(&self, host: &str, name: &str) -> Result<Storage> {
        let all = self.client.storages(host)?;
        all.into_iter().find(|s| s.storage == name).with_context(|| {
            format!("the token sees no storage `{name}` on {host}; run `builder preflight`")
        })
    }

    /// Others take numbers too, and some VMs are not seen: the next one then.
    fn create_at_a_free_number(
        &self,
        inventory: &Inventory,
        host: &str,
        wanted: &Wanted<'_>,
    ) -> Result<u32> {
        let name = self.image.manifest.image_id.to_string();
        let settings = wanted.settings();
        let taken = |id: &u32| inventory.vms.iter().any(|vm| vm.id() == *id);
        for vmid in self.cluster.proxmox.template_ids().filter(|id| !taken(id)) {
            if !self.client.is_free(vmid)? {
                continue;
            }
            self.client.ui().line(format!("making VM {vmid} on {host} of {}", wanted.import));
            match self.client.create(host, vmid, &name, &settings) {
                Ok(_) => return Ok(vmid),
                Err(e) if e.class == Class::IdTaken => {}
                Err(e) => return Err(e.into()),
            }
        }
        let (first, last) = self.cluster.proxmox.templates;
        bail!("no number from {first} to {last} is free; widen proxmox.templates in cluster.toml")
    }

    /// By a call of its own: with `pool` in the call that makes the VM, tags are refused.
    fn tag(&self, host: &str, vmid: u32) -> Result<(), Error> {
        let manifest = &self.image.manifest;
        let (id, k3s) = (&manifest.image_id, manifest.k3s_version.as_str());
        let wanted = tags::of_template(&self.cluster.name, id, k3s);
        if self.client.config(host, vmid)?.tags().is_superset(&wanted) {
            return Ok(());
        }
        let tags = [("tags".to_owned(), tags::text(&wanted))];
        self.client.set_config(host, vmid, &tags, &[]).map(|_| ())
    }

    fn prune_old(&self, host: &str, pushed: &mut Pushed) -> Result<()> {
        let inventory = Inventory::read(self.client, self.cluster)?;
        let current = inventory.whole(self.cluster, host).find(|t| t.vmid == pushed.vmid).cloned();
        let current = current.context("the template that was just made is gone")?;
        for (old, stays) in prune::judge(&inventory, self.cluster, host, &current) {
            match stays {
                Some(why) => {
                    pushed.kept.insert(old.vmid, why);
                }
                None => match self.remove(old) {
                    Ok(()) => pushed.pruned.push(old.vmid),
                    Err(e) if e.class == Class::InUse => {
                        pushed.kept.insert(old.vmid, "a linked clone stands on it".to_owned());
                    }
                    Err(e) => return Err(e).context("failed to remove an old template"),
                },
            }
        }
        Ok(())
    }

    /// The template, then the upload it was made of, where no other host's template needs it.
    fn remove(&self, old: &Template) -> Result<(), Error> {
        let client = self.client;
        client.ui().line(format!("removing the old template {}", old.place()));
        client.delete_vm(&old.host, old.vmid)?;
        let Some(image) = &old.image else { return Ok(()) };
        let storage = &self.cluster.proxmox.on(&old.host).import_storage;
        let volid = format!("{storage}:import/{}", upload_name(&image.to_string()));
        let there = client.volumes(&old.host, storage, "import")?;
        if there.iter().any(|volume| volume.volid == volid) {
            client.delete_volume(&old.host, storage, &volid)?;
        }
        Ok(())
    }
}
