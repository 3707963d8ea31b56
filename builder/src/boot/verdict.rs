//! The outcome of a boot: for people as a table, for programs as JSON beside the image.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::config::Role;
use node::files;
use node::image_id::ImageId;
use node::report::Report;
use node::values::{Digest, Hostname};
use serde::{Deserialize, Serialize};

use super::checks::Check;
use super::facts::Facts;
use super::phase::Phase;
use super::plan::{Accel, Expect, Firmware};
use crate::ui::Ui;

/// Version of the verdict's shape.
pub const SCHEMA: u32 = 1;

/// What came of one boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Whether everything was as expected.
    pub passed: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// How a first try ended that was not taken for the image's fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_try: Option<String>,
    /// Whether the test broke something on purpose: it then says nothing about the image.
    pub sabotaged: bool,
    /// Id of the image, if its maker gave one.
    pub image_id: Option<ImageId>,
    /// SHA-256 of the image file, the same before and after.
    pub digest: Digest,
    /// What started it.
    pub firmware: Firmware,
    /// Who ran it.
    pub accel: Accel,
    /// Name it was given.
    pub node: Hostname,
    /// Role of the image.
    pub role: Role,
    /// The state asked for.
    pub expect: Expect,
    /// Seconds from power-on to the facts, or to the failure.
    pub seconds: f64,
    /// When each phase began.
    pub phases: Vec<PhaseTime>,
    /// Every check; empty if the guest never reported.
    pub checks: Vec<Check>,
    /// firstboot's report.
    pub report: Option<Report>,
    /// Figures of the guest.
    pub figures: Figures,
    /// Where the console stands; only after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_log: Option<PathBuf>,
    /// The console's last lines, and on a failure firstboot's journal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// Why a boot did not pass, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of end it was.
    pub kind: Kind,
    /// What happened.
    pub text: String,
    /// What to do.
    pub fix: String,
}

/// The ways a boot fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Panic, emergency shell, prompt of GRUB or initrd, nothing to boot.
    Console,
    /// QEMU ended before the guest had reported.
    Exit,
    /// The time was up.
    Deadline,
    /// The guest reported, and something is not right.
    Check,
    /// The image file was changed by the boot.
    Image,
}

/// The beginning of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// Seconds since power-on.
    pub seconds: f64,
}

/// Figures of the running guest, for tables of sizes and times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Installed packages.
    pub packages: Option<u32>,
    /// Bytes used on the root file system.
    pub root_used: Option<u64>,
    /// Memory in use, in KiB.
    pub memory_used: Option<u64>,
    /// Microseconds from the kernel's start until both the console and SSH took a login.
    pub login_micros: Option<u64>,
    /// What `systemd-analyze time` says.
    pub analyze: Option<String>,
}

impl Figures {
    /// From the guest's facts.
    pub fn of(facts: &Facts) -> Self {
        let memory = |key: &str| -> Option<u64> {
            let line = facts.ok("memory")?.lines().find(|l| l.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let total = memory("MemTotal:").zip(memory("MemAvailable:"));
        Self {
            packages: facts.ok("packages").and_then(|t| t.trim().parse().ok()),
            root_used: facts.ok("root").and_then(|t| t.split_whitespace().nth(1)?.parse().ok()),
            memory_used: total.map(|(all, free)| all.saturating_sub(free)),
            login_micros: login(facts),
            analyze: facts.ok("analyze").map(str::to_owned),
        }
    }
}

/// The later of the two units; a unit that is not up says 0.
fn login(facts: &Facts) -> Option<u64> {
    let times: Option<Vec<u64>> =
        facts.ok("login")?.split_whitespace().map(|t| t.parse().ok().filter(|t| *t > 0)).collect();
    times?.into_iter().max()
}

/// Where the verdict of an image lies: `worker.qcow2` → `worker.qcow2.boot.json`.
pub fn path_for(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".boot.json");
    PathBuf::from(name)
}

impl Verdict {
    /// The cause, where the kernel panicked under emulation.
    pub(super) fn emulators_own(&self) -> Option<String> {
        let cause = self.cause.as_ref().filter(|c| c.kind == Kind::Console)?;
        let panicked = cause.text.starts_with(super::phase::PANIC);
        (panicked && self.accel == Accel::Tcg).then(|| cause.text.clone())
    }

    /// Records a pass beside the image; after a failure removes an earlier pass, which no longer
    /// holds for these bytes. A test that broke something on purpose leaves no trace.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub fn record(&self, image: &Path) -> Result<()> {
        let path = path_for(image);
        if self.sabotaged {
            return Ok(());
        }
        if !self.passed {
            return files::ensure_absent(&path).map(|_| ());
        }
        let mut text =
            serde_json::to_string_pretty(self).context("failed to encode the verdict")?;
        text.push('\n');
        files::write_atomic(&path, text.as_bytes(), 0o644)
    }

