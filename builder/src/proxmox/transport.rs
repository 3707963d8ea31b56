//! The seam at the wire: one request, one reply. [`super::http`] sends them over TLS; a test may
//! hand them to a model of Proxmox in the same process.

use std::path::PathBuf;
use std::time::Duration;

use node::values::Digest;

use super::tls::Refused;

/// How a call acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Makes or starts something.
    Post,
    /// Changes at once.
    Put,
    /// Removes.
    Delete,
}

impl Method {
    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How.
    pub method: Method,
    /// Below `/api2/json`, such as `/nodes/pve1/qemu`.
    pub path: String,
    /// Values as Proxmox takes them: booleans are 0 and 1. They are encoded when they are sent.
    pub params: Vec<(String, String)>,
}

impl Request {
    /// A call without parameters.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), params: Vec::new() }
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.params.push((name.to_owned(), value.to_string()));
        self
    }

    /// Such as `POST /nodes/pve1/qemu`, for messages; the parameters may hold a secret.
    pub fn name(&self) -> String {
        format!("{} {}", self.method.as_str(), self.path)
    }
}

/// A file for a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// URL of the API that takes it; `None`: the cluster's endpoint.
    pub endpoint: Option<String>,
    /// Host that has the storage.
    pub node: String,
    /// The storage.
    pub storage: String,
    /// `import` or `iso`.
    pub content: &'static str,
    /// Name it gets there.
    pub name: String,
    /// The file.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// What it must hash to; the host checks it.
    pub sha256: Digest,
}

impl Upload {
    /// The call's path.
    pub fn path(&self) -> String {
        format!("/nodes/{}/storage/{}/upload", self.node, self.storage)
    }

    /// Id of the volume it becomes.
    pub fn volume(&self) -> String {
        format!("{}:{}/{}", self.storage, self.content, self.name)
    }

    /// Longer than any sane line needs: 1 MiB/s, and the checksum and copy behind it.
    pub fn limit(&self) -> Duration {
        Duration::from_mins(10) + Duration::from_secs(self.bytes >> 20)
    }
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Status; Proxmox has some of its own beyond 590.
    pub status: u16,
    /// The reason phrase, where some errors say all they say.
    pub reason: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Nothing was sent.
    Unreached(String),
    /// The server's certificate is not good; nothing was sent.
    Certificate(Refused),
    /// The connection broke or the time was up after the call was on its way.
    Broken(String),
    /// Something of this machine's own, such as the file to upload.
    Local(String),
}

/// Called with the number of bytes sent since the last call.
pub type OnBytes = std::sync::Arc<dyn Fn(u64) + Send + Sync>;

/// Carries calls to Proxmox.
pub trait Transport: Send + Sync {
    /// One call, sent once.
    ///
    /// # Errors
    /// There is no answer. An answer of any status is `Ok`.
    fn send(&self, request: &Request) -> Result<Reply, Failure>;

    /// One upload, sent once and streamed from disk.
    ///
    /// # Errors
    /// As [`Transport::send`].
    fn upload(&self, upload: &Upload, on_bytes: OnBytes) -> Result<Reply, Failure>;
}
