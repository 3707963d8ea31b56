//! QEMU's own control channel (QMP): start the paused machine, end it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// QEMU answers its control channel in milliseconds; more means that it hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// An open control channel.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes over a fresh connection: greeting and capabilities.
    ///
    /// # Errors
    /// The other side is no QMP server, or does not answer.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Self { stream: BufReader::new(stream) };
        let greeting = qmp.read()?;
        ensure!(greeting.get("QMP").is_some(), "QEMU greeted with {greeting}");
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Runs a command without arguments and returns its result.
    ///
    /// # Errors
    /// QEMU refuses it or does not answer.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": command }));
        let sent = self.stream.get_mut().write_all(line.as_bytes());
        sent.with_context(|| format!("failed to send `{command}` to QEMU"))?;
        loop {
            let mut answer = self.read().with_context(|| format!("`{command}` had no answer"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused `{command}`: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            // Anything else is an event, such as RESUME.
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let got = self.stream.read_line(&mut line).context("failed to read from QEMU")?;
        ensure!(got > 0, "QEMU closed its control channel");
        serde_json::from_str(&line).with_context(|| format!("QEMU said {line:?}"))
    }
}

/// Connects to a socket that QEMU is about to make, until `limit` has passed. `alive` is asked
/// between tries and ends them with its error.
///
/// # Errors
/// The limit passed, or `alive` failed.
pub fn connect(
    path: &Path,
    limit: Duration,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<UnixStream> {
    let end = Instant::now() + limit;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(e) if Instant::now() >= end => {
                return Err(e).with_context(|| format!("failed to connect to {}", path.display()));
            }
            Err(_) => alive()?,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A QEMU that says `lines`, whatever it is asked.
    fn saying(lines: &str) -> Result<Qmp> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).unwrap();
        let qmp = Qmp::new(ours);
        drop(theirs);
        qmp
    }

    #[test]
    fn events_between_question_and_answer_are_passed_over() {
        let lines = "{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESUME\"}\n{\"return\":7}\n";
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(lines.as_bytes()).unwrap();
        assert_eq!(Qmp::new(ours).unwrap().execute("cont").unwrap(), 7);
    }

    #[test]
    fn a_refusal_and_a_foreign_server_are_named() {
        let refused = saying("{\"QMP\":{}}\n{\"error\":{\"class\":\"X\"}}\n").unwrap_err();
        assert_eq!(refused.to_string(), "QEMU refused `qmp_capabilities`: {\"class\":\"X\"}");
        assert_eq!(saying("{\"x\":1}\n").unwrap_err().to_string(), "QEMU greeted with {\"x\":1}");
    }

    #[test]
    fn connecting_ends_when_the_program_behind_is_gone() {
        let error = connect(Path::new("no-such-socket"), Duration::from_secs(5), || bail!("gone"));
        assert_eq!(error.unwrap_err().to_string(), "gone");
    }
}
