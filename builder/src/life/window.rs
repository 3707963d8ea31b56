//! When a rollout may take the next node: every day from one time to another.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

const DAY: i64 = 24 * 60;

/// Minutes of the day, in a zone that is a fixed distance from UTC: the one of the machine that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    from: u16,
    to: u16,
    /// Minutes that the zone is before UTC.
    pub offset: i16,
}

/// A text that is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must look like `22:00-05:30`: two different times of a day")]
pub struct NotWindow;

impl Window {
    /// How long until a node may be taken; `None`: now.
    pub fn opens_in(&self, now: Timestamp) -> Option<Duration> {
        let seconds = now.as_second() + i64::from(self.offset) * 60;
        let now = seconds.rem_euclid(DAY * 60);
        let (from, to) = (i64::from(self.from) * 60, i64::from(self.to) * 60);
        let is_open = if from < to { (from..to).contains(&now) } else { now >= from || now < to };
        let wait = (from - now).rem_euclid(DAY * 60);
        (!is_open).then(|| Duration::from_secs(wait.unsigned_abs()))
    }
}

impl FromStr for Window {
    type Err = NotWindow;
    fn from_str(text: &str) -> Result<Self, NotWindow> {
        let (from, to) = text.split_once('-').ok_or(NotWindow)?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        if from == to { Err(NotWindow) } else { Ok(Self { from, to, offset: 0 }) }
    }
}

fn minutes(text: &str) -> Result<u16, NotWindow> {
    let (hour, minute) = text.trim().split_once(':').ok_or(NotWindow)?;
    match (hour.parse::<u16>(), minute.parse::<u16>()) {
        (Ok(hour @ 0..=23), Ok(minute @ 0..=59)) => Ok(hour * 60 + minute),
        _ => Err(NotWindow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_may_lie_over_midnight_and_in_another_zone() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let hours = |n: u64| Some(Duration::from_hours(n));
        let mut night: Window = "22:00-05:00".parse().unwrap();
        assert_eq!(night.opens_in(at("2026-11-26T23:00:00Z")), None);
        assert_eq!(night.opens_in(at("2026-11-26T04:59:59Z")), None);
        assert_eq!(night.opens_in(at("2026-11-26T05:00:00Z")), hours(17));
        night.offset = 60;
        assert_eq!(night.opens_in(at("2026-11-26T21:00:00Z")), None);
        assert_eq!(night.opens_in(at("2026-11-26T04:00:00Z")), hours(17));
        let day: Window = "09:30-10:30".parse().unwrap();
        assert_eq!(day.opens_in(at("2026-11-26T10:30:00Z")), hours(23));
        for text in ["", "22:00", "22:00-22:00", "24:00-05:00", "22:60-05:00", "a-b"] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }
}
