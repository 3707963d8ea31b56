//! Calls over HTTPS, as Proxmox wants them: HTTP/1, a known length, parameters of GET and DELETE in
//! the query, idle connections given up before the server cuts them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::stream::{self, TryStream};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, RequestBuilder, Response};
use tokio::runtime::{self, Runtime};

use super::tls::Verifier;
use super::token::Token;
use super::transport::{Failure, Method, OnBytes, Reply, Request, Transport, Upload};

/// A host of the LAN that does not answer the first packet for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Proxmox itself gives up after 30 s and says 596; a proxy between its hosts takes a little more.
const CALL_TIMEOUT: Duration = Duration::from_secs(45);
/// The server closes a connection that was idle for 5 s, without a word.
const IDLE: Duration = Duration::from_secs(3);
/// A connection whose other end takes nothing for so long is dead.
const STALL: Duration = Duration::from_mins(1);
/// Bytes of a file read and handed over at once. reqwest's blocking client takes 8 KiB through a
/// channel between two threads, which made an upload three times slower than curl's.
const PIECE: usize = 256 << 10;

/// The client on the wire.
#[derive(Debug)]
pub struct Http {
    /// Drives the connections while a call waits for its answer.
    runtime: Runtime,
    client: reqwest::Client,
    endpoint: String,
    verifier: Arc<Verifier>,
}

impl Http {
    /// For the API at `endpoint`, such as `https://pve1:8006`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(endpoint: &str, token: &Token, verifier: Arc<Verifier>) -> Result<Self> {
        let mut authorization = HeaderValue::from_str(&token.header())
            .map_err(|_| anyhow!("the API token holds a character no header may have"))?;
        authorization.set_sensitive(true);
        let client = reqwest::Client::builder()
            .user_agent(concat!("node-image-builder/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]))
            .tls_backend_preconfigured(verifier.client_config()?)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // A host of the LAN stands behind no proxy of the environment.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .pool_idle_timeout(IDLE)
            .tcp_user_timeout(STALL)
            .build()
            .context("failed to set up HTTPS")?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, client, endpoint: endpoint.to_owned(), verifier })
    }

    fn finish(&self, request: RequestBuilder) -> Result<Reply, Failure> {
        let answer = self.runtime.block_on(async {
            let response = request.send().await?;
            let (status, reason) = (response.status().as_u16(), reason(&response));
            Ok(Reply { status, reason, body: response.bytes().await?.to_vec() })
        });
        answer.map_err(|error| self.failure(error))
    }

    fn failure(&self, error: reqwest::Error) -> Failure {
        let (connect, builder) = (error.is_connect(), error.is_builder());
        let text = format!("{:#}", anyhow!(error.without_url()));
        match self.verifier.take_refused() {
            Some(refused) if connect => Failure::Certificate(refused),
            _ if connect => Failure::Unreached(text),
            _ if builder => Failure::Local(text),
            _ => Failure::Broken(text),
        }
    }
}

/// The phrase beside the status. Without one of the server's own, hyper gives the standard's.
fn reason(response: &Response) -> String {
    let own = response.extensions().get::<hyper::ext::ReasonPhrase>();
    let text = own.map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).trim().to_owned());
    text.or_else(|| response.status().canonical_reason().map(str::to_owned)).unwrap_or_default()
}

impl Transport for Http {
    fn send(&self, request: &Request) -> Result<Reply, Failure> {
        let url = format!("{}/api2/json{}", self.endpoint, request.path);
        let built = match request.method {
            Method::Get => self.client.get(url).query(&request.params),
            Method::Delete => self.client.delete(url).query(&request.params),
            Method::Post => self.client.post(url).form(&request.params),
            Method::Put => self.client.put(url).form(&request.params),
        };
        self.finish(built)
    }

    fn upload(&self, upload: &Upload, on_bytes: OnBytes) -> Result<Reply, Failure> {
        let endpoint = upload.endpoint.as_ref().unwrap_or(&self.endpoint);
        let url = format!("{endpoint}/api2/json{}", upload.path());
        let form = form(upload, on_bytes).map_err(|e| Failure::Local(format!("{e:#}")))?;
        self.finish(self.client.post(url).timeout(upload.limit()).multipart(form))
    }
}

/// The fields in the one order the server takes, the file last and with its length.
fn form(upload: &Upload, on_bytes: OnBytes) -> Result<Form> {
    let file = fs_err::File::open(&upload.file)?.into_parts().0;
    let body = Body::wrap_stream(pieces(file, on_bytes));
    let part = Part::stream_with_length(body, upload.bytes)
        .file_name(upload.name.clone())
        .mime_str("application/octet-stream")
        .context("failed to describe the file")?;
    Ok(Form::new()
        .text("content", upload.content)
        .text("checksum-algorithm", "sha256")
        .text("checksum", upload.sha256.to_string())
        .part("filename", part))
}

/// The file from its start, in pieces; says how much of it was read.
fn pieces(
    file: File,
    on_bytes: OnBytes,
) -> impl TryStream<Ok = Vec<u8>, Error = std::io::Error> + Send {
    stream::try_unfold((file, on_bytes), |(mut file, on_bytes)| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let n = (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
        on_bytes(n as u64);
        Ok((n > 0).then_some((piece, (file, on_bytes))))
    })
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[test]
    fn the_form_has_the_order_and_the_headers_that_proxmox_takes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image.qcow2");
        fs_err::write(&file, "QFI").unwrap();
        let upload = Upload {
            endpoint: None,
            node: "pve1".into(),
            storage: "local".into(),
            content: "import",
            name: "worker-3f9c2a71b0de.qcow2".into(),
            file,
            bytes: 3,
            sha256: node::values::Digest::of("QFI"),
        };
        let form = form(&upload, Arc::new(|_| ())).unwrap();
        let boundary = form.boundary().to_owned();
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let pieces: Vec<_> = runtime.block_on(form.into_stream().try_collect()).unwrap();
        let text = String::from_utf8(pieces.concat()).unwrap();
        insta::assert_snapshot!(text.replace(&boundary, "BOUNDARY").replace("\r\n", "\n"), @r#"
        --BOUNDARY
        Content-Disposition: form-data; name="content"

        import
        --BOUNDARY
        Content-Disposition: form-data; name="checksum-algorithm"

        sha256
        --BOUNDARY
        Content-Disposition: form-data; name="checksum"

        1654dd68ceba4283c0b00c4a595b28bc6f30699d4d23d1e17051eae0fbb6840f
        --BOUNDARY
        Content-Disposition: form-data; name="filename"; filename="worker-3f9c2a71b0de.qcow2"
        Content-Type: application/octet-stream

        QFI
        --BOUNDARY--
        "#);
        assert_eq!(upload.volume(), "local:import/worker-3f9c2a71b0de.qcow2");
    }
}
