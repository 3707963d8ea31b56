//! How far a boot is, told from its console, and what on a console means that it goes no further.

use std::fmt;

use node::report::{CONSOLE_PREFIX, Report, State};
use serde::{Deserialize, Serialize};

/// The stretches of a boot, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `SeaBIOS` or OVMF.
    Firmware,
    /// GRUB.
    Bootloader,
    /// Linux, up to its first process.
    Kernel,
    /// systemd starts units.
    Systemd,
    /// cloud-init gives name, network and keys.
    CloudInit,
    /// firstboot's host stage.
    Firstboot,
    /// Maintenance mode: no secret yet. Before `K3s`, as a node may pass it on the way.
    Waiting,
    /// K3s starts or joins.
    K3s,
    /// Ready in Kubernetes.
    Ready,
}

/// What shows that a phase has begun; the first match of the furthest phase counts.
const MARKS: &[(Phase, &[&str])] = &[
    (Phase::Firmware, &["SeaBIOS", "BdsDxe:"]),
    (Phase::Bootloader, &["GRUB loading", "Welcome to GRUB", "Booting `"]),
    (Phase::Kernel, &["Linux version ", "Loading initial ramdisk"]),
    (Phase::Systemd, &["systemd[1]: ", "Welcome to Debian", "Welcome to Ubuntu", "[  OK  ]"]),
    (Phase::CloudInit, &["Cloud-init v.", "cloud-init["]),
    (Phase::Firstboot, &["firstboot-host.service", "firstboot: "]),
    (Phase::K3s, &["k3s.service", "k3s-agent.service", "k3s["]),
];

/// What a panic is called.
pub(super) const PANIC: &str = "the kernel panicked";

/// What ends a boot at once: text on the console, and what it means.
const FATAL: &[(&str, &str)] = &[
    ("No bootable device", "the firmware found no bootable disk"),
    ("UEFI Interactive Shell", "the firmware found no bootable disk (UEFI shell)"),
    ("BdsDxe: No bootable option", "the firmware found no bootable disk"),
    ("grub rescue>", "GRUB does not find its own files (rescue prompt)"),
    ("grub>", "GRUB does not find its configuration (prompt)"),
    ("Kernel panic - not syncing", PANIC),
    ("(initramfs)", "the initrd did not find the root file system (shell)"),
    ("You are in emergency mode", "systemd went into emergency mode"),
    ("You are in rescue mode", "systemd went into rescue mode"),
    ("Entering emergency mode", "systemd went into emergency mode"),
    ("Give root password for maintenance", "systemd asks for a password in emergency mode"),
    ("the root account is locked", "systemd went into emergency mode, with root locked"),
    ("systemd[1]: Freezing execution", "systemd stopped itself"),
];

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firmware => "firmware",
            Self::Bootloader => "bootloader",
            Self::Kernel => "kernel",
            Self::Systemd => "systemd",
            Self::CloudInit => "cloud-init",
            Self::Firstboot => "firstboot",
            Self::K3s => "k3s",
            Self::Waiting => "waiting for a join secret",
            Self::Ready => "ready",
        })
    }
}

/// What a line of the console says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A later phase has begun.
    Phase(Phase),
    /// firstboot's report of the moment.
    Report(Box<Report>),
    /// A unit failed: systemd's status line.
    FailedUnit(String),
    /// The boot is over, and why.
    Fatal(&'static str),
}

/// The phase of a boot so far.
#[derive(Debug, Clone, Copy)]
pub struct Tracker {
    phase: Phase,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { phase: Phase::Firmware }
    }
}

impl Tracker {
    /// The furthest phase seen.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What a line, whole or still growing (prompts have no end), says that is new.
    pub fn read(&mut self, line: &str, whole: bool) -> Vec<News> {
        let mut news = Vec::new();
        if let Some((_, meaning)) = FATAL.iter().find(|(text, _)| line.contains(text)) {
            news.push(News::Fatal(meaning));
        }
        if !whole {
            return news;
        }
        if let Some(report) = report_in(line) {
            news.extend(self.advance(phase_of(report.state)));
            news.push(News::Report(Box::new(report)));
            return news;
        }
        if line.contains("[FAILED]") {
            news.push(News::FailedUnit(line.trim().to_owned()));
        }
        let seen = MARKS.iter().filter(|(_, marks)| marks.iter().any(|m| line.contains(m)));
        if let Some((phase, _)) = seen.max_by_key(|(phase, _)| *phase) {
            news.extend(self.advance(*phase));
        }
        news
    }

    fn advance(&mut self, phase: Phase) -> Option<News> {
        if phase <= self.phase {
            return None;
        }
        self.phase = phase;
        Some(News::Phase(phase))
    }
}

fn report_in(line: &str) -> Option<Report> {
    let (_, json) = line.split_once(CONSOLE_PREFIX)?;
    serde_json::from_str(json.trim()).ok()
}

fn phase_of(state: State) -> Phase {
    match state {
        State::Starting => Phase::K3s,
        State::Waiting => Phase::Waiting,
        State::Ready => Phase::Ready,
        State::Failed => Phase::Firstboot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_seen_once_and_never_goes_back() {
        let table = [
            ("SeaBIOS (version 1.16.2)", Phase::Firmware),
            ("Welcome to GRUB!", Phase::Bootloader),
            ("[    0.000000] Linux version 6.12.117", Phase::Kernel),
            ("Welcome to Debian GNU/Linux 13 (trixie)!", Phase::Systemd),
            ("[   20.1] cloud-init[411]: Cloud-init v. 25.1 running", Phase::CloudInit),
            ("         Starting firstboot-host.service - Prepare", Phase::Firstboot),
            ("[  OK  ] Started systemd-logind.service", Phase::Firstboot),
            ("         Starting k3s-agent.service", Phase::K3s),
            ("[   20.1] cloud-init[411]: modules-final", Phase::K3s),
        ];
        let mut tracker = Tracker::default();
        let mut last = Phase::Firmware;
        for (line, phase) in table {
            let news = tracker.read(line, true);
            let expected = (phase > last).then_some(News::Phase(phase));
            assert_eq!(news, expected.into_iter().collect::<Vec<_>>(), "{line}");
            assert_eq!(tracker.phase(), phase, "{line}");
            last = phase;
        }
    }

    #[test]
    fn what_ends_a_boot_is_seen_before_its_line_ends() {
        for (text, meaning) in FATAL {
            let line = format!("[ 1.0] {text}");
            assert_eq!(Tracker::default().read(&line, false), [News::Fatal(meaning)], "{text}");
        }
        for line in ["[ 0.0] Command line: panic=10", "grub_linux", "emergency.target"] {
            assert!(Tracker::default().read(line, false).is_empty(), "{line}");
        }
    }

    #[test]
    fn a_report_on_the_console_is_read_and_a_cut_one_is_not() {
        let json = r#"{"schema":1,"image_id":null,"node":"n","role":null,"boot_id":"b",
            "state":"ready","uptime_millis":1,"steps":[]}"#
            .replace('\n', "");
        let line = format!("[   30.1] {CONSOLE_PREFIX}{json}");
        let news = Tracker::default().read(&line, true);
        assert_eq!(news[0], News::Phase(Phase::Ready));
        assert!(matches!(&news[1], News::Report(r) if r.state == State::Ready));
        assert!(Tracker::default().read(&line[..line.len() - 1], true).is_empty());
    }

    #[test]
    fn a_failed_unit_is_news() {
        let line = "[FAILED] Failed to start nfs.mount - /srv.";
        assert_eq!(Tracker::default().read(line, true), [News::FailedUnit(line.into())]);
    }
}
