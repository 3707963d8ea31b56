//! Opens one address at an offset: HTTP with Range, or a file of a mirror that is a folder.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use fs_err as fs;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::Options;

/// A host that does not answer the first packet for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The answer "there is no such file", which waiting does not change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Gone(pub String);

/// Why an address did not give the file.
#[derive(Debug)]
pub(super) enum Fault {
    /// May work in a moment.
    Passing(anyhow::Error),
    /// This address will not give this file.
    Lasting(anyhow::Error),
    /// The part cannot be continued; from the start it may work at once.
    Restart(anyhow::Error),
}

/// An open source.
pub(super) struct Body {
    pub reader: Box<dyn Read>,
    /// Offset of the first byte `reader` gives: what was asked for, or 0.
    pub start: u64,
    /// Bytes of the whole file, where the source says so.
    pub total: Option<u64>,
}

/// Opens addresses; the connections are kept and shared.
#[derive(Debug)]
pub(super) struct Client {
    http: Result<reqwest::blocking::Client, String>,
    /// Whether any server ever answered.
    reached: AtomicBool,
}

impl Client {
    pub fn new(options: &Options) -> Self {
        // An error means that another part of this process installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::blocking::Client::builder()
            .user_agent(concat!("node-image-builder/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(options.stall))
            // Of the blocking client this is per read, not for the whole body.
            .timeout(options.stall)
            .build()
            .map_err(|e| format!("failed to set up HTTP: {:#}", anyhow!(e)));
        Self { http, reached: AtomicBool::new(false) }
    }

    /// Whether any server ever answered.
    pub fn reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Opens `url` so that it gives the bytes from `offset` on, or all of them.
    pub fn open(&self, url: &str, offset: u64) -> Result<Body, Fault> {
        if url.starts_with("http://") || url.starts_with("https://") {
            return self.open_http(url, offset);
        }
        let path = url.strip_prefix("file://").unwrap_or(url);
        if path.contains("://") {
            return Err(Fault::Lasting(anyhow!("{url}: only http, https and file are known")));
        }
        open_file(Path::new(path), offset)
    }

    fn open_http(&self, url: &str, offset: u64) -> Result<Body, Fault> {
        let http = self.http.as_ref().map_err(|e| Fault::Lasting(anyhow!(e.clone())))?;
        let mut request = http.get(url);
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = match request.send() {
            Ok(response) => response,
            Err(e) if e.is_builder() || e.is_redirect() => {
                return Err(Fault::Lasting(anyhow!(e.without_url()).context(url.to_owned())));
            }
            Err(e) => return Err(Fault::Passing(e.without_url().into())),
        };
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        match status {
            StatusCode::OK => {
                let total = response.content_length();
                Ok(Body { reader: Box::new(response), start: 0, total })
            }
            StatusCode::PARTIAL_CONTENT => partial(url, response, offset),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Fault::Restart(anyhow!("{url}: has no byte {offset}")))
            }
            _ => Err(refused(url, status)),
        }
    }
}

/// A 206 must continue exactly where the part ends.
fn partial(url: &str, response: reqwest::blocking::Response, offset: u64) -> Result<Body, Fault> {
    let header = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let range = header.unwrap_or_default().to_owned();
    let parsed = (|| {
        let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (start, _end) = span.split_once('-')?;
        Some((start.parse::<u64>().ok()?, total.parse::<u64>().ok()))
    })();
    match parsed {
        Some((start, total)) if start == offset => {
            Ok(Body { reader: Box::new(response), start, total })
        }
        _ => Err(Fault::Restart(anyhow!(
            "{url}: answered `Content-Range: {range}` when asked for the bytes from {offset}"
        ))),
    }
}

/// Too busy and broken may pass; all else is the server's last word.
fn refused(url: &str, status: StatusCode) -> Fault {
    let text = format!("{url}: answered {status}");
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Fault::Lasting(Gone(text).into()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Fault::Passing(anyhow!(text))
        }
        s if s.is_server_error() => Fault::Passing(anyhow!(text)),
        _ => Fault::Lasting(anyhow!(text)),
    }
}

fn open_file(path: &Path, offset: u64) -> Result<Body, Fault> {
    let open = || -> std::io::Result<Body> {
        let mut file = fs::File::open(path)?;
        let total = Some(file.metadata()?.len());
        file.seek(SeekFrom::Start(offset))?;
        Ok(Body { reader: Box::new(file), start: offset, total })
    };
    open().map_err(|e| match e.kind() {
        ErrorKind::NotFound => Fault::Lasting(Gone(e.to_string()).into()),
        _ => Fault::Lasting(e.into()),
    })
}

/// Whether writing failed because the disk is full: no other address helps.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// The text for a full disk, for any failing write into the cache.
pub(super) fn full<T>(result: std::io::Result<T>, store: &Path) -> Result<T> {
    let hint = || {
        format!("no space left for the cache in {}; `builder cache gc` frees some", store.display())
    };
    match result {
        Err(e) if is_full(&e) => Err(e).with_context(hint),
        other => other.context("failed to write into the cache"),
    }
}
