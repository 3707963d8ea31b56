//! `builder boot` (D7): boots the very file that will be uploaded, on a throw-away overlay, with
//! the drive Proxmox would write, and lets the guest say what it found.
//!
//! Order of a boot: hash the file → choose KVM or emulation → overlay, drive, credentials →
//! start QEMU → watch it → judge the guest's facts → hash the file again.

pub mod agent;
pub mod checks;
pub mod console;
pub mod facts;
pub mod inject;
pub mod kvm;
pub mod machine;
pub mod phase;
pub mod plan;
pub mod ports;
pub mod programs;
pub mod qmp;
pub mod relay;
pub mod seed;
pub mod server;
pub mod signals;
pub mod verdict;
pub mod watch;
pub mod work;

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use node::files;
use node::values::Digest;

use self::checks::{Case, Check};
use self::facts::Facts;
use self::inject::{SUCCESS_EXIT, Task};
use self::machine::Machine;
pub use self::plan::{Accel, BootPlan, Ending, Expect, Firmware, Forward, NodeIdentity, Seed};
pub use self::programs::Tools;
pub use self::relay::relay;
use self::seed::SeedFiles;
use self::signals::Signals;
pub use self::verdict::{Cause, Kind, Verdict};
use self::verdict::{Figures, PhaseTime};
use self::watch::{End, Watch};
use self::work::{Work, digest_of};
use crate::ui::{Ui, since};

/// Part of the deadline kept for gathering and sending the facts, so that a guest that got stuck
/// can still say where.
const GATHERING: Duration = Duration::from_secs(30);
/// A server on loopback answers at once or not at all.
const FORWARD_LIMIT: Duration = Duration::from_secs(2);

/// Port of the Kubernetes API.
pub const API_PORT: u16 = 6443;
/// NFS 4 needs this port alone.
pub const NFS_PORT: u16 = 2049;

/// Boots and judges. A boot that fails is a verdict too, not an error.
///
/// QEMU 7.2's emulation of two processors now and then lets one run an instruction that the other has
/// replaced meanwhile (seen twice in some thirty boots on a busy machine: a breakpoint of the kernel's own
/// patching, hit when it was over), and the kernel panics. Such an end is tried once more, and told. A
/// kernel that is at fault itself ends the same way again.
///
/// # Errors
/// The test itself cannot be made: image missing or not the expected one, QEMU missing, no space,
/// interrupted.
pub fn boot(plan: &BootPlan, ui: &Ui) -> Result<Verdict> {
    let first = once(plan, ui)?;
    let Some(why) = first.emulators_own() else { return Ok(first) };
    let kept = plan.console_log.with_extension("first.log");
    fs_err::rename(&plan.console_log, &kept)?;
    ui.warn(format!(
        "{why}; under emulation once is no proof, so it is booted once more ({})",
        kept.display()
    ));
    Ok(Verdict { first_try: Some(why), ..once(plan, ui)? })
}

fn once(plan: &BootPlan, ui: &Ui) -> Result<Verdict> {
    let digest = hash(plan, ui)?;
    check_forward(plan)?;
    let signals = Signals::hold()?;
    let accel = accel(plan, ui)?;
    let limit = plan.deadline(accel);
    let task = Task {
        nonce: nonce()?,
        expect: plan.expect,
        limit: limit.saturating_sub(GATHERING).as_secs(),
    };
    let files = SeedFiles::of(&plan.node);
    let work = Work::prepare(plan, &task, &files)?;
    let mut machine = Machine::start(plan, accel, &work)?;
    let started = machine.started;
    let mut watch = Watch::new(plan, ui, &mut machine, &signals, &task, started + limit)?;
    let end = watch.run()?;
    let seconds = started.elapsed().as_secs_f64();
    let judged = judge(plan, &files, &mut watch, &end)?;
    watch.console.close()?;
    let mut verdict = Verdict {
        schema: verdict::SCHEMA,
        passed: judged.cause.is_none(),
        cause: judged.cause,
        first_try: None,
        sabotaged: plan.is_unlike_production(),
        image_id: plan.image_id.clone(),
        digest,
        firmware: plan.firmware,
        accel,
        node: plan.node.name.clone(),
        role: plan.role,
        expect: plan.expect,
        seconds,
        phases: phases(&watch),
        checks: judged.checks,
        report: judged.report,
        figures: judged.figures,
        console_log: None,
        last_lines: judged.last_lines,
    };
    if plan.ending == Ending::Keep {
        keep(plan, ui, &work, &mut watch, &verdict)?;
    }
    drop(watch);
    machine.end();
    finish(plan, &mut verdict)?;
    Ok(verdict)
}

fn hash(plan: &BootPlan, ui: &Ui) -> Result<Digest> {
    let start = Instant::now();
    let digest = digest_of(&plan.image)?;
    if let Some(expected) = &plan.expected {
        ensure!(
            digest == *expected,
            "{} is not the file its manifest describes: sha256 {digest}, manifest {expected}; \
             remove it and build the image again",
            plan.image.display()
        );
    }
    ui.line(format!("boot: {} {} ({})", plan.image.display(), digest.short(12), since(start)));
    Ok(digest)
}

/// Says at once what would otherwise be an agent that never becomes ready.
fn check_forward(plan: &BootPlan) -> Result<()> {
    let api = plan.forwards.iter().find(|f| f.port == API_PORT);
    let Some(Forward { server, .. }) = api else { return Ok(()) };
    TcpStream::connect_timeout(server, FORWARD_LIMIT).with_context(|| {
        format!("failed to reach the server at {server} that the node is to join")
    })?;
    Ok(())
}

