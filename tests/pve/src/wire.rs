//! HTTP/1.x as Proxmox' daemon speaks it: heads, bodies with a known length, answers.

use std::fmt::Write as _;
use std::io::{BufRead, Read, Write};

/// More header lines than this, and the daemon never answers.
const MAX_HEADERS: usize = 64;
/// A longer header line, and the daemon never answers; the first line may be longer.
const MAX_LINE: usize = 8192;
const MAX_FIRST_LINE: usize = 64 << 10;

/// The head of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    pub version: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head. None: the client left, stalled, or sent what the daemon waits over.
    pub(crate) fn read(from: &mut impl BufRead) -> Option<Self> {
        let first = line(from, MAX_FIRST_LINE)?;
        let mut words = first.split(' ');
        let mut head = Self {
            method: words.next()?.to_owned(),
            target: words.next().unwrap_or_default().to_owned(),
            version: words.next().unwrap_or_default().to_owned(),
            headers: Vec::new(),
        };
        loop {
            let text = line(from, MAX_LINE)?;
            if text.is_empty() {
                return Some(head);
            }
            let (name, value) = text.split_once(':')?;
            head.headers.push((name.trim().to_lowercase(), value.trim().to_owned()));
            if head.headers.len() > MAX_HEADERS {
                return stall(from);
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn length(&self) -> u64 {
        self.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn keeps_open(&self) -> bool {
        self.version == "HTTP/1.1"
            && !self.get("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"))
    }
}

fn line(from: &mut impl BufRead, limit: usize) -> Option<String> {
    let mut bytes = Vec::new();
    from.by_ref().take(limit as u64).read_until(b'\n', &mut bytes).ok()?;
    if bytes.last() != Some(&b'\n') {
        return if bytes.len() >= limit { stall(from) } else { None };
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Waits until the connection's time is over.
fn stall<T>(from: &mut impl BufRead) -> Option<T> {
    let mut bytes = [0; 4096];
    while matches!(from.read(&mut bytes), Ok(1..)) {}
    None
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub status: u16,
    /// One line.
    pub reason: String,
    pub kind: Option<&'static str>,
    pub body: Vec<u8>,
}

/// What Proxmox calls its JSON.
pub(crate) const JSON: &str = "application/json;charset=UTF-8";

impl Response {
    /// An answer of the daemon itself: the reason, and the same as plain text.
    pub(crate) fn plain(status: u16, reason: &str) -> Self {
        Self {
            status,
            reason: reason.trim().to_owned(),
            kind: None,
            body: reason.as_bytes().to_vec(),
        }
    }

    /// A status and a reason alone.
    pub(crate) fn empty(status: u16, reason: &str) -> Self {
        Self { status, reason: reason.to_owned(), kind: None, body: Vec::new() }
    }

    /// Sends it; `keep` leaves the connection open, which errors never do.
    pub(crate) fn send(&self, to: &mut impl Write, head: &Head, keep: bool) -> std::io::Result<()> {
        let version = if head.version == "HTTP/1.1" { "HTTP/1.1" } else { "HTTP/1.0" };
        let zip = head.get("accept-encoding").is_some_and(|text| text.contains("gzip"))
            && self.body.len() > 1024;
        let body = if zip { gzip(&self.body)? } else { self.body.clone() };
        let connection = if keep { "Keep-Alive" } else { "close" };
        let date = date();
        let mut text = format!(
            "{version} {} {}\r\nCache-Control: max-age=0\r\nConnection: {connection}\r\nDate: {date}\r\n\
             Pragma: no-cache\r\nServer: pve-api-daemon/3.0\r\n",
            self.status, self.reason
        );
        if zip {
            text.push_str("Content-Encoding: gzip\r\n");
        }
        if keep || !body.is_empty() {
            let _ = write!(text, "Content-Length: {}\r\n", body.len());
        }
        if let Some(kind) = self.kind {
            let _ = write!(text, "Content-Type: {kind}\r\n");
        }
        let _ = write!(text, "Expires: {date}\r\n\r\n");
        to.write_all(text.as_bytes())?;
        to.write_all(&body)?;
        to.flush()
    }
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// No client of ours reads it; the day is that of the clock's start.
fn date() -> &'static str {
    "Thu, 26 Nov 2026 00:00:00 GMT"
}
