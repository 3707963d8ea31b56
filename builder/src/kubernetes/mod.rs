//! The cluster's own API, as an administrator sees it: what a rebuild, a rollout and `builder status`
//! ask and change there. [`life`](crate::life) sees it through its seam [`Cluster`](crate::life::Cluster).
//!
//! Every method is one look or one change, and can be made again after anything. None waits: the API of
//! a sole master is away for minutes while that master is rebuilt, and only the caller knows.

mod drain;
mod fence;
mod guard;
mod job;
mod life;
mod misfit;
mod nodes;
mod password;
mod snapshot;
mod token;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use firstboot::kubernetes::Kubernetes;
use kube::api::{Api, ListParams};
use kube::config::Kubeconfig;
use node::values::Digest;

pub use drain::{PodId, moves};
pub use guard::LocalVolume;
pub use nodes::Node;
pub use token::JoinToken;

use crate::life::Failed;

/// Names the file with an administrator's credentials where `--kubeconfig` does not.
pub const VARIABLE: &str = "KUBECONFIG";

/// The namespace of K3s' own Secrets.
const SYSTEM: &str = "kube-system";

/// A cluster's API with an administrator's credentials.
#[derive(Debug)]
pub struct Kube {
    api: Kubernetes,
    path: PathBuf,
}

impl Kube {
    /// With the credentials in `path`. Nothing is asked yet.
    ///
    /// # Errors
    /// The file is missing or no kubeconfig.
    pub fn connect(path: &Path) -> Result<Self> {
        ensure!(
            path.exists(),
            "{} is not there, which should hold credentials for the cluster's API; {HOW}",
            path.display()
        );
        Ok(Self { api: Kubernetes::connect_once(path)?, path: path.to_owned() })
    }

    /// SHA-256 of the CA that the credentials trust, as it stands in K3s' tokens; `None` when the
    /// file holds no CA.
    ///
    /// # Errors
    /// The file is gone or its CA is no base64.
    pub fn ca_hash(&self) -> Result<Option<Digest>> {
        use base64::Engine as _;
        let config = Kubeconfig::read_from(&self.path)?;
        let first = config.clusters.into_iter().find_map(|named| named.cluster);
        let Some(data) = first.and_then(|c| c.certificate_authority_data) else { return Ok(None) };
        let pem = base64::engine::general_purpose::STANDARD
            .decode(data.trim())
            .with_context(|| format!("the CA in {} is no base64", self.path.display()))?;
        Ok(Some(Digest::of(pem)))
    }

    /// Refuses credentials of another cluster than the one whose CA is known: a node of the same name
    /// would be drained there.
    ///
    /// # Errors
    /// The hashes differ.
    pub fn must_be(&self, known: Option<Digest>) -> Result<()> {
        let (Some(known), Some(found)) = (known, self.ca_hash()?) else { return Ok(()) };
        ensure!(
            known == found,
            "{} is of another cluster: its CA has the hash {found}, this cluster's {known}",
            self.path.display()
        );
        Ok(())
    }

    /// Whether the API server calls itself ready.
    ///
    /// # Errors
    /// It does not answer, or answers something else than `ok`.
    pub fn ready(&self) -> Result<()> {
        self.api.ready()
    }

    /// Refuses credentials that waiting does not make better: a certificate that is not trusted, a name
    /// that the API does not know. An API that is away is none of this.
    ///
    /// # Errors
    /// What is wrong with them, and what to do.
    pub fn must_fit(&self) -> Result<()> {
        let one = ListParams::default().limit(1);
        let asked = self.api.wait(self.all::<k8s_openapi::api::core::v1::Node>().list(&one));
        let why = asked.err().and_then(|error| misfit::of(&error));
        why.map_or(Ok(()), |why| {
            bail!("the credentials in {} do not fit: {why}", self.path.display())
        })
    }

    fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        Api::all(self.api.client())
    }

    fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.api.client(), namespace)
    }

    /// The end of a call.
    fn wait<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
        self.api.wait(call).map_err(|error| told(&error))
    }

    /// The end of a call whose object may be gone, or may be another one of its name by now: that
    /// counts as done.
    fn wait_gone<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<(), Failed> {
        match self.api.wait(call) {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop).map_err(|error| told(&error)),
        }
    }
}

/// What to do where no credentials were given.
pub fn not_named() -> anyhow::Error {
    anyhow::anyhow!("no credentials for the cluster's API: {HOW}")
}

/// Where credentials come from.
const HOW: &str = "name them with --kubeconfig or KUBECONFIG; a server has them as \
                   /etc/rancher/k3s/k3s.yaml (put its address in place of 127.0.0.1)";

/// The file with credentials that a flag names, else the environment. There is no default beyond: what
/// is in a home folder may be of any cluster.
pub fn named(flag: Option<&Path>) -> Option<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    flag.map(Path::to_owned).or(variable)
}

/// What failed, in one line, and whether it can pass: kube's own text of a refusal repeats the whole
/// reply.
fn told(error: &kube::Error) -> Failed {
    let kube::Error::Api(status) = error else {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        return Failed::Later(format!("the cluster's API does not answer: {text}"));
    };
    let text = format!("the cluster's API says: {} ({})", status.message, status.code);
    match status.code {
        // Busy, or a conflict with somebody else's change.
        409 | 429 | 500.. => Failed::Later(text),
        _ => Failed::Never(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_another_cluster_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        // `ca` in base64.
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: d\n\
             clusters: [{name: d, cluster: {server: \"https://127.0.0.1:1\", \
             certificate-authority-data: Y2E=}}]\nusers: [{name: d, user: {}}]\n\
             contexts: [{name: d, context: {cluster: d, user: d}}]\n";
        fs_err::write(&path, text.replace(", certificate-authority-data: Y2E=", "")).unwrap();
        let without = Kube::connect(&path).unwrap();
        without.must_be(Some(Digest::of("other"))).unwrap();
        fs_err::write(&path, text).unwrap();
        assert_eq!(without.ca_hash().unwrap(), Some(Digest::of("ca")));
        without.must_be(Some(Digest::of("ca"))).unwrap();
        let error = without.must_be(Some(Digest::of("other"))).unwrap_err().to_string();
        assert!(error.contains("is of another cluster"), "{error}");
    }
}
