//! What must be true inside a booted node: a table of checks, judged here from the guest's facts.
//! The hygiene among them is what clones of an image would otherwise share (traps P7 and P8).

use node::report::{Report, State};
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::plan::{BootPlan, Expect, Seed};
use super::ports;

/// Largest difference allowed between the guest's clock and ours, in seconds.
const CLOCK_LIMIT: f64 = 5.0;
/// Share of the disk the root file system must reach: the rest is partitions and ext4's own.
const ROOT_SHARE: f64 = 0.85;

/// One judged check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name of the check.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What is right.
    pub right: String,
    /// What was found.
    pub found: String,
    /// What to do when it does not hold.
    pub fix: String,
}

/// What the checks look at.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// What was asked for.
    pub plan: &'a BootPlan,
    /// Instance-id on the drive.
    pub instance_id: &'a str,
    /// What the guest said.
    pub facts: &'a Facts,
    /// firstboot's report among it.
    pub report: Option<&'a Report>,
}

/// One row of the table: name, judge, what to do. The judge gives what is right, what was found,
/// and whether that is right.
struct Rule {
    name: &'static str,
    judge: fn(&Case<'_>) -> (String, String, bool),
    fix: &'static str,
}

/// Causes before effects: the first that fails is the one to look at.
const RULES: &[Rule] = &[
    Rule {
        name: "hostname",
        judge: |c| equal(c.plan.node.name.as_str(), c.facts.ok("hostname")),
        fix: "cloud-init did not apply the drive; see /var/log/cloud-init.log",
    },
    Rule {
        name: "instance-id",
        judge: |c| equal(c.instance_id, c.facts.ok("instance-id")),
        fix: "cloud-init read no drive or another one; the initrd needs sr_mod and isofs",
    },
    Rule {
        name: "cloud-init",
        judge: cloud_init,
        fix: "see /run/cloud-init/result.json; the drive is what Proxmox writes",
    },
    Rule {
        name: "network",
        judge: network,
        fix: "compare the drive's network-config with `ip addr` in the guest",
    },
    Rule {
        name: "image-id",
        judge: image_version,
        fix: "the image does not hold the manifest's id; remove it and build it again",
    },
    Rule {
        name: "report's image-id",
        judge: report_image,
        fix: "node.json and manifest are of different builds; remove the image and build it again",
    },
    Rule {
        name: "failed units",
        judge: failed_units,
        fix: "`systemctl status UNIT` in the guest (--keep)",
    },
    Rule { name: "state", judge: state, fix: "see firstboot's report and the journal below" },
    Rule {
        name: "machine-id",
        judge: machine_id,
        fix: "/etc/machine-id must be empty in the image",
    },
    Rule {
        name: "host keys",
        judge: host_keys,
        fix: "/etc/ssh/ssh_host_* must be absent from the image and made at boot, before sshd",
    },
    Rule {
        name: "old logs",
        judge: |c| none(c.facts.ok("old-logs")),
        fix: "empty /var/log in the image",
    },
    Rule {
        name: "journals",
        judge: |c| equal("1", c.facts.ok("journals")),
        fix: "the image holds another machine's journal, or none is written",
    },
    Rule {
        name: "root file system",
        judge: root_size,
        fix: "root must be the last partition, with x-systemd.growfs and growpart",
    },
    Rule {
        name: "clock",
        judge: clock,
        fix: "the clock must come from the hardware clock, which runs in UTC",
    },
    Rule {
        name: "ports",
        judge: ports::judge,
        fix: "one too many: `ss -lntup` in the guest (--keep) names the program, leave it out; \
              one too few: its service has not started",
    },
];

/// Judges everything.
pub fn judge(case: &Case<'_>) -> Vec<Check> {
    let row = |rule: &Rule| {
        let (right, found, passed) = (rule.judge)(case);
        Check { name: rule.name.into(), passed, right, found, fix: rule.fix.into() }
    };
    RULES.iter().map(row).collect()
}

const MISSING: &str = "not there";

fn equal(right: &str, found: Option<&str>) -> (String, String, bool) {
    let found = found.map_or(MISSING, str::trim);
    (right.to_owned(), found.to_owned(), right == found)
}

fn none(found: Option<&str>) -> (String, String, bool) {
    let Some(text) = found else { return ("none".into(), "not known".into(), false) };
    let names: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    let found = if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    ("none".into(), found, names.is_empty())
}

/// A mount of an NFS export is tried again for ever, and between two tries systemd calls it failed:
/// a boot test without a NAS is no broken image.
fn failed_units(case: &Case<'_>) -> (String, String, bool) {
    let text = case.facts.ok("failed").map(|text| {
        let counts = |line: &&str| !(line.starts_with("srv-nfs-") && line.contains(".mount "));
        text.lines().filter(counts).collect::<Vec<_>>().join("\n")
    });
    none(text.as_deref())
}

fn cloud_init(case: &Case<'_>) -> (String, String, bool) {
    let right = "NoCloud, no errors".to_owned();
    let text = case.facts.ok("cloud-init").unwrap_or_default();
    let Ok(result) = serde_json::from_str::<serde_json::Value>(text) else {
        return (right, "no result: it has not run to its end".into(), false);
    };
    let source = result["v1"]["datasource"].as_str().unwrap_or_default();
    let errors: Vec<_> = result["v1"]["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e.as_str())
        .collect();
    let passed = source.contains("NoCloud") && errors.is_empty();
    let found = match errors.first() {
        None => source.to_owned(),
        Some(first) => format!("{source}, {} errors: {first}", errors.len()),
    };
    (right, found, passed)
}

fn network(case: &Case<'_>) -> (String, String, bool) {
    let node = &case.plan.node;
    let address = format!("{}/{}", node.address, node.prefix);
    let route = format!("default via {}", node.gateway);
    let text = case.facts.ok("network").unwrap_or_default();
    let has = |what: &str| text.split_whitespace().any(|w| w == what);
    let routed = text.lines().any(|l| l.starts_with(&route));
    let mut found: Vec<&str> = text.lines().filter(|l| l.starts_with("default")).collect();
    found.extend(text.split_whitespace().filter(|w| w.contains('/') && !w.starts_with("127.")));
    found.dedup();
    (format!("{address}, {route}"), found.join(", "), has(&address) && routed)
}

fn image_version(case: &Case<'_>) -> (String, String, bool) {
    let found = case.facts.ok("os-release").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("IMAGE_VERSION="))?;
        Some(line.trim_matches('"').to_owned())
    });
    match &case.plan.image_id {
        Some(id) => equal(id.short(), found.as_deref()),
        None => any(found),
    }
}

