//! The calls that change something. Each knows how to tell, after a lost answer, whether it had its
//! effect, and so can be called again after anything: what is done already is found and left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use super::calls::Config;
use super::client::{Action, Client};
use super::error::{Class, Error};
use super::parse;
use super::task::TaskEnd;
use super::transport::{Method, Request};

/// Keys of a configuration with their values, in the order they are sent.
pub type Settings = Vec<(String, String)>;

/// How a template becomes a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clone<'a> {
    /// Host and number of the template.
    pub from: (&'a str, u32),
    /// Number of the new VM.
    pub vmid: u32,
    /// Its name.
    pub name: &'a str,
    /// Pool it goes into.
    pub pool: Option<&'a str>,
    /// Storage of a full copy; `None`: a linked clone.
    pub full: Option<&'a str>,
}

impl Client {
    /// Makes a VM called `name`. Its tags need a call of their own when it goes into a pool.
    ///
    /// # Errors
    /// [`Class::IdTaken`] when the number is another VM's; else as [`Client::act`].
    pub fn create(
        &self,
        node: &str,
        vmid: u32,
        name: &str,
        settings: &[(String, String)],
    ) -> Result<TaskEnd, Error> {
        let mut request =
            post(format!("/nodes/{node}/qemu")).with("vmid", &vmid).with("name", name);
        request.params.extend(settings.iter().cloned());
        let look = |client: &Self| client.is_made(node, vmid, name);
        let task = Some(("qmcreate", vmid.to_string()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Whether a VM of this name stands there, whole: nothing works on it any more.
    fn is_made(&self, node: &str, vmid: u32, name: &str) -> Result<bool, Error> {
        let config = self.find_config(node, vmid)?;
        Ok(config.is_some_and(|c| c.get("name") == name && c.get("lock").is_empty()))
    }

    /// Makes a VM of a template.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub fn clone_vm(&self, clone: &Clone<'_>) -> Result<TaskEnd, Error> {
        let (node, source) = clone.from;
        let mut request = post(format!("/nodes/{node}/qemu/{source}/clone"))
            .with("newid", &clone.vmid)
            .with("name", clone.name);
        if let Some(pool) = clone.pool {
            request = request.with("pool", pool);
        }
        if let Some(storage) = clone.full {
            request = request.with("full", &1).with("storage", storage);
        }
        let look = |client: &Self| client.is_made(node, clone.vmid, clone.name);
        let task = Some(("qmclone", source.to_string()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Sets values of a configuration; `delete` names keys that go. Waits until they stand there, for
    /// a running VM as pending ones.
    ///
    /// # Errors
    /// As [`Client::act`].
    pub fn set_config(
        &self,
        node: &str,
        vmid: u32,
        settings: &[(String, String)],
        delete: &[&str],
    ) -> Result<TaskEnd, Error> {
        let mut request = post(format!("/nodes/{node}/qemu/{vmid}/config"));
        request.params.extend(settings.iter().cloned());
        if !delete.is_empty() {
            request = request.with("delete", &delete.join(","));
        }
        let look = |client: &Self| {
            let config = client.config(node, vmid)?;
            Ok(settings.iter().all(|(key, value)| is_set(&config, key, value))
                && delete.iter().all(|key| config.get(key).is_empty()))
        };
        let task = Some(("qmconfig", vmid.to_string()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Turns a stopped VM into a template.
    ///
    /// # Errors
    /// As [`Client::act`].
    pub fn make_template(&self, node: &str, vmid: u32) -> Result<TaskEnd, Error> {
        let request = post(format!("/nodes/{node}/qemu/{vmid}/template"));
        let look = |client: &Self| {
            let config = client.config(node, vmid)?;
            Ok(config.is_template() && config.get("lock").is_empty())
        };
        let task = Some(("qmtemplate", vmid.to_string()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Lets a disk grow to `bytes`, rounded up to whole MiB; one that is as large is left alone.
    ///
    /// # Errors
    /// As [`Client::act`]; disks never shrink.
    pub fn grow(&self, node: &str, vmid: u32, disk: &str, bytes: u64) -> Result<TaskEnd, Error> {
        let mib = bytes.div_ceil(1 << 20);
        let look = |client: &Self| {
            let config = client.config(node, vmid)?;
            Ok(parse::drive_size(config.get(disk)).is_some_and(|size| size >> 20 >= mib))
        };
        if look(self)? {
            return Ok(TaskEnd::default());
        }
        let path = format!("/nodes/{node}/qemu/{vmid}/resize");
        let request =
            Request::new(Method::Put, path).with("disk", disk).with("size", &format!("{mib}M"));
        let task = Some(("resize", vmid.to_string()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Starts a VM; one that runs is left alone.
    ///
    /// # Errors
    /// As [`Client::act`].
    pub fn start(&self, node: &str, vmid: u32) -> Result<TaskEnd, Error> {
        self.power(node, vmid, "start", "running", &[])
    }

    /// Asks the guest to end, for at most `limit`; one that is off is left alone.
    ///
    /// # Errors
    /// As [`Client::act`]; a guest that does not end is one too: then [`Client::stop`].
    pub fn shutdown(&self, node: &str, vmid: u32, limit: Duration) -> Result<TaskEnd, Error> {
        let limit = ("timeout".to_owned(), limit.as_secs().to_string());
        self.power(node, vmid, "shutdown", "stopped", &[limit])
    }

    /// Cuts a VM's power, also in the middle of a shutdown.
    ///
    /// # Errors
    /// As [`Client::act`].
    pub fn stop(&self, node: &str, vmid: u32) -> Result<TaskEnd, Error> {
        let overrule = ("overrule-shutdown".to_owned(), "1".to_owned());
        self.power(node, vmid, "stop", "stopped", &[overrule])
    }

    fn power(
        &self,
        node: &str,
        vmid: u32,
        verb: &str,
        wanted: &str,
        params: &[(String, String)],
    ) -> Result<TaskEnd, Error> {
        let look = |client: &Self| Ok(client.current(node, vmid)?.status == wanted);
        if look(self)? {
            return Ok(TaskEnd::default());
        }
        let mut request = post(format!("/nodes/{node}/qemu/{vmid}/status/{verb}"));
        request.params.extend(params.iter().cloned());
        let task = Some((format!("qm{verb}"), vmid.to_string()));
        let task = task.as_ref().map(|(kind, id)| (kind.as_str(), id.clone()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Removes a stopped VM or a template with its disks; one that is not there counts as removed.
    /// Attached ISOs stay.
    ///
    /// # Errors
    /// [`Class::InUse`] for a template that linked clones stand on, where the storage can tell; else
    /// as [`Client::act`].
    pub fn delete_vm(&self, node: &str, vmid: u32) -> Result<TaskEnd, Error> {
        // Never `destroy-unreferenced-disks`: a broken storage that has nothing to do with the VM
        // then fails the task after the disks are gone.
        let path = format!("/nodes/{node}/qemu/{vmid}");
        let request = Request::new(Method::Delete, path).with("purge", &1);
        let look = |client: &Self| Ok(client.find_config(node, vmid)?.is_none());
        let task = Some(("qmdestroy", vmid.to_string()));
        match self.act(&Action { request, node, task, look: &look }) {
            Err(e)
                if matches!(e.class, Class::NotFound | Class::Permission)
                    && self.find_config(node, vmid)?.is_none() =>
            {
                Ok(TaskEnd::default())
            }
            result => result,
        }
    }

    /// Removes a volume; one that is not there counts as removed.
    ///
    /// # Errors
    /// As [`Client::act`].
    pub fn delete_volume(&self, node: &str, storage: &str, volid: &str) -> Result<TaskEnd, Error> {
        let path = format!("/nodes/{node}/storage/{storage}/content/{volid}");
        let request = Request::new(Method::Delete, path);
        let kind = volid.split_once(':').and_then(|(_, rest)| rest.split_once('/'));
        let kind = kind.map_or("images", |(kind, _)| kind);
        let look = |client: &Self| {
            let volumes = client.volumes(node, storage, kind)?;
            Ok(volumes.iter().all(|volume| volume.volid != volid))
        };
        let task = Some(("imgdel", storage.to_owned()));
        self.act(&Action { request, node, task, look: &look })
    }

    /// Writes a file in the guest by its agent, as root with mode 0666; at most 60 KiB of text. It
    /// may be written again.
    ///
    /// # Errors
    /// [`Class::AgentNotReady`] until the agent is up; else as [`Client::call`]. No message repeats
    /// the content.
    pub fn agent_write(
        &self,
        node: &str,
        vmid: u32,
        file: &str,
        content: &str,
    ) -> Result<(), Error> {
        let request = post(format!("/nodes/{node}/qemu/{vmid}/agent/file-write"))
            .with("file", file)
            .with("content", content);
        match self.call(&request) {
            Err(e) if e.class == Class::Unknown => self.call(&request).map(|_| ()),
            result => result.map(|_| ()),
        }
    }
}

fn post(path: String) -> Request {
    Request::new(Method::Post, path)
}

/// Whether a configuration says what was set. Drives and network cards come back with more in them
/// than was sent, tags in another order, a description without its end.
pub(super) fn is_set(config: &Config, key: &str, value: &str) -> bool {
    let found = config.get(key);
    match key {
        "tags" => {
            parse::list(value).into_iter().collect::<std::collections::BTreeSet<_>>()
                == config.tags()
        }
        "description" => found.trim_end() == value.trim_end(),
        _ if found == value => true,
        _ => {
            let found = properties(found);
            !found.is_empty() && properties(value).iter().all(|(k, v)| found.get(k) == Some(v))
        }
    }
}

/// `a=1,b=2` as a table; a part without `=` is a key alone, of which only the kind counts.
fn properties(text: &str) -> BTreeMap<&str, &str> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.filter_map(|part| part.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_found_in_what_comes_back() {
        let config = Config(
            [
                ("net0", "virtio=BC:24:11:42:E7:95,bridge=vmbr0"),
                ("tags", "b;a"),
                ("description", "text"),
                ("memory", "2048"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        );
        for (key, value, is) in [
            ("net0", "virtio,bridge=vmbr0", true),
            ("net0", "virtio,bridge=vmbr1", false),
            ("net0", "virtio=BC:24:11:42:E7:95,bridge=vmbr0", true),
            ("net0", "virtio=BC:24:11:42:E7:96,bridge=vmbr0", false),
            ("tags", "a;b", true),
            ("tags", "a", false),
            ("description", "text\n", true),
            ("memory", "2048", true),
            ("memory", "1024", false),
            ("cores", "2", false),
        ] {
            assert_eq!(is_set(&config, key, value), is, "{key}={value}");
        }
    }
}
