//! A cluster that guests of QEMU join: its server is a node too, and is found at the address that
//! cluster.toml gives the API.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::annotations::{SNAPSHOT_DONE, SNAPSHOT_REQUEST};
use node::command::Run as _;

use super::{Cluster, LIMIT, SERVER};
use crate::lab::{names, repository, sha256};

/// Where K3s keeps its snapshots on the server.
const SNAPSHOTS: &str = "var/lib/rancher/k3s/server/db/snapshots";

impl Cluster {
    /// Starts it. This host's way to the API's address leads to the server then: it takes a network of the
    /// test's own.
    ///
    /// # Errors
    /// As [`Cluster::without_nodes`], or the server's Node does not become Ready in time.
    pub fn for_guests() -> Result<Self> {
        let text = fs::read_to_string(repository().join("cluster/cluster.toml"))?;
        let api = text.lines().find_map(|line| line.strip_prefix("api = "));
        let api: Ipv4Addr = api.context("cluster.toml has no `api`")?.trim_matches('"').parse()?;
        let mut this = Self::started(Some(api))?;
        this.lan.also(this.server.pid(), api)?;
        this.until("Ready of the server", LIMIT, |this| {
            let path = "{.status.conditions[?(@.type=='Ready')].status}";
            let found = this.field(&format!("node/{SERVER}"), path)?;
            ensure!(found == "True", "{SERVER} is Ready: {found:?}");
            Ok(())
        })?;
        Ok(this)
    }

    /// What `firstboot watch` does on a server: answers who asks for a snapshot with one that K3s makes,
    /// but for the way to NFS. Whether somebody had asked.
    ///
    /// # Errors
    /// K3s makes none, or the API does not take the answer.
    pub fn answer_snapshot(&self) -> Result<bool> {
        let mark = |key: &str| {
            let key = key.replace('.', "\\.");
            self.field(&format!("node/{SERVER}"), &format!("{{.metadata.annotations.{key}}}"))
        };
        let request = mark(SNAPSHOT_REQUEST)?;
        if request.is_empty() || mark(SNAPSHOT_DONE)?.split(' ').next() == Some(request.as_str()) {
            return Ok(false);
        }
        self.server.inside(&["etcd-snapshot", "save", "--name", "e2e"])?.run()?;
        let folder = self.server.path(SNAPSHOTS);
        let file = names(&folder)?.into_iter().rfind(|name| name.starts_with("e2e-"));
        let file = file.context("K3s said that it took a snapshot, and there is none")?;
        let answer = format!("{SNAPSHOT_DONE}={request} {file} {}", sha256(&folder.join(&file))?);
        self.kubectl(&["annotate", "--overwrite", "node", SERVER, &answer])?;
        Ok(true)
    }
}