fn report_image(case: &Case<'_>) -> (String, String, bool) {
    let found = case.report.and_then(|r| r.image_id.as_ref()).map(ToString::to_string);
    match &case.plan.image_id {
        Some(id) => equal(&id.to_string(), found.as_deref()),
        None => any(found),
    }
}

fn any(found: Option<String>) -> (String, String, bool) {
    let passed = found.is_some();
    ("any".into(), found.unwrap_or_else(|| MISSING.into()), passed)
}

fn state(case: &Case<'_>) -> (String, String, bool) {
    let wanted = match case.plan.expect {
        Expect::Ready => State::Ready,
        Expect::Waiting => State::Waiting,
    };
    let found = match case.report {
        None => "no report of firstboot".to_owned(),
        Some(report) => name(report.state).to_owned(),
    };
    (name(wanted).into(), found, case.report.is_some_and(|r| r.state == wanted))
}

/// The state's name as the report writes it.
pub fn name(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Waiting => "waiting",
        State::Ready => "ready",
        State::Failed => "failed",
    }
}

fn machine_id(case: &Case<'_>) -> (String, String, bool) {
    let right = "32 hex digits, written by this boot".to_owned();
    let text = case.facts.ok("machine-id").unwrap_or_default();
    let mut lines = text.lines();
    let id = lines.next().unwrap_or(MISSING);
    let hex = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()) && id != "0".repeat(32);
    let fresh = lines.next().and_then(|t| t.trim().parse().ok()) >= case.facts.born();
    let passed = hex && fresh && case.facts.born().is_some();
    let found = if hex && !fresh { format!("{id}, older than this boot") } else { id.to_owned() };
    (right, found, passed)
}

