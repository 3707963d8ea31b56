//! Lines for a terminal that may be slow, stuck or not there: no boot may hang on one.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fs_err::os::unix::fs::OpenOptionsExt;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, tcflush};

/// How long a line may take: a report of 4 KiB needs 0.4 s at 115200 baud, and a console that
/// nobody drains is given up soon.
const LIMIT: Duration = Duration::from_secs(2);

/// The system console, relative to the root.
pub const CONSOLE: &str = "dev/console";

/// The second serial port, where `builder boot` listens, and what sysfs says of it.
const PORT: (&str, &str) = ("dev/ttyS1", "sys/class/tty/ttyS1/type");

/// Writes a line to the console; a failure to do so is nobody's failure.
pub fn line(root: &Path, text: &str) {
    let _ = write_bounded(&root.join(CONSOLE), text);
}

/// Writes a line to the second serial port, if there is a real one: the kernel makes the device
/// node for four ports and calls the missing ones type 0.
pub fn second_port(root: &Path, text: &str) {
    let kind = fs_err::read_to_string(root.join(PORT.1)).unwrap_or_default();
    if !matches!(kind.trim(), "" | "0") {
        let _ = write_bounded(&root.join(PORT.0), text);
    }
}

/// Writes `text` and a line end without ever blocking longer than [`LIMIT`].
fn write_bounded(path: &Path, text: &str) -> Result<()> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let mut file = fs_err::OpenOptions::new().append(true).custom_flags(flags).open(path)?;
    let data = format!("{text}\n").into_bytes();
    let mut rest = data.as_slice();
    let end = Instant::now() + LIMIT;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => bail!("{} takes no more", path.display()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => wait_writable(&file, end)?,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn wait_writable(file: &fs_err::File, end: Instant) -> Result<()> {
    let left = end.saturating_duration_since(Instant::now());
    let mut fds = [PollFd::new(file.file().as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    if left.is_zero() || poll(&mut fds, timeout)? == 0 {
        // Else closing a serial port waits up to 30 s for what it still holds.
        let _ = tcflush(file.file(), FlushArg::TCOFLUSH);
        bail!("nobody reads it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_nobody_drains_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let start = Instant::now();
        assert!(write_bounded(&path, "nobody opened it").is_err());
        let _reader = fs_err::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(write_bounded(&path, &"x".repeat(1 << 20)).is_err());
        assert!(start.elapsed() < LIMIT * 2);
    }

    #[test]
    fn a_serial_port_of_type_0_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, want) in [("0\n", ""), ("4\n", "hello\n")] {
            for (path, text) in [(PORT.0, ""), (PORT.1, kind)] {
                node::files::ensure_file(&dir.path().join(path), text.as_bytes(), 0o644).unwrap();
            }
            second_port(dir.path(), "hello");
            assert_eq!(fs_err::read_to_string(dir.path().join(PORT.0)).unwrap(), want);
        }
    }
}
