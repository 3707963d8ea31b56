//! Calls over HTTPS, as Proxmox wants them: HTTP/1, a known length, parameters of GET and DELETE in
//! the query, idle connections given up before the server cuts them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use reqwest::blocking::multipart::{Form, Part};
use reqwest::blocking::{self, RequestBuilder, Response};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

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

/// The client on the wire.
#[derive(Debug)]
pub struct Http {
    client: blocking::Client,
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
        let client = blocking::Client::builder()
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
        Ok(Self { client, endpoint: endpoint.to_owned(), verifier })
    }

    fn finish(&self, request: RequestBuilder) -> Result<Reply, Failure> {
        let answer = request.send().and_then(|response| {
            let (status, reason) = (response.status().as_u16(), reason(&response));
            Ok(Reply { status, reason, body: response.bytes()?.to_vec() })
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
    let counted = Counted { file, on_bytes };
    let part = Part::reader_with_length(counted, upload.bytes)
        .file_name(upload.name.clone())
        .mime_str("application/octet-stream")
        .context("failed to describe the file")?;
    Ok(Form::new()
        .text("content", upload.content)
        .text("checksum-algorithm", "sha256")
        .text("checksum", upload.sha256.to_string())
        .part("filename", part))
}

/// A file that says how much of it was read.
struct Counted {
    file: File,
    on_bytes: OnBytes,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        (self.on_bytes)(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
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
        let mut text = String::new();
        form.into_reader().read_to_string(&mut text).unwrap();
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
