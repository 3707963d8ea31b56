//! What the person at the terminal sees: stage lines and progress on stderr, never on stdout.
//!
//! Data a command was asked for goes to stdout; everything else goes here. Colours and moving bars
//! appear on a terminal only, and `NO_COLOR` turns colours off.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where and how progress is shown; cheap to clone and share between threads.
#[derive(Debug, Clone)]
pub struct Ui {
    quiet: bool,
    bars: bool,
    colour: bool,
}

impl Ui {
    /// For this process: bars and colours when stderr is a terminal; `quiet` keeps only warnings.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { quiet, bars: terminal && !quiet, colour }
    }

    /// One line of news.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// A warning: shown even when quiet.
    pub fn warn(&self, text: impl AsRef<str>) {
        eprintln!("{} {}", self.paint("33", "warning:"), text.as_ref());
    }

    /// `text` in an ANSI colour (`"31"` red, `"32"` green, `"33"` yellow, `"1"` bold), or plain.
    pub fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A bar over `bytes` bytes; hidden where stderr is no terminal.
    pub fn bytes_bar(&self, label: impl Into<String>, bytes: u64) -> ProgressBar {
        let bar = ProgressBar::new(bytes);
        let target =
            if self.bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        let template = "{prefix} {bytes}/{total_bytes} {bytes_per_sec} {wide_bar} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.with_prefix(label.into())
    }
}

/// A duration as people read it: `0.31 s`, `12.4 s`, `3 min 04 s`.
pub fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        ..10.0 => format!("{s:.2} s"),
        ..60.0 => format!("{s:.1} s"),
        _ => format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// Time since `start`, as [`seconds`].
pub fn since(start: Instant) -> String {
    seconds(start.elapsed())
}