    /// The table for people.
    pub fn table(&self, ui: &Ui) -> String {
        let mut text = String::new();
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let (word, colour) = if check.passed { ("ok  ", "32") } else { ("FAIL", "31") };
            let _ =
                write!(text, "{}  {:width$}  {}", ui.paint(colour, word), check.name, check.found);
            if !check.passed {
                let _ = write!(text, "\n      {:width$}  right: {}", "", check.right);
                let _ = write!(text, "\n      {:width$}  fix:   {}", "", check.fix);
            }
            text.push('\n');
        }
        let times = self.phases.iter().map(|p| format!("{} {:.1}", p.phase, p.seconds));
        let _ = writeln!(text, "phases (s): {}", times.collect::<Vec<_>>().join(", "));
        for line in &self.last_lines {
            let _ = writeln!(text, "  | {line}");
        }
        text.push_str(&self.summary(ui));
        text
    }

    fn summary(&self, ui: &Ui) -> String {
        let how = format!("{}, {}, {:.1} s", self.firmware, self.accel, self.seconds);
        let Some(cause) = &self.cause else {
            return format!("{} {} ({how})\n", ui.paint("32", "boot passed:"), self.node);
        };
        let mut text = format!("{} {} ({how})\n", ui.paint("31", "boot failed:"), cause.text);
        let _ = writeln!(text, "fix: {}", cause.fix);
        if let Some(log) = &self.console_log {
            let _ = writeln!(text, "console: {}", log.display());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::facts::tests::facts;

    fn verdict(passed: bool) -> Verdict {
        let cause =
            Cause { kind: Kind::Check, text: "ports: tcp/111".into(), fix: "leave it".into() };
        let check = |name: &str, passed| Check {
            name: name.into(),
            passed,
            right: "tcp/22".into(),
            found: "tcp/111 tcp/22".into(),
            fix: "leave it".into(),
        };
        Verdict {
            schema: SCHEMA,
            passed,
            cause: (!passed).then_some(cause),
            first_try: None,
            sabotaged: false,
            image_id: Some("worker-3f9c2a71b0de".parse().unwrap()),
            digest: Digest::of("image"),
            firmware: Firmware::SeaBios,
            accel: Accel::Tcg,
            node: "n1".parse().unwrap(),
            role: Role::Agent,
            expect: Expect::Waiting,
            seconds: 41.25,
            phases: vec![PhaseTime { phase: Phase::Kernel, seconds: 4.0 }],
            checks: vec![check("ports", passed)],
            report: None,
            figures: Figures::default(),
            console_log: (!passed).then(|| "console.log".into()),
            last_lines: vec![],
        }
    }

    #[test]
    fn a_failure_takes_an_earlier_pass_away() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("worker.qcow2");
        verdict(true).record(&image).unwrap();
        let text = fs_err::read_to_string(path_for(&image)).unwrap();
        assert_eq!(serde_json::from_str::<Verdict>(&text).unwrap(), verdict(true));
        let broken = Verdict { sabotaged: true, ..verdict(false) };
        broken.record(&image).unwrap();
        assert!(path_for(&image).exists());
        verdict(false).record(&image).unwrap();
        assert!(!path_for(&image).exists());
        verdict(false).record(&image).unwrap();
    }

    #[test]
    fn only_a_panic_under_emulation_is_worth_a_second_try() {
        let ended = |text: &str, accel| {
            let mut verdict = Verdict { accel, ..verdict(false) };
            let cause = verdict.cause.as_mut().unwrap();
            (cause.kind, cause.text) = (Kind::Console, text.into());
            verdict.emulators_own().is_some()
        };
        assert!(ended("the kernel panicked, in phase `k3s`: [ 1.0] Kernel panic", Accel::Tcg));
        assert!(!ended("the kernel panicked, in phase `k3s`: [ 1.0] Kernel panic", Accel::Kvm));
        assert!(!ended("GRUB does not find its own files", Accel::Tcg));
        assert_eq!(verdict(false).emulators_own(), None);
        assert_eq!(verdict(true).emulators_own(), None);
    }

    #[test]
    fn the_tables_stand_as_recorded() {
        let ui = Ui::new(true);
        let both = format!("{}\n{}", verdict(true).table(&ui), verdict(false).table(&ui));
        insta::assert_snapshot!(both);
    }

    #[test]
    fn figures_come_from_the_facts_and_missing_ones_stay_away() {
        let memory = "MemTotal: 2000 kB\nMemFree: 1 kB\nMemAvailable: 1500 kB";
        let facts = facts(&[
            ("memory", memory),
            ("packages", "243\n"),
            ("root", "100 40"),
            ("login", "7\n\n9\n"),
        ]);
        let figures = Figures::of(&facts);
        assert_eq!(figures.memory_used, Some(500));
        assert_eq!((figures.packages, figures.root_used), (Some(243), Some(40)));
        assert_eq!((figures.login_micros, figures.analyze), (Some(9), None));
        assert_eq!(login(&super::tests::facts(&[("login", "0\n9")])), None);
    }
}
