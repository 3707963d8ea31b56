//! What the guest says of itself: one frame on the second serial port, whose nonce, length and
//! digest make sure that no stray line can pass for it (the sender is `guest-facts.sh`).

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use node::report::Report;
use node::values::Digest;
use serde::Deserialize;

/// A frame is some tens of kilobytes; more is not ours.
const FRAME_BYTES: usize = 4 << 20;

/// Outputs of the guest's commands, by the name the script gives them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    outputs: BTreeMap<String, Output>,
    /// Guest's clock minus ours, in seconds.
    pub skew: f64,
}

#[derive(Debug, Clone, PartialEq)]
struct Output {
    status: i32,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    fact: String,
    status: i32,
    base64: String,
}

impl Facts {
    /// Reads a frame's JSON lines.
    fn parse(text: &str, skew: f64) -> Result<Self> {
        let mut outputs = BTreeMap::new();
        for line in text.lines() {
            let line: Line = serde_json::from_str(line).context("a fact is not as it should be")?;
            let bytes = BASE64_STANDARD.decode(&line.base64).context("a fact is not base64")?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            outputs.insert(line.fact, Output { status: line.status, text });
        }
        Ok(Self { outputs, skew })
    }

    /// Output of a command that succeeded.
    pub fn ok(&self, name: &str) -> Option<&str> {
        self.outputs.get(name).filter(|o| o.status == 0).map(|o| o.text.as_str())
    }

    /// Output of a command, whatever its status.
    pub fn text(&self, name: &str) -> &str {
        self.outputs.get(name).map_or("", |o| o.text.as_str())
    }

    /// firstboot's report, if there is one that can be read.
    pub fn report(&self) -> Option<Report> {
        serde_json::from_str(self.ok("report")?).ok()
    }

    /// When the guest's kernel started, in seconds since 1970 by its own clock.
    pub fn born(&self) -> Option<i64> {
        self.ok("born")?.trim().parse().ok()
    }
}

/// Puts a frame together from what comes from the port.
#[derive(Debug)]
pub struct Frames {
    nonce: String,
    bytes: Vec<u8>,
    /// Why the last frame was refused.
    pub refused: Option<String>,
}

impl Frames {
    /// Only frames with this nonce count.
    pub fn new(nonce: impl Into<String>) -> Self {
        Self { nonce: nonce.into(), bytes: Vec::new(), refused: None }
    }

    /// Takes more bytes; the facts, once a whole and sound frame has come. The guest sends a
    /// refused one again.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Facts> {
        self.bytes.extend_from_slice(bytes);
        loop {
            let start = find(&self.bytes, format!("BOOT-FACTS {} ", self.nonce).as_bytes())?;
            let end = start + self.bytes[start..].iter().position(|b| *b == b'\n')?;
            let header = String::from_utf8_lossy(&self.bytes[start..end]).into_owned();
            let result = match Header::parse(&header) {
                Ok(header) if self.bytes.len() < end + 1 + header.length + self.trailer().len() => {
                    return None;
                }
                Ok(header) => self.open(&header, end + 1),
                Err(e) => Err(e),
            };
            self.bytes.drain(..end);
            match result {
                Ok(facts) => return Some(facts),
                Err(e) => self.refused = Some(format!("{e:#}")),
            }
        }
    }

    fn trailer(&self) -> String {
        format!("BOOT-FACTS-END {}\n", self.nonce)
    }

    fn open(&self, header: &Header, from: usize) -> Result<Facts> {
        let (body, rest) = self.bytes[from..].split_at(header.length);
        ensure!(Digest::of(body) == header.digest, "the frame's digest does not fit its bytes");
        ensure!(rest.starts_with(self.trailer().as_bytes()), "the frame has no end mark");
        let text = std::str::from_utf8(body).context("the frame is not text")?;
        Facts::parse(text, header.epoch - now())
    }
}

struct Header {
    length: usize,
    digest: Digest,
    epoch: f64,
}

impl Header {
    fn parse(line: &str) -> Result<Self> {
        let words: Vec<_> = line.split(' ').collect();
        ensure!(words.len() == 5, "the frame's header has {} words, not 5", words.len());
        let length = words[2].parse().context("the frame's length is no number")?;
        ensure!(length <= FRAME_BYTES, "the frame says it has {length} bytes");
        let digest = words[3].parse().context("the frame's digest is none")?;
        let epoch = words[4].parse().context("the frame's time is no number")?;
        Ok(Self { length, digest, epoch })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Facts made from name and output, all with status 0.
    pub(crate) fn facts(pairs: &[(&str, &str)]) -> Facts {
        let outputs = pairs.iter().map(|(name, text)| {
            ((*name).to_owned(), Output { status: 0, text: (*text).to_owned() })
        });
        Facts { outputs: outputs.collect(), skew: 0.1 }
    }

    pub(crate) fn frame(nonce: &str, body: &str) -> Vec<u8> {
        format!(
            "\nBOOT-FACTS {nonce} {} {} {:.3}\n{body}BOOT-FACTS-END {nonce}\n",
            body.len(),
            Digest::of(body),
            now() + 2.0
        )
        .into_bytes()
    }

    pub(crate) const BODY: &str = "{\"fact\":\"hostname\",\"status\":0,\"base64\":\"bjEK\"}\n\
                        {\"fact\":\"report\",\"status\":1,\"base64\":\"bm9uZQ==\"}\n";

    #[test]
    fn a_frame_in_any_pieces_gives_its_facts_and_the_clocks_difference() {
        let bytes = frame("n", BODY);
        for piece in [1, 7, bytes.len()] {
            let mut frames = Frames::new("n");
            let got: Vec<_> = bytes.chunks(piece).filter_map(|p| frames.take(p)).collect();
            assert_eq!(got.len(), 1, "{piece}");
            assert_eq!(got[0].ok("hostname"), Some("n1\n"));
            assert_eq!((got[0].ok("report"), got[0].text("report")), (None, "none"));
            assert!((1.0..2.1).contains(&got[0].skew), "{}", got[0].skew);
        }
    }

    #[test]
    fn a_foreign_cut_or_changed_frame_never_counts() {
        let whole = frame("n", BODY);
        assert!(Frames::new("other").take(&whole).is_none());
        for cut in 0..whole.len() {
            assert!(Frames::new("n").take(&whole[..cut]).is_none(), "{cut}");
        }
        let body = find(&whole, b"{\"fact").unwrap();
        for at in body..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            assert!(Frames::new("n").take(&bad).is_none(), "{at}");
        }
    }

    #[test]
    fn a_refused_frame_is_explained_and_a_second_one_still_read() {
        let mut bad = frame("n", BODY);
        let body = find(&bad, b"{\"fact").unwrap();
        bad[body] ^= 1;
        let mut frames = Frames::new("n");
        assert!(frames.take(&bad).is_none());
        assert_eq!(frames.refused.as_deref(), Some("the frame's digest does not fit its bytes"));
        assert!(frames.take(&frame("n", BODY)).is_some());
    }
}
