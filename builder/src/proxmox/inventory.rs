//! What stands in Proxmox of one cluster: templates, whole and unfinished, and what was made of them.

use std::collections::BTreeSet;

use node::image_id::ImageId;

use super::calls::{Config, VmEntry};
use super::client::Client;
use super::error::Error;
use super::tags;
use crate::config::Cluster;

/// A VM among the templates' numbers.
#[derive(Debug, Clone)]
pub struct Template {
    /// The host it lies on.
    pub host: String,
    /// Its number.
    pub vmid: u32,
    /// Its configuration.
    pub config: Config,
    /// The image it was made of; `None`: its tags do not say.
    pub image: Option<ImageId>,
}

impl Template {
    /// Whether everything was done to it.
    pub fn is_whole(&self, cluster: &Cluster) -> bool {
        let tags = self.config.tags();
        self.config.is_template() && self.image.is_some() && tags::is_of(&tags, &cluster.name)
    }

    /// Whether its image proved bad.
    pub fn is_quarantined(&self) -> bool {
        self.config.tags().contains(tags::QUARANTINED)
    }

    /// `9000 on pve1`, for messages.
    pub fn place(&self) -> String {
        format!("{} on {}", self.vmid, self.host)
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Everything among the templates' numbers, this cluster's or not, the newest first.
    pub templates: Vec<Template>,
    /// Every VM and container the token sees.
    pub vms: Vec<VmEntry>,
    /// Hosts whose configurations cannot be read now.
    pub offline: BTreeSet<String>,
}

impl Inventory {
    /// Reads it. The list of the cluster is late with names and templates, so each configuration
    /// among the templates' numbers is read.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn read(client: &Client, cluster: &Cluster) -> Result<Self, Error> {
        let vms = client.vms()?;
        let hosts = client.hosts()?.into_iter().filter(|host| host.status == "offline");
        let offline: BTreeSet<_> = hosts.map(|host| host.node).collect();
        let range = cluster.proxmox.template_ids();
        let mut templates = Vec::new();
        let there = |vm: &&VmEntry| vm.kind != "lxc" && !offline.contains(&vm.node);
        for vm in vms.iter().filter(there).filter(|vm| range.contains(&vm.id())) {
            // One that is gone meanwhile is not there.
            let Some(config) = client.find_config(&vm.node, vm.id())? else { continue };
            let image = tags::image(&config.tags());
            templates.push(Template { host: vm.node.clone(), vmid: vm.id(), config, image });
        }
        templates.sort_by_key(|t| std::cmp::Reverse((t.config.made_at(), t.vmid)));
        Ok(Self { templates, vms, offline })
    }

    /// VMs whose configuration can be read.
    pub fn readable(&self) -> impl Iterator<Item = &VmEntry> {
        self.vms.iter().filter(|vm| vm.kind != "lxc" && !self.offline.contains(&vm.node))
    }

    /// Whole templates of this cluster on a host, the newest first.
    pub fn whole<'a>(
        &'a self,
        cluster: &'a Cluster,
        host: &'a str,
    ) -> impl Iterator<Item = &'a Template> {
        self.templates.iter().filter(move |t| t.host == host && t.is_whole(cluster))
    }

    /// VMs of this cluster made of an image, on any host.
    pub fn made_of<'a>(&'a self, image: &'a ImageId) -> impl Iterator<Item = &'a VmEntry> {
        let templates: BTreeSet<u32> = self.templates.iter().map(|t| t.vmid).collect();
        self.vms.iter().filter(move |vm| {
            !templates.contains(&vm.id()) && tags::image(&vm.tags()).as_ref() == Some(image)
        })
    }

    /// What to know of images that are newer than every good one of their profile, and bad: nodes stay
    /// on what they have, and somebody may wonder why.
    pub fn passed_over(&self, cluster: &Cluster) -> BTreeSet<String> {
        let profiles: BTreeSet<_> = cluster.nodes.iter().map(|n| n.profile.as_str()).collect();
        let newer = profiles.into_iter().flat_map(|profile| {
            let whole = self.templates.iter().filter(|t| t.is_whole(cluster));
            let images = whole.filter_map(|t| t.image.as_ref());
            let images = images.filter(move |image| image.profile().as_str() == profile);
            images.take_while(|image| self.is_quarantined(image))
        });
        newer
            .map(|image| {
                format!("{image} is newer and quarantined; `builder quarantine ls` says why")
            })
            .collect()
    }

    /// Tags all whole templates of an image as bad, or takes the tags away; those that were changed.
    ///
    /// # Errors
    /// As [`Client::call`]; the next call goes on from there.
    pub fn set_quarantined(
        &self,
        client: &Client,
        cluster: &Cluster,
        image: &ImageId,
        bad: bool,
    ) -> Result<Vec<&Template>, Error> {
        let of_image = |t: &&Template| t.image.as_ref() == Some(image) && t.is_whole(cluster);
        let all = self.templates.iter().filter(of_image);
        let changed: Vec<_> = all.filter(|t| t.is_quarantined() != bad).collect();
        for template in &changed {
            let mut all = template.config.tags();
            all.remove(tags::QUARANTINED);
            all.extend(bad.then(|| tags::QUARANTINED.to_owned()));
            let tags = [("tags".to_owned(), tags::text(&all))];
            client.set_config(&template.host, template.vmid, &tags, &[])?;
        }
        Ok(changed)
    }

    /// Whether an image was found bad on any host.
    pub fn is_quarantined(&self, image: &ImageId) -> bool {
        self.templates.iter().any(|t| t.image.as_ref() == Some(image) && t.is_quarantined())
    }
}