fn accel(plan: &BootPlan, ui: &Ui) -> Result<Accel> {
    let (accel, why) = match plan.accel {
        Some(accel) => (accel, None),
        None => kvm::probe(&plan.tools)?,
    };
    let why = why.map_or(String::new(), |why| format!("; KVM does not run a guest: {why}"));
    ui.line(format!(
        "boot: {} as {} on {}{why}; at most {} s",
        plan.firmware,
        plan.node.name,
        accel,
        plan.deadline(accel).as_secs()
    ));
    Ok(accel)
}

/// 128 bits that no other boot has.
fn nonce() -> Result<String> {
    let mut bytes = [0; 16];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(Digest::of(bytes).short(32))
}

/// What the end of the watch comes to.
#[derive(Default)]
struct Judged {
    cause: Option<Cause>,
    checks: Vec<Check>,
    report: Option<node::report::Report>,
    figures: Figures,
    last_lines: Vec<String>,
}

fn judge(plan: &BootPlan, files: &SeedFiles, watch: &mut Watch<'_>, end: &End) -> Result<Judged> {
    let (kind, text, fix) = match end {
        End::Facts(facts) => return judge_facts(plan, files, watch, facts),
        End::Interrupted => bail!("interrupted in phase `{}`", watch.console.phase()),
        End::Fatal(meaning) => (
            Kind::Console,
            format!(
                "{meaning}, in phase `{}`: {}",
                watch.console.phase(),
                watch.console.fatal.as_deref().unwrap_or_default().trim()
            ),
            "see the console's last lines; `--keep` leaves the machine running",
        ),
        End::Exited(status) => (
            Kind::Exit,
            format!("QEMU ended in phase `{}` with {status}", watch.console.phase()),
            "the guest rebooted or powered off by itself: see the console",
        ),
        End::Deadline => (
            Kind::Deadline,
            format!("no report in time; the last phase was `{}`", watch.console.phase()),
            "see the console; `--timeout` allows more",
        ),
    };
    let cause = Some(Cause { kind, text, fix: fix.to_owned() });
    Ok(Judged { cause, last_lines: watch.console.last_lines(), ..Judged::default() })
}

fn judge_facts(
    plan: &BootPlan,
    files: &SeedFiles,
    watch: &mut Watch<'_>,
    facts: &Facts,
) -> Result<Judged> {
    let report = facts.report();
    let case = Case { plan, instance_id: files.instance_id(), facts, report: report.as_ref() };
    let mut checks = checks::judge(&case);
    match plan.ending {
        Ending::PowerCut => checks.push(exit_check(watch.answer(false)?)),
        Ending::Shutdown => checks.push(shutdown_check(watch.shut_down()?)),
        Ending::Keep => drop(watch.answer(true)?),
    }
    let failed = checks.iter().any(|c| !c.passed);
    let why = checks::diagnosis(&case, &checks).filter(|_| failed).map(|(text, fix)| {
        let also = watch.undelivered.as_ref().map_or(String::new(), |why| format!("; {why}"));
        Cause { kind: Kind::Check, text: text + &also, fix }
    });
    let mut last_lines = Vec::new();
    if failed {
        last_lines.extend(facts.text("errors").lines().map(str::to_owned));
        last_lines.extend(facts.text("journal").lines().map(str::to_owned));
    }
    Ok(Judged { cause: why, checks, figures: Figures::of(facts), report, last_lines })
}

fn exit_check(instead: Option<String>) -> Check {
    Check {
        name: "exit status".into(),
        passed: instead.is_none(),
        right: SUCCESS_EXIT.to_string(),
        found: instead.unwrap_or_else(|| SUCCESS_EXIT.to_string()),
        fix: "the guest may not write to I/O ports; was it started with Secure Boot?".into(),
    }
}

fn shutdown_check(instead: Option<String>) -> Check {
    Check {
        name: "shutdown".into(),
        passed: instead.is_none(),
        right: "powered off by itself".into(),
        found: instead.unwrap_or_else(|| "powered off by itself".into()),
        fix: "see the console's last lines for the unit that does not stop".into(),
    }
}

fn phases(watch: &Watch<'_>) -> Vec<PhaseTime> {
    let times = watch.console.phases.iter();
    times.map(|(phase, seconds)| PhaseTime { phase: *phase, seconds: *seconds }).collect()
}

/// Shows the verdict so far and how to get in, and holds the machine until Ctrl-C.
fn keep(
    plan: &BootPlan,
    ui: &Ui,
    work: &Work,
    watch: &mut Watch<'_>,
    so_far: &Verdict,
) -> Result<()> {
    ui.line(so_far.table(ui));
    ui.line("the machine keeps running; Ctrl-C here ends it");
    if let Some(ssh) = work.ssh {
        let user = if plan.node.user.is_empty() { "USER" } else { &plan.node.user };
        let key = plan.login_key.as_ref().map_or(String::new(), |k| format!(" -i {}", k.display()));
        // The guest's host key is new with every boot.
        let unknown = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null";
        ui.line(format!("  ssh{key} {unknown} -p {} {user}@{}", ssh.port(), ssh.ip()));
    }
    let console = work.path("console");
    ui.line(format!("  socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{}", console.display()));
    watch.hold()
}

/// Hashes the image again, and keeps or drops the console log.
fn finish(plan: &BootPlan, verdict: &mut Verdict) -> Result<()> {
    let after = digest_of(&plan.image)?;
    if after != verdict.digest {
        verdict.passed = false;
        verdict.cause = Some(Cause {
            kind: Kind::Image,
            text: format!("the boot changed the image file: sha256 {after} now"),
            fix: "something else writes to it; remove it and build it again".into(),
        });
    }
    if verdict.passed {
        files::ensure_absent(&plan.console_log)?;
    } else {
        verdict.console_log = Some(plan.console_log.clone());
    }
    Ok(())
}
