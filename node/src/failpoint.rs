//! Points where a power cut would hurt: before and after each write that others can see. A test asks
//! a process to end at one of them by its number; on a node nothing ever does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Exit code of a process that ended at its point.
pub const STOPPED: i32 = 99;

static REACHED: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicU64 = AtomicU64::new(0);

/// Ends this process at its point `number`, counted from 1, with [`STOPPED`].
pub fn stop_at(number: u64) {
    STOP.store(number, Ordering::Relaxed);
}

/// A point. Without a test's wish it only counts.
pub fn reach() {
    let number = REACHED.fetch_add(1, Ordering::Relaxed) + 1;
    if number == STOP.load(Ordering::Relaxed) {
        std::process::exit(STOPPED);
    }
}
