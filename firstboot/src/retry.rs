//! Waiting by deadline, with the last thing seen in the error.

use std::sync::mpsc::channel;
use std::thread::{sleep, spawn};
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

/// Does `work` in a thread of its own and gives it up after `limit`: a call on a hard NFS mount whose
/// server died comes back when the server does. The thread stays behind and ends with the process.
///
/// # Errors
/// One of `work`, or the limit, naming `what` does not answer.
pub fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = channel();
    // Nobody is left to tell when the limit has passed.
    spawn(move || drop(send.send(work())));
    match receive.recv_timeout(limit) {
        Ok(result) => result,
        Err(_) => bail!("{what} does not answer (waited {:.1} s)", limit.as_secs_f64()),
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

    #[test]
    fn work_that_hangs_is_given_up_and_other_work_gives_its_result() {
        let short = Duration::from_millis(20);
        let hang = || -> Result<()> { loop_for_ever() };
        let text = within(short, "NFS", hang).unwrap_err().to_string();
        assert_eq!(text, "NFS does not answer (waited 0.0 s)");
        let long = Duration::from_mins(1);
        assert_eq!(within(long, "", || Ok(7)).unwrap(), 7);
        assert_eq!(within::<()>(long, "", || bail!("why")).unwrap_err().to_string(), "why");
    }

    fn loop_for_ever() -> Result<()> {
        loop {
            std::thread::park();
        }
    }
}
