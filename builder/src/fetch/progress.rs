//! How far the downloads are: one bar on a terminal, a plain line now and then elsewhere.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::Want;
use crate::ui::{Ui, since};

/// Often enough to see life in a log of a slow line, seldom enough not to fill it.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shared by all downloads of one call.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    what: String,
    total: u64,
    /// Bytes read from the sources, whether kept or not.
    read: AtomicU64,
    start: Instant,
    last_line: Mutex<Instant>,
}

impl Progress {
    pub fn new(ui: &Ui, wants: &[&Want]) -> Self {
        let total = wants.iter().filter_map(|w| w.size).sum();
        let what = match wants {
            [one] => one.name.clone(),
            many => format!("{} files", many.len()),
        };
        if total > 0 {
            ui.line(format!("fetching {what}, {}", megabytes(total)));
        } else {
            ui.line(format!("fetching {what}"));
        }
        let start = Instant::now();
        let bar = ui.bytes_bar(what.clone(), total);
        Self { bar, what, total, read: AtomicU64::new(0), start, last_line: Mutex::new(start) }
    }

    /// Says that a file of unknown size turned out to have `bytes`.
    pub fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// Bytes that were here already, from an earlier run.
    pub fn resumed(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Bytes that were read.
    pub fn add(&self, ui: &Ui, bytes: u64) {
        self.bar.inc(bytes);
        let read = self.read.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if !self.bar.is_hidden() {
            return;
        }
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() > LINE_EVERY {
            *last = Instant::now();
            ui.line(format!(
                "fetching {}: {} of {}",
                self.what,
                megabytes(read),
                megabytes(self.total)
            ));
        }
    }

    /// Bytes that were read so far but thrown away again: the bar goes back.
    pub fn lost(&self, bytes: u64) {
        self.bar.set_position(self.bar.position().saturating_sub(bytes));
    }

    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub fn finish(&self, ui: &Ui, good: bool) {
        self.bar.finish_and_clear();
        if good {
            let bytes = megabytes(self.bytes());
            ui.line(format!("fetched {}: {bytes} in {}", self.what, since(self.start)));
        }
    }
}

/// Bytes as people compare download sizes: decimal megabytes.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
