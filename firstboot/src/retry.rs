//! Waiting by deadline, with the last thing seen in the error.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one look at the awaited thing showed.
#[derive(Debug)]
pub enum Look<T> {
    /// It is there.
    Done(T),
    /// Not yet, and what was seen instead.
    NotYet(String),
}

/// Looks every `pause` until done or `limit` has passed; looks at least once.
///
/// # Errors
/// An error of `look`, which ends the wait at once, or the deadline with what was last seen.
pub fn until<T>(
    limit: Duration,
    pause: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let seen = match look()? {
            Look::Done(value) => return Ok(value),
            Look::NotYet(seen) => seen,
        };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("{seen} (waited {:.1} s)", limit.as_secs_f64());
        }
        sleep(pause.min(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_ends_with_the_last_thing_seen() {
        let mut looks = 0;
        let seen = until::<()>(Duration::from_millis(20), Duration::from_millis(5), || {
            looks += 1;
            Ok(Look::NotYet(format!("look {looks}")))
        });
        let text = seen.unwrap_err().to_string();
        assert_eq!(text, format!("look {looks} (waited 0.0 s)"));
        assert!(looks >= 2, "{looks}");
    }

    #[test]
    fn an_error_ends_the_wait_at_once() {
        let start = Instant::now();
        let hour = Duration::from_hours(1);
        assert!(until::<()>(hour, hour, || bail!("final")).is_err());
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
