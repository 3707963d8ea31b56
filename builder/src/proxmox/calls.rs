//! The calls that read, as types: only what is used of each reply.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::client::Client;
use super::error::{Class, Error};
use super::parse;
use super::transport::{Method, Request};

/// Version of Proxmox VE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Such as `9.2.4`.
    pub text: String,
    /// Major and minor.
    pub number: (u32, u32),
}

/// A host of the cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct Host {
    /// Its name.
    pub node: String,
    /// `online`, `offline`, or `unknown` without the right to see it.
    #[serde(default)]
    pub status: String,
}

/// A storage as one host sees it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Storage {
    /// Its name.
    pub storage: String,
    /// `dir`, `lvmthin`, `zfspool`, …
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What may lie on it, with `,` between.
    #[serde(default)]
    pub content: String,
    /// Whether it works right now.
    #[serde(default, deserialize_with = "parse::flag")]
    pub active: bool,
    /// Whether it may be used.
    #[serde(default, deserialize_with = "parse::flag")]
    pub enabled: bool,
    /// Whether all hosts see the same.
    #[serde(default, deserialize_with = "parse::flag")]
    pub shared: bool,
    /// Free bytes.
    #[serde(default, deserialize_with = "parse::number")]
    pub avail: u64,
}

impl Storage {
    /// Whether `content`, such as `import`, may lie on it.
    pub fn holds(&self, content: &str) -> bool {
        parse::list(&self.content).iter().any(|c| c == content)
    }

    /// Whether disks are files, which have a format.
    pub fn is_files(&self) -> bool {
        ["dir", "nfs", "cifs", "glusterfs", "btrfs", "cephfs"].contains(&self.kind.as_str())
    }
}

/// Something on a storage.
#[derive(Debug, Clone, Deserialize)]
pub struct Volume {
    /// Such as `local:import/worker-3f9c2a71b0de.qcow2`.
    pub volid: String,
    /// Bytes.
    #[serde(default, deserialize_with = "parse::number")]
    pub size: u64,
    /// The VM it belongs to; 0: none.
    #[serde(default, deserialize_with = "parse::number")]
    pub vmid: u64,
}

/// A VM or template in the list of the whole cluster. Name and status may be some seconds old.
#[derive(Debug, Clone, Deserialize)]
pub struct VmEntry {
    /// Its number.
    #[serde(deserialize_with = "parse::number")]
    pub vmid: u64,
    /// The host it lies on.
    #[serde(default)]
    pub node: String,
    /// Its name; empty while it is not known yet.
    #[serde(default)]
    pub name: String,
    /// Its tags with `;` between.
    #[serde(default)]
    pub tags: String,
    /// Whether it is a template.
    #[serde(default, deserialize_with = "parse::flag")]
    pub template: bool,
    /// `running`, `stopped`, `unknown`.
    #[serde(default)]
    pub status: String,
    /// Name of its lock; empty: none.
    #[serde(default, deserialize_with = "parse::word")]
    pub lock: String,
    /// `qemu` or `lxc`, which share the numbers.
    #[serde(default, rename = "type")]
    pub kind: String,
}

impl VmEntry {
    /// Its tags.
    pub fn tags(&self) -> BTreeSet<String> {
        parse::list(&self.tags).into_iter().collect()
    }

    /// Its number.
    pub const fn id(&self) -> u32 {
        self.vmid as u32
    }
}

/// A VM's configuration: every value as text, by its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config(pub BTreeMap<String, String>);

impl Config {
    /// A value; empty where there is none.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// Its tags.
    pub fn tags(&self) -> BTreeSet<String> {
        parse::list(self.get("tags")).into_iter().collect()
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        parse::flag_of(self.get("template"))
    }

    /// When it was made, in seconds since 1970; 0 when it does not say.
    pub fn made_at(&self) -> u64 {
        let meta = self.get("meta").split(',');
        meta.filter_map(|part| part.strip_prefix("ctime="))
            .map(parse::number_of)
            .next()
            .unwrap_or(0)
    }
}

/// What a VM is doing right now.
#[derive(Debug, Clone, Deserialize)]
pub struct Current {
    /// `running` or `stopped`.
    #[serde(default)]
    pub status: String,
    /// Name of its lock; empty: none.
    #[serde(default, deserialize_with = "parse::word")]
    pub lock: String,
    /// Seconds since it was started.
    #[serde(default, deserialize_with = "parse::number")]
    pub uptime: u64,
}

