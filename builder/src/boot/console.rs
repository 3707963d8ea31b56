//! The serial console: every byte into a log with the seconds since power-on, every line to the
//! phase tracker, while it streams.

use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::phase::{News, Phase, Tracker};

/// Last lines shown after a failure.
const LAST_LINES: usize = 20;
/// A line longer than this is cut: a console that never ends one must not fill memory.
const LINE_BYTES: usize = 16 << 10;

/// The console of one boot.
#[derive(Debug)]
pub struct Console {
    log: BufWriter<fs_err::File>,
    started: Instant,
    tracker: Tracker,
    line: Vec<u8>,
    /// Whether the growing line was already found fatal, so that it is news only once.
    told: bool,
    last: VecDeque<String>,
    /// The line that ended the boot; whole once its end has come.
    pub fatal: Option<String>,
    /// When each phase began, in seconds since power-on.
    pub phases: Vec<(Phase, f64)>,
}

impl Console {
    /// Starts a log at `path`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: &Path, started: Instant) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder)?;
        }
        Ok(Self {
            log: BufWriter::new(fs_err::File::create(path)?),
            started,
            tracker: Tracker::default(),
            line: Vec::new(),
            told: false,
            last: VecDeque::new(),
            fatal: None,
            phases: vec![(Phase::Firmware, 0.0)],
        })
    }

    /// The furthest phase seen.
    pub fn phase(&self) -> Phase {
        self.tracker.phase()
    }

    /// The last lines, oldest first.
    pub fn last_lines(&self) -> Vec<String> {
        let growing = Some(clean(&self.line)).filter(|l| !l.trim().is_empty());
        let all: Vec<_> = self.last.iter().cloned().chain(growing).collect();
        all[all.len().saturating_sub(LAST_LINES)..].to_vec()
    }

    /// Takes what came from the port and says what is new.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<News>> {
        let mut news = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => news.extend(self.finish()?),
                _ if self.line.len() < LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
        if !self.told && !self.line.is_empty() {
            let growing = self.tracker.read(&clean(&self.line), false);
            self.told = !growing.is_empty();
            if self.told && self.fatal.is_none() {
                self.fatal = Some(clean(&self.line));
            }
            news.extend(growing);
        }
        self.log.flush()?;
        for one in &news {
            if let News::Phase(phase) = one {
                self.phases.push((*phase, self.started.elapsed().as_secs_f64()));
            }
        }
        Ok(news)
    }

    fn finish(&mut self) -> Result<Vec<News>> {
        let text = clean(&self.line);
        self.line.clear();
        writeln!(self.log, "{:9.3} {text}", self.started.elapsed().as_secs_f64())?;
        let mut news = self.tracker.read(&text, true);
        let is_fatal = |one: &News| matches!(one, News::Fatal(_));
        let growing = self.fatal.as_ref().is_some_and(|start| text.starts_with(start.as_str()));
        if growing || (self.fatal.is_none() && news.iter().any(is_fatal)) {
            self.fatal = Some(text.clone());
        }
        if std::mem::take(&mut self.told) {
            news.retain(|one| !is_fatal(one));
        }
        if !text.trim().is_empty() {
            self.last.push_back(text);
        }
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
        Ok(news)
    }

    /// Writes the growing line too, at the end of a boot.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn close(&mut self) -> Result<()> {
        if !self.line.is_empty() {
            writeln!(
                self.log,
                "{:9.3} {}",
                self.started.elapsed().as_secs_f64(),
                clean(&self.line)
            )?;
        }
        Ok(self.log.flush()?)
    }
}

/// A line without terminal control: escape sequences and other control characters gone.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // CSI: parameters up to a final letter.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC: up to BEL or ESC \.
                Some(']') => while chars.next().is_some_and(|c| c != '\x07' && c != '\\') {},
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (Console, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Console::new(&dir.path().join("a/console.log"), Instant::now()).unwrap(), dir)
    }

    #[test]
    fn lines_cut_anywhere_give_the_same_news() {
        let bytes =
            b"\x1b[2J\x1b[01;01HSeaBIOS\r\nWelcome to \x1b[1mGRUB!\r\n[0.0] Linux version 6\r\n";
        for cut in 0..bytes.len() {
            let (mut console, _dir) = console();
            let mut news = console.take(&bytes[..cut]).unwrap();
            news.extend(console.take(&bytes[cut..]).unwrap());
            assert_eq!(news, [News::Phase(Phase::Bootloader), News::Phase(Phase::Kernel)], "{cut}");
        }
    }

    #[test]
    fn a_prompt_is_news_once_and_stands_in_log_and_last_lines() {
        let (mut console, dir) = console();
        assert_eq!(console.take(b"ok\r\n\r\n(initramfs) ").unwrap().len(), 1);
        assert!(console.take(b"x").unwrap().is_empty());
        assert!(console.take(b"\n").unwrap().is_empty());
        console.take(b"more").unwrap();
        assert_eq!(console.last_lines(), ["ok", "(initramfs) x", "more"]);
        assert_eq!(console.fatal.as_deref(), Some("(initramfs) x"));
        console.close().unwrap();
        let log = fs_err::read_to_string(dir.path().join("a/console.log")).unwrap();
        assert!(log.lines().any(|l| l.ends_with(" (initramfs) x")), "{log}");
        assert!(log.ends_with(" more\n"), "{log}");
    }

    #[test]
    fn only_the_last_lines_are_kept_and_an_endless_one_is_cut() {
        let (mut console, _dir) = console();
        for n in 0..50 {
            console.take(format!("line {n}\n").as_bytes()).unwrap();
        }
        console.take(&vec![b'x'; 2 * LINE_BYTES]).unwrap();
        let last = console.last_lines();
        assert_eq!((last.len(), last[0].as_str()), (LAST_LINES, "line 31"));
        assert_eq!(last[LAST_LINES - 1].len(), LINE_BYTES);
    }
}