fn host_keys(case: &Case<'_>) -> (String, String, bool) {
    let right = "at least one, all made by this boot".to_owned();
    let keys: Vec<(i64, &str)> = case
        .facts
        .ok("host-keys")
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(time, path)| Some((time.parse().ok()?, path)))
        .collect();
    let Some(born) = case.facts.born() else { return (right, "not known".into(), false) };
    let old: Vec<_> = keys.iter().filter(|(time, _)| *time < born).map(|(_, p)| *p).collect();
    let found = match (keys.len(), old.len()) {
        (0, _) => "none".to_owned(),
        (n, 0) => format!("{n}, all new"),
        _ => format!("baked: {}", old.join(" ")),
    };
    (right, found, !keys.is_empty() && old.is_empty())
}

#[expect(clippy::cast_precision_loss, reason = "sizes of disks, to be shown and compared roughly")]
fn root_size(case: &Case<'_>) -> (String, String, bool) {
    const GIB: f64 = (1_u64 << 30) as f64;
    let least = case.plan.disk.bytes() as f64 * ROOT_SHARE;
    let size = case.facts.ok("root").and_then(|t| t.split_whitespace().next()?.parse::<f64>().ok());
    let size = size.unwrap_or(0.0);
    let right = format!("at least {:.1} GiB of {}", least / GIB, case.plan.disk);
    (right, format!("{:.1} GiB", size / GIB), size >= least)
}

fn clock(case: &Case<'_>) -> (String, String, bool) {
    let skew = case.facts.skew;
    let right = format!("within {CLOCK_LIMIT} s of the host's");
    (right, format!("{skew:+.2} s"), skew.abs() <= CLOCK_LIMIT)
}

/// In one or two sentences, why a boot that reached its report did not pass.
pub fn diagnosis(case: &Case<'_>, checks: &[Check]) -> Option<(String, String)> {
    let failed = |name: &str| checks.iter().any(|c| c.name == name && !c.passed);
    if failed("hostname") && failed("instance-id") {
        let what = match case.plan.seed {
            Seed::NoCloud => "cloud-init found no drive",
            Seed::Missing => "the machine has no cloud-init drive",
            Seed::Broken => "cloud-init could not read its drive",
        };
        let also = case.report.and_then(|r| r.failure.as_ref());
        let also = also.map_or(String::new(), |f| format!("; firstboot says: {}", f.cause));
        return Some((
            format!("{what}: the node has neither name nor address{also}"),
            "attach a NoCloud drive (Proxmox: ide2 STORE:cloudinit) and start the VM again".into(),
        ));
    }
    if let Some(Report { state, failure: Some(failure), .. }) = case.report
        && (*state == State::Failed || failed("state"))
    {
        let how = if *state == State::Failed { "failed" } else { "waits" };
        let text = format!("firstboot's step `{}` {how}: {}", failure.step, failure.cause);
        return Some((text, failure.fix.clone()));
    }
    if case.report.is_none() {
        return Some((
            "firstboot made no report in the time given".into(),
            "see the journal below; are firstboot's units in the image and enabled?".into(),
        ));
    }
    let first = checks.iter().find(|c| !c.passed)?;
    let text = format!("{}: {}, right is {}", first.name, first.found, first.right);
    Some((text, first.fix.clone()))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