impl Client {
    /// `GET /version`
    ///
    /// # Errors
    /// As [`Client::call`], here and below.
    pub fn version(&self) -> Result<Version, Error> {
        let request = get("/version");
        let text = parse::table(&self.call(&request)?).remove("version").unwrap_or_default();
        let mut parts = text.split(['.', '-']).map(|part| part.parse().ok());
        let (major, minor) = (parts.next().flatten(), parts.next().flatten());
        let Some(major) = major else {
            let what = format!("`{text}` is no version of Proxmox VE");
            return Err(Error::new(Class::Unsupported, request.name(), what));
        };
        Ok(Version { number: (major, minor.unwrap_or(0)), text })
    }

    /// `GET /nodes`
    pub fn hosts(&self) -> Result<Vec<Host>, Error> {
        self.read(&get("/nodes"))
    }

    /// The token's own privileges at `path`, with what it has from above: `GET
    /// /access/permissions`. Always allowed.
    pub fn privileges(&self, path: &str) -> Result<BTreeSet<String>, Error> {
        let request = get("/access/permissions").with("path", path);
        let all = self.call(&request)?;
        let own = all.get(path).map(parse::table).unwrap_or_default();
        // The value says whether it is handed down, not whether it is there.
        Ok(own.into_keys().collect())
    }

    /// Storages as a host sees them; those without a right on them are left out.
    pub fn storages(&self, node: &str) -> Result<Vec<Storage>, Error> {
        self.read(&get(format!("/nodes/{node}/storage")))
    }

    /// What of this kind lies on a storage.
    pub fn volumes(&self, node: &str, storage: &str, kind: &str) -> Result<Vec<Volume>, Error> {
        self.read(&get(format!("/nodes/{node}/storage/{storage}/content")).with("content", kind))
    }

    /// Every VM, template and container the token may see. Without `VM.Audit` the list is empty
    /// instead of an error: see [`Client::privileges`] first.
    pub fn vms(&self) -> Result<Vec<VmEntry>, Error> {
        self.read(&get("/cluster/resources").with("type", "vm"))
    }

    /// A VM's configuration as it will be at its next start.
    pub fn config(&self, node: &str, vmid: u32) -> Result<Config, Error> {
        let value = self.call(&get(format!("/nodes/{node}/qemu/{vmid}/config")))?;
        Ok(Config(parse::table(&value)))
    }

    /// The same, or `None` when there is no such VM on that host. A token whose rights hang on a pool
    /// is refused there, as what does not exist is in no pool: that is `None` too.
    pub fn find_config(&self, node: &str, vmid: u32) -> Result<Option<Config>, Error> {
        match self.config(node, vmid) {
            Ok(config) => Ok(Some(config)),
            Err(e) if matches!(e.class, Class::NotFound | Class::Permission) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What a VM is doing.
    pub fn current(&self, node: &str, vmid: u32) -> Result<Current, Error> {
        self.read(&get(format!("/nodes/{node}/qemu/{vmid}/status/current")))
    }

    /// Whether nobody has this number, seen by the token or not.
    pub fn is_free(&self, vmid: u32) -> Result<bool, Error> {
        match self.call(&get("/cluster/nextid").with("vmid", &vmid)) {
            Ok(_) => Ok(true),
            Err(e) if e.class == Class::IdTaken => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Whether the storage of a VM can make linked clones of it.
    pub fn can_link(&self, node: &str, vmid: u32) -> Result<bool, Error> {
        let path = format!("/nodes/{node}/qemu/{vmid}/feature");
        let reply = parse::table(&self.call(&get(path).with("feature", "clone"))?);
        Ok(reply.get("hasFeature").is_some_and(|text| parse::flag_of(text)))
    }

    /// Free bytes of a host's own disk, where uploads lie first. Needs `Sys.Audit` on the host.
    pub fn root_space(&self, node: &str) -> Result<u64, Error> {
        let status = self.call(&get(format!("/nodes/{node}/status")))?;
        let avail = status.get("rootfs").and_then(|root| root.get("avail"));
        Ok(avail.and_then(parse::text).map_or(0, |text| parse::number_of(&text)))
    }

    /// Whether the guest's agent answers.
    pub fn agent_answers(&self, node: &str, vmid: u32) -> Result<bool, Error> {
        match self
            .call(&Request::new(Method::Post, format!("/nodes/{node}/qemu/{vmid}/agent/ping")))
        {
            Ok(_) => Ok(true),
            Err(e) if e.class == Class::AgentNotReady => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The guest's addresses by its agent, as Proxmox gives them.
    pub fn agent_interfaces(&self, node: &str, vmid: u32) -> Result<Value, Error> {
        self.call(&get(format!("/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces")))
    }
}

fn get(path: impl Into<String>) -> Request {
    Request::new(Method::Get, path)
}
