//! Running a program under test: one deadline, its stderr as it comes with the time of each line,
//! its peak memory.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node::command::Run as _;

/// For any single run: longer than a boot test's own limit, whose verdict says more than this one.
pub const DEADLINE: Duration = Duration::from_mins(17);
/// How often a running program is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The command line.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed as data.
    pub stdout: String,
    /// What it told, with the time since its start.
    pub told: Vec<(Duration, String)>,
    /// How long it ran.
    pub time: Duration,
    /// `VmHWM` of the process itself, without its children, in KiB.
    pub peak_kib: u64,
}

impl Ended {
    /// All of stderr.
    pub fn stderr(&self) -> String {
        let lines: Vec<&str> = self.told.iter().map(|(_, line)| line.as_str()).collect();
        lines.join("\n")
    }

    /// The exit code; `None` for a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The run itself, if it ended well.
    ///
    /// # Errors
    /// It did not; the error has its last words.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.status.success(), "`{}` ended with {}: {}", self.line, self.status, {
            self.stderr()
        });
        Ok(self)
    }

    /// The one line of stdout.
    ///
    /// # Errors
    /// There are more or fewer.
    pub fn only_line(&self) -> Result<&str> {
        let mut lines = self.stdout.lines();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Ok(line),
            _ => bail!("`{}` printed not one line but: {}", self.line, self.stdout),
        }
    }

    /// The stages that were made, not reused, in their order.
    pub fn made(&self) -> Vec<String> {
        let lines = self.told.iter().filter_map(|(_, line)| stage_line(line));
        lines.filter(|(_, text)| text.starts_with("made, ")).map(|(name, _)| name).collect()
    }

    /// When each stage began and ended: name, start and end since the program's start.
    pub fn spans(&self) -> Vec<(String, Duration, Duration)> {
        let mut spans = Vec::new();
        let mut since = Duration::ZERO;
        for (at, line) in &self.told {
            let Some((name, text)) = stage_line(line) else { continue };
            if text.starts_with("made, ") {
                spans.push((name, since, *at));
            }
            since = *at;
        }
        spans
    }
}

/// `stage 3/5 base: made, 1 s` → `base`, `made, 1 s`.
pub fn stage_line(line: &str) -> Option<(String, String)> {
    let (_, rest) = line.strip_prefix("stage ")?.split_once(' ')?;
    let (name, text) = rest.split_once(": ")?;
    Some((name.to_owned(), text.to_owned()))
}

/// A program under way. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    line: String,
    child: Child,
    start: Instant,
    stdout: Option<JoinHandle<String>>,
    lines: Receiver<(Duration, String)>,
    told: Vec<(Duration, String)>,
    peak_kib: u64,
    limit: Duration,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let line = command.line();
        let mut child = command.spawn().with_context(|| format!("failed to start `{line}`"))?;
        let start = Instant::now();
        let (Some(mut out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("`{line}` has no pipes");
        };
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = out.read_to_end(&mut bytes); // what came before an error is still shown
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(err).lines().map_while(Result::ok) {
                let _ = send.send((start.elapsed(), text)); // nobody listens after an early end
            }
        });
        let (told, stdout) = (Vec::new(), Some(stdout));
        Ok(Self { line, child, start, stdout, lines, told, peak_kib: 0, limit: DEADLINE })
    }

    /// Allows it another time than [`DEADLINE`], counted from its start.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// What it has told so far.
    pub fn told(&self) -> impl Iterator<Item = &str> {
        self.told.iter().map(|(_, line)| line.as_str())
    }

    /// Waits until it says a line that fits; `false` when it ends before.
    ///
    /// # Errors
    /// It says nothing of the kind by the deadline.
    pub fn wait_for(&mut self, fits: impl Fn(&str) -> bool) -> Result<bool> {
        while self.start.elapsed() < self.limit {
            match self.lines.recv_timeout(POLL) {
                Ok((at, line)) => {
                    let found = fits(&line);
                    self.told.push((at, line));
                    if found {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
        bail!("`{}` does not get there within {:?}: {:?}", self.line, self.limit, self.told);
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it alone, not to its children.
    ///
    /// # Errors
    /// It has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id is positive")?;
        kill(Pid::from_raw(pid), signal).context("failed to signal")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end by the deadline; then it is killed.
    pub fn end(mut self) -> Result<Ended> {
        let status = loop {
            self.look();
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if self.start.elapsed() > self.limit {
                bail!("`{}` runs for more than {:?}", self.line, self.limit); // drop kills it
            }
            std::thread::sleep(POLL);
        };
        let time = self.start.elapsed();
        if status.signal().is_none() {
            // A killed program's children may hold the pipe open for a while; do not wait for them.
            self.told.extend(self.lines.iter());
        } else {
            self.told.extend(self.lines.try_iter());
        }
        let stdout = match self.stdout.take() {
            Some(reader) if status.signal().is_none() => reader.join().unwrap_or_default(),
            _ => String::new(),
        };
        let told = std::mem::take(&mut self.told);
        Ok(Ended { line: self.line.clone(), status, stdout, told, time, peak_kib: self.peak_kib })
    }

    /// Notes the peak of its memory so far.
    fn look(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = status.unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
        self.peak_kib = self.peak_kib.max(kib.unwrap_or_default());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already in most cases.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs to the end.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn run(command: &mut Command) -> Result<Ended> {
    Running::start(command)?.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_its_stages_and_how_it_ended() {
        let script = "echo 'stage 1/2 base: install: no output for key x yet' >&2
                      echo 'stage 1/2 base: made, 1 s' >&2
                      echo 'stage 2/2 image: reused, key y unchanged' >&2; echo data; exit 3";
        let mut command = Command::new("sh");
        let ended = run(command.args(["-c", script])).unwrap();
        assert_eq!((ended.code(), ended.only_line().unwrap()), (Some(3), "data"));
        assert_eq!(ended.made(), ["base"]);
        assert_eq!(ended.spans()[0].0, "base");
        assert!(ended.ok().unwrap_err().to_string().contains("exit status: 3"));
    }
}
