//! One way to run another program: three endings, the exit status always looked at, the last
//! of stderr in the error.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::failpoint;

/// How many bytes of a failed program's stderr go into the error: enough for its last words.
const STDERR_TAIL: usize = 2048;

/// `program`, to be ended by the kernel with `signal` (as setpriv(1) names it, such as `KILL`) when the
/// thread that starts it is gone, however that ends: else what a killed builder had started goes on
/// writing where the next one cleans up.
pub fn tied(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// Endings for a prepared [`Command`].
pub trait Run {
    /// Runs to the end; anything but exit status 0 is an error with stderr's tail.
    ///
    /// # Errors
    /// The program cannot be started, or fails.
    fn run(&mut self) -> Result<()>;

    /// Like `run`, and returns stdout as text.
    ///
    /// # Errors
    /// As [`Run::run`], or stdout is not UTF-8.
    fn stdout_text(&mut self) -> Result<String>;

    /// Whether it ended with status 0; its output is dropped.
    ///
    /// # Errors
    /// The program cannot be started.
    fn succeeds(&mut self) -> Result<bool>;

    /// The command line, quoted for a shell, for logs and errors.
    fn line(&self) -> String;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        self.stdin(Stdio::null());
        let output = start(self)?;
        check(self, &output)
    }

    fn stdout_text(&mut self) -> Result<String> {
        self.stdin(Stdio::null());
        let output = start(self)?;
        check(self, &output)?;
        String::from_utf8(output.stdout)
            .with_context(|| format!("the output of `{}` is not UTF-8", self.line()))
    }

    fn succeeds(&mut self) -> Result<bool> {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = self.status().with_context(|| format!("failed to start `{}`", self.line()))?;
        Ok(status.success())
    }

    fn line(&self) -> String {
        let words = std::iter::once(self.get_program()).chain(self.get_args());
        words.map(quote).collect::<Vec<_>>().join(" ")
    }
}

fn start(command: &mut Command) -> Result<Output> {
    failpoint::reach();
    let output = command.output();
    failpoint::reach();
    output.with_context(|| format!("failed to start `{}`", command.line()))
}

/// Turns a failed `output` of `command` into an error that ends with its last words.
///
/// # Errors
/// The status is not 0.
pub fn check(command: &Command, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let from = output.stderr.len().saturating_sub(STDERR_TAIL);
    let tail = String::from_utf8_lossy(&output.stderr[from..]);
    bail!("`{}` failed ({}): {}", command.line(), output.status, tail.trim());
}

fn quote(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tied_ends_with_the_thread_that_started_it() {
        use std::io::Read as _;
        use std::os::unix::process::ExitStatusExt as _;
        let start = || {
            let mut command = tied("KILL", "sh");
            command.args(["-c", "echo; exec sleep 60"]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // Only a program that runs is tied already.
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            child
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_failure_carries_the_line_the_status_and_the_last_words() {
        let mut cmd = Command::new("sh");
        let text = cmd.args(["-c", "echo gone >&2; exit 3"]).run().unwrap_err().to_string();
        assert_eq!(text, "`sh -c 'echo gone >&2; exit 3'` failed (exit status: 3): gone");
    }

    #[test]
    fn a_missing_program_is_named() {
        let text = Command::new("no-such-program").run().unwrap_err().to_string();
        assert_eq!(text, "failed to start `no-such-program`");
    }
}
