//! Runs a program that may hang, such as apt on a mirror that is slow to die, with a deadline.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fs_err as fs;
use node::command::Run;

/// Runs to the end or the deadline, output through files so that no pipe can fill up.
pub(super) fn run_until(
    command: &mut Command,
    folder: &Path,
    deadline: Duration,
) -> Result<Output> {
    let (out, err) = (folder.join("stdout"), folder.join("stderr"));
    command.stdin(Stdio::null());
    command.stdout(fs::File::create(&out)?.into_parts().0);
    command.stderr(fs::File::create(&err)?.into_parts().0);
    let mut child = command.spawn().with_context(|| {
        format!("failed to start `{}`; it comes with the package apt", command.line())
    })?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > deadline {
            child.kill()?;
            child.wait()?;
            break timed_out();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut output = Output { status, stdout: fs::read(&out)?, stderr: fs::read(&err)? };
    if status == timed_out() {
        let text = format!("\nE: no end after {} s\n", deadline.as_secs());
        output.stderr.extend_from_slice(text.as_bytes());
    }
    Ok(output)
}

/// The status of a program ended by our deadline.
fn timed_out() -> ExitStatus {
    ExitStatus::from_raw(nix::sys::signal::Signal::SIGKILL as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        let output = run_until(command.arg("60"), dir.path(), Duration::from_millis(50)).unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains("E: no end after 0 s"), "{text}");
    }
}
