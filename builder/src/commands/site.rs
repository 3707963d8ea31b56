//! What the commands on nodes have in common: the project, Proxmox, the cluster's API, the secrets, and
//! the checks before anything is changed.

use anyhow::{Context as _, Result};
use node::config::Role;
use node::values::Hostname;

use super::Context;
use crate::cli::ClusterArgs;
use crate::config::{NodeSpec, Problems, Project};
use crate::kubernetes::{self, Kube};
use crate::life::Member;
use crate::proxmox::life::{Vms, member};
use crate::proxmox::preflight::{self, Load, Scope};
use crate::proxmox::{self, Connection};
use crate::secrets::{Escrow, Vault};

/// Everything a command on nodes works with.
#[derive(Debug)]
pub struct Site {
    /// The project.
    pub project: Project,
    /// Proxmox.
    pub connection: Connection,
    /// The cluster's API; `None`: no credentials were given.
    pub kube: Option<Kube>,
    /// The cluster's tokens and keys.
    pub escrow: Escrow,
}

impl Site {
    /// Opens all of it; asks neither Proxmox nor the cluster yet.
    ///
    /// # Errors
    /// The configuration is wrong; a token, a key or the secrets are missing; the credentials are of
    /// another cluster.
    pub fn open(ctx: &Context, args: &ClusterArgs) -> Result<Self> {
        let project = ctx.project()?;
        let connection = proxmox::connect(&project, &ctx.ui)?;
        let vault = Vault::of(&project.root)?;
        let escrow = vault.escrow()?;
        let kube = kubernetes::named(args.kubeconfig.as_deref());
        let kube = kube.map(|path| Kube::connect(&path)).transpose()?;
        if let Some(kube) = &kube {
            kube.must_be(escrow.ca_hash)?;
        }
        Ok(Self { project, connection, kube, escrow })
    }

    /// The cluster's API.
    ///
    /// # Errors
    /// No credentials were given; it says how to give them.
    pub fn kube(&self) -> Result<&Kube> {
        self.kube.as_ref().ok_or_else(kubernetes::not_named)
    }

    /// The same for a command that is about to change something there. One that was `begun` may have an
    /// API that is just being restored, and goes on looking.
    ///
    /// # Errors
    /// As [`Site::kube`], or the credentials do not fit, which waiting would not change.
    pub fn must_reach(&self, begun: bool) -> Result<()> {
        let kube = self.kube()?;
        if begun { Ok(()) } else { kube.must_fit() }
    }

    /// The nodes' VMs.
    ///
    /// # Errors
    /// The credentials cannot be read.
    pub fn vms(&self) -> Result<Vms<'_>> {
        let ca = self.kube.as_ref().map(Kube::ca_hash).transpose()?.flatten();
        Ok(Vms {
            client: &self.connection.client,
            cluster: &self.project.cluster,
            escrow: Some(&self.escrow),
            kube: self.kube.as_ref(),
            ca,
            servers: self.members().iter().filter(|m| m.role == Role::Server).count(),
        })
    }

    /// Every node of the cluster's file, as the engine knows them.
    pub fn members(&self) -> Vec<Member> {
        let nodes = self.project.cluster.nodes.iter();
        nodes.filter_map(|n| member(n, self.project.profiles.get(&n.profile)?.role)).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Problems`]: `cluster.toml` has no such node; it says which are near.
    pub fn member(&self, name: &Hostname) -> Result<Member> {
        node(&self.project, name)?;
        let found = self.members().into_iter().find(|m| m.name == *name);
        found.with_context(|| format!("the profile of {name} has no role"))
    }

    /// Runs the preflight for the hosts of these nodes; `false`, told, when something is in the way.
    pub fn is_ready(&self, ctx: &Context, members: &[Member]) -> bool {
        let mut hosts: Vec<_> = members.iter().map(|m| m.host.to_string()).collect();
        hosts.sort();
        hosts.dedup();
        let target = (&hosts[..], Load::default());
        let report = preflight::run(&self.project, &self.connection, target, Scope::All);
        let is_bad =
            |c: &&preflight::Checked| preflight::problems(std::slice::from_ref(c)).next().is_some();
        let told: Vec<_> = report.iter().filter(is_bad).cloned().collect();
        if !told.is_empty() {
            eprintln!("error: nothing was changed, as the preflight found:");
            eprint!("{}", preflight::table(&told, &ctx.ui));
        }
        told.is_empty()
    }

    /// Keeps the hash of the cluster's CA, once its API answers to these credentials: from then on
    /// others are refused, and agents' tokens name it.
    ///
    /// # Errors
    /// The secrets cannot be written.
    pub fn pin(&mut self, ctx: &Context) -> Result<()> {
        let (Some(kube), None) = (&self.kube, self.escrow.ca_hash) else { return Ok(()) };
        let Some(hash) = kube.ca_hash()? else { return Ok(()) };
        if kube.ready().is_err() {
            return Ok(());
        }
        Vault::of(&self.project.root)?.record_ca(hash)?;
        self.escrow.ca_hash = Some(hash);
        ctx.ui.line(format!("noted the cluster's CA in {}: {hash}", crate::secrets::FILE));
        Ok(())
    }
}

/// A node's lines in the cluster's file.
///
/// # Errors
/// There is none of that name; with the nearest one.
pub fn node<'a>(project: &'a Project, name: &Hostname) -> Result<&'a NodeSpec, Problems> {
    let nodes = &project.cluster.nodes;
    nodes.iter().find(|n| n.name == *name).ok_or_else(|| {
        let known = nodes.iter().map(|n| n.name.as_str());
        let hint = crate::config::suggest(name.as_str(), known);
        Problems::usage(format!("cluster/cluster.toml has no node `{name}`"), hint)
    })
}
