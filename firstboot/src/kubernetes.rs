//! The connection to the cluster's API with this node's own credentials: the admin's on a server,
//! the kubelet's on an agent, which may read and patch its own Node only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use node::config::Role;
use tokio::runtime::{Builder, Runtime};

/// A connection that takes longer is given up and tried again until its step's deadline.
const CONNECT: Duration = Duration::from_secs(5);
/// So is a request.
const REQUEST: Duration = Duration::from_secs(10);

/// Kubelets' leases live here, named as their nodes.
const LEASES: &str = "kube-node-lease";

/// The admin's credentials, which K3s writes on a server.
const ADMIN: &str = "etc/rancher/k3s/k3s.yaml";
/// The kubelet's, which K3s writes on every node.
const KUBELET: &str = "var/lib/rancher/k3s/agent/kubelet.kubeconfig";

/// A client and the single thread it runs on.
pub struct Kubernetes {
    runtime: Runtime,
    client: Client,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

/// The credentials of a role below `root`.
pub fn credentials(root: &Path, role: Role) -> PathBuf {
    root.join(match role {
        Role::Server => ADMIN,
        Role::Agent => KUBELET,
    })
}

impl Kubernetes {
    /// Connects with the credentials in `path`; no request is made yet.
    ///
    /// # Errors
    /// The file is missing or broken.
    pub fn connect(path: &Path) -> Result<Self> {
        Self::open(path, true)
    }

    /// The same without kube's own repeating of calls that are refused for now: an eviction that a
    /// disruption budget holds is such a call, and would hang for minutes.
    ///
    /// # Errors
    /// As [`Kubernetes::connect`].
    pub fn connect_once(path: &Path) -> Result<Self> {
        Self::open(path, false)
    }

    fn open(path: &Path, repeats: bool) -> Result<Self> {
        // A second call finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime =
            Builder::new_current_thread().enable_all().build().context("failed to start tokio")?;
        let kubeconfig = Kubeconfig::read_from(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let client = runtime.block_on(async {
            let mut config =
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("{} is no kubeconfig", path.display()))?;
            config.connect_timeout = Some(CONNECT);
            // Not `read_timeout`: an idle connection of the pool is found to be timed out by the next
            // request, as nothing looks at it while helm runs.
            config.default_retry = repeats;
            Client::try_from(config).context("failed to make a client")
        })?;
        Ok(Self { runtime, client })
    }

    /// The client, for calls that have no method here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for a call to end.
    ///
    /// # Errors
    /// The call's own, or none within the limit.
    pub fn wait<T>(&self, call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let late = format!("no answer within {REQUEST:?}");
        let limited = async { tokio::time::timeout(REQUEST, call).await };
        self.runtime.block_on(limited).unwrap_or_else(|_| Err(kube::Error::Service(late.into())))
    }

    /// Whether the API server calls itself ready.
    ///
    /// # Errors
    /// It does not answer, or answers something else than `ok`.
    pub fn ready(&self) -> Result<()> {
        let request = http_get("/readyz")?;
        let text = match self.wait(self.client.request_text(request)) {
            // With all checks in it, three times over.
            Err(kube::Error::Api(status)) => match unready(&status.message) {
                Some(checks) => bail!("/readyz says that it is not: {checks}"),
                None => return Err(kube::Error::Api(status).into()),
            },
            other => other?,
        };
        ensure!(text.trim() == "ok", "/readyz says {}", text.trim());
        Ok(())
    }

    /// This node's object, if there is one.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn node(&self, name: &str) -> Result<Option<Node>> {
        let api: Api<Node> = Api::all(self.client.clone());
        Ok(self.wait(api.get_opt(name))?)
    }

    /// What tells this cluster from every other: the uid of its `kube-system`, which a restore keeps.
    ///
    /// # Errors
    /// The API does not answer or refuses, as it does an agent.
    pub fn cluster_uid(&self) -> Result<String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let system = self.wait(api.get("kube-system"))?;
        system.metadata.uid.context("kube-system has no uid")
    }

    /// Names of all nodes.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn node_names(&self) -> Result<Vec<String>> {
        let api: Api<Node> = Api::all(self.client.clone());
        let list = self.wait(api.list(&ListParams::default()))?;
        Ok(list.items.into_iter().filter_map(|n| n.metadata.name).collect())
    }

    /// Removes a node's object; one that is not there counts as removed.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        match self.wait(api.delete(name, &DeleteParams::default())) {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }

    /// The lease that this node's kubelet renews, if there is one.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn lease(&self, name: &str) -> Result<Option<Lease>> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        Ok(self.wait(api.get_opt(name))?)
    }

    /// Merges `patch` into this node's object.
    ///
    /// # Errors
    /// The API does not answer or refuses.
    pub fn patch_node(&self, name: &str, patch: &serde_json::Value) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let merge = Patch::Merge(patch);
        self.wait(api.patch(name, &PatchParams::default(), &merge))?;
        Ok(())
    }
}

/// Names of the checks that do not hold, from what `/readyz` says; nothing where it is no such list.
fn unready(text: &str) -> Option<String> {
    let failed = text.lines().filter_map(|line| line.strip_prefix("[-]")?.split(' ').next());
    let names: Vec<_> = failed.collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    http::Request::get(path).body(Vec::new()).context("failed to make a request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_readyz_only_the_checks_that_fail_are_told() {
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\n\
                    [-]poststarthook/rbac/bootstrap-roles failed: reason withheld\nreadyz check failed";
        assert_eq!(unready(text).unwrap(), "etcd, poststarthook/rbac/bootstrap-roles");
        assert_eq!(unready("Unauthorized"), None);
    }
}
