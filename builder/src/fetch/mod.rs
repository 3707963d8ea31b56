//! Brings files named by digest into the store: several at once, resumed, tried again until a
//! deadline, and stored only when their bytes are the locked ones.

mod download;
mod inputs;
mod pool;
mod progress;
#[cfg(test)]
mod server;
mod source;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use node::values::Digest;

use crate::store::Store;
use crate::ui::Ui;
use progress::Progress;

pub use inputs::{fetch_artifacts, fetch_base};
pub use pool::{make_pool, pool_stage};

/// How many missing files an error names before it only counts them.
const NAMED_AT_MOST: usize = 12;

/// One wanted file.
#[derive(Debug, Clone)]
pub struct Want {
    /// For messages, such as `k3s v1.36.4+k3s1`.
    pub name: String,
    /// Where it may be: `http(s)://`, `file://` or a plain path; tried in this order.
    pub urls: Vec<String>,
    /// What it must be.
    pub digest: Digest,
    /// Its bytes, where known: a body of another length is refused before it is read.
    pub size: Option<u64>,
}

/// How to fetch.
#[derive(Debug, Clone)]
pub struct Options {
    /// Take only what is in the store already.
    pub offline: bool,
    /// How long one file may go on failing without getting further.
    pub deadline: Duration,
    /// The same while nothing at all was ever reached: then this is most likely a machine
    /// without that network, and waiting helps nobody.
    pub reach: Duration,
    /// How long a connection may be silent, or slower than a crawl, before it counts as cut.
    pub stall: Duration,
    /// Files at once.
    pub parallel: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offline: false,
            // A home router's restart fits in.
            deadline: Duration::from_mins(2),
            // Three tries, each with time for a slow name server.
            reach: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            // More would only burden the mirror: four fill a home's line.
            parallel: 4,
        }
    }
}

/// What [`fetch`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Files that were not in the store before.
    pub files: usize,
    /// Bytes that came over the network or from a mirror's folder.
    pub bytes: u64,
}

/// Files that could not be had.
#[derive(Debug, thiserror::Error)]
pub struct Failed {
    /// Each with its reason, in the order they were wanted.
    pub failures: Vec<Failure>,
}

/// One file that could not be had.
#[derive(Debug)]
pub struct Failure {
    /// [`Want::name`].
    pub name: String,
    /// Whether every address said that it has no such file: a mirror dropped it.
    pub gone: bool,
    /// The whole reason.
    pub reason: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> =
            self.failures.iter().map(|x| format!("{}: {}", x.name, x.reason)).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Brings all of `wanted` into the store. A failing network stops at the first file, files that
/// mirrors no longer have are all reported: the error is a [`Failed`].
pub fn fetch(store: &Store, wanted: &[Want], ui: &Ui, options: &Options) -> Result<Fetched> {
    let mut missing: Vec<&Want> =
        wanted.iter().filter(|w| !store.has_whole(&w.digest, w.size)).collect();
    missing.sort_by_key(|w| w.digest);
    missing.dedup_by_key(|w| w.digest);
    if missing.is_empty() {
        return Ok(Fetched { files: 0, bytes: 0 });
    }
    if options.offline {
        bail!("offline, but {}", not_here(&missing));
    }
    // The largest first: they decide when all are done.
    missing.sort_by_key(|w| std::cmp::Reverse(w.size));
    let progress = Progress::new(ui, &missing);
    let failures = fetch_all(store, &missing, ui, options, &progress);
    progress.finish(ui, failures.is_empty());
    if !failures.is_empty() {
        return Err(Failed { failures }.into());
    }
    Ok(Fetched { files: missing.len(), bytes: progress.bytes() })
}

fn fetch_all(
    store: &Store,
    missing: &[&Want],
    ui: &Ui,
    options: &Options,
    progress: &Progress,
) -> Vec<Failure> {
    let client = source::Client::new(options);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(want) = missing.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let result = download::bring(store, want, &client, ui, options, progress);
            if let Err(error) = result {
                let gone = error.is::<source::Gone>();
                stop.fetch_or(!gone, Ordering::Relaxed);
                let reason = format!("{error:#}");
                let failure = Failure { name: want.name.clone(), gone, reason };
                failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.parallel.clamp(1, missing.len()) {
            scope.spawn(work);
        }
    });
    failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn not_here(missing: &[&Want]) -> String {
    let mut names: Vec<_> = missing.iter().map(|w| w.name.as_str()).collect();
    names.sort_unstable();
    let count = names.len();
    let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
    let more = match count.saturating_sub(NAMED_AT_MOST) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    names.truncate(NAMED_AT_MOST);
    format!("{files} not in the cache: {}{more}; run once without --offline", names.join(", "))
}

#[cfg(test)]
mod tests;
