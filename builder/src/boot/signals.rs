//! Ctrl-C and its like while a machine runs: taken as an event, so that QEMU and the throw-away
//! files are gone before this process is.

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Holds the signals back until dropped.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// From now on, for this thread and those it starts.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hold() -> Result<Self> {
        let mut set = SigSet::empty();
        set.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        let before = SigSet::thread_get_mask().context("failed to read the signal mask")?;
        set.thread_block().context("failed to hold signals back")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("failed to listen for signals")?;
        Ok(Self { fd, before })
    }

    /// Whether one has come since the last call.
    pub fn came(&self) -> bool {
        matches!(self.fd.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Nothing is left to do about a mask that cannot be put back.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_an_event_and_not_the_end() {
        let signals = Signals::hold().unwrap();
        assert!(!signals.came());
        nix::sys::signal::raise(Signal::SIGINT).unwrap();
        assert!(signals.came());
        assert!(!signals.came());
    }
}
