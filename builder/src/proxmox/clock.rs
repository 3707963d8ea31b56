//! Time as the client sees it, so that a test can run hours of waiting in a moment.

use std::time::{Duration, Instant};

/// Where time comes from and how it passes.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Lets so much of it pass.
    fn pause(&self, time: Duration);
}

/// For tests of the whole program: how many times as fast its waits pass, as the double's time does.
pub const HASTE: &str = "BUILDER_TEST_HASTE";

/// The machine's own.
#[derive(Debug)]
pub struct System {
    start: Instant,
    haste: u32,
}

impl System {
    /// Counting from now.
    pub fn new() -> Self {
        let haste = std::env::var(HASTE).ok().and_then(|text| text.parse().ok());
        Self { start: Instant::now(), haste: haste.unwrap_or(1).max(1) }
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for System {
    fn now(&self) -> Duration {
        self.start.elapsed() * self.haste
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time / self.haste);
    }
}

/// Waiting with a deadline: pauses double from the first to the longest.
pub struct Patience<'a> {
    clock: &'a dyn Clock,
    end: Duration,
    pause: Duration,
    longest: Duration,
}

impl<'a> Patience<'a> {
    /// For `limit` from now on.
    pub fn new(clock: &'a dyn Clock, limit: Duration, first: Duration, longest: Duration) -> Self {
        Self { clock, end: clock.now() + limit, pause: first, longest }
    }

    /// Waits for the next try; `false`, at once, when the time is up.
    pub fn wait(&mut self) -> bool {
        let left = self.end.saturating_sub(self.clock.now());
        if left.is_zero() {
            return false;
        }
        self.clock.pause(self.pause.min(left));
        self.pause = (self.pause * 2).min(self.longest);
        true
    }
}

impl std::fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patience").field("end", &self.end).finish_non_exhaustive()
    }
}
