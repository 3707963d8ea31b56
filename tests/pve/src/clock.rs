//! Virtual time in milliseconds: stepped by requests and by the test, or following the machine's clock.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// 2026-11-26T00:00:00Z, the first moment of every stepped run, so that runs repeat exactly.
const START_SECONDS: u64 = 1_795_651_200;

/// How time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pace {
    /// Each request takes this many milliseconds, whatever the machine needs; nothing else passes.
    Step(u64),
    /// As many virtual milliseconds as this in each real one.
    Real(u64),
}

/// The clock of the model.
#[derive(Debug)]
pub struct Clock {
    pace: Pace,
    begun: Instant,
    added: u64,
}

impl Clock {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, begun: Instant::now(), added: 0 }
    }

    /// Milliseconds since the start of the model.
    pub fn now(&self) -> u64 {
        match self.pace {
            Pace::Step(_) => self.added,
            Pace::Real(speed) => {
                let real = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.added + real.saturating_mul(speed)
            }
        }
    }

    /// Seconds since 1970, as Proxmox writes them.
    pub fn unix(&self) -> u64 {
        START_SECONDS + self.now() / 1000
    }

    /// Lets time pass at once.
    pub fn advance(&mut self, by: Duration) {
        self.added += u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
    }

    pub(crate) fn request(&mut self) {
        if let Pace::Step(step) = self.pace {
            self.added += step;
        }
    }
}
