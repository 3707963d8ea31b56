//! The report as metrics for `node_exporter`'s textfile collector, in Prometheus' text format:
//! seconds and counts, base units, one gauge per fact.

use std::fmt::Write;

use anyhow::Result;
use k8s_openapi::jiff::Timestamp;
use node::files;
use node::report::{Report, State};

use crate::boot::Machine;

/// Where `node_exporter` looks (`--collector.textfile.directory`), relative to the root.
pub const FILE: &str = "var/lib/node_exporter/textfile/firstboot.prom";

/// All states with their names, as exactly one of them is 1 at any time.
const STATES: [(State, &str); 4] = [
    (State::Starting, "starting"),
    (State::Waiting, "waiting"),
    (State::Ready, "ready"),
    (State::Failed, "failed"),
];

/// Writes the metrics of `report`, whole or not at all: the collector reads at any time.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn save(machine: &Machine, report: &Report) -> Result<()> {
    let path = machine.path(FILE);
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    // World-readable: node_exporter does not run as root.
    files::write_atomic(&path, render(report, Timestamp::now().as_second()).as_bytes(), 0o644)
}

/// The text, for a report made at `now` (seconds since 1970).
fn render(report: &Report, now: i64) -> String {
    let mut text = String::new();
    let image = report.image_id.as_ref();
    let (id, profile) = (
        image.map_or("unknown".to_owned(), ToString::to_string),
        image.map_or("unknown".to_owned(), |i| i.profile().to_string()),
    );
    let role = report.role.map_or("unknown", node::config::Role::as_str);
    let labels = [("image", id.as_str()), ("profile", profile.as_str()), ("role", role)];
    gauge(&mut text, "image_info", "The image this node runs.");
    sample(&mut text, "image_info", &labels, "1");
    gauge(&mut text, "state", "How far this boot came: 1 for the state the node is in.");
    for (state, name) in STATES {
        let value = u8::from(report.state == state).to_string();
        sample(&mut text, "state", &[("state", name)], &value);
    }
    gauge(&mut text, "step_seconds", "How long each step of this boot took.");
    for step in &report.steps {
        let labels = [("stage", step.stage.as_str()), ("step", step.name.as_str())];
        sample(&mut text, "step_seconds", &labels, &seconds(step.millis));
    }
    gauge(&mut text, "modified_packages", "Packages that differ from those of the image.");
    sample(&mut text, "modified_packages", &[], &report.modified.len().to_string());
    gauge(&mut text, "boot_duration_seconds", "From the kernel's start to this report.");
    sample(&mut text, "boot_duration_seconds", &[], &seconds(report.uptime_millis));
    gauge(&mut text, "report_timestamp_seconds", "When this report was made.");
    sample(&mut text, "report_timestamp_seconds", &[], &now.to_string());
    text
}

// Writing to a String does not fail.
fn gauge(text: &mut String, name: &str, help: &str) {
    let _ = write!(text, "# HELP firstboot_{name} {help}\n# TYPE firstboot_{name} gauge\n");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: &str) {
    let pair = |(key, value): &(&str, &str)| format!("{key}=\"{}\"", escape(value));
    let labels = labels.iter().map(pair).collect::<Vec<_>>().join(",");
    let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
    let _ = writeln!(text, "firstboot_{name}{labels} {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{reporting, testing};
    use node::report::{Outcome, StepReport};

    #[test]
    fn a_report_is_told_in_gauges_with_help_and_type() {
        let (_dir, boot) = testing::agent();
        let mut report = reporting::empty(&boot.machine, Some(&boot.config));
        report.state = State::Ready;
        report.uptime_millis = 12_340;
        report.modified = vec!["a 1 -> 2".into(), "+ b 1".into()];
        report.steps.push(StepReport {
            name: "clock".into(),
            stage: "host".into(),
            outcome: Outcome::Satisfied,
            millis: 7,
            detail: String::new(),
        });
        let text = render(&report, 1_800_000_000);
        for line in [
            "firstboot_image_info{image=\"worker-0123456789ab\",profile=\"worker\",role=\"agent\"} 1",
            "firstboot_state{state=\"ready\"} 1",
            "firstboot_state{state=\"failed\"} 0",
            "firstboot_step_seconds{stage=\"host\",step=\"clock\"} 0.007",
            "firstboot_modified_packages 2",
            "firstboot_boot_duration_seconds 12.340",
            "firstboot_report_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        for name in text.lines().filter(|l| !l.starts_with('#')) {
            let name = name.split(['{', ' ']).next().unwrap();
            let heads = [format!("# HELP {name} "), format!("# TYPE {name} gauge")];
            assert!(heads.iter().all(|head| text.matches(head.as_str()).count() == 1), "{name}");
        }
        assert_eq!(text.matches("} 1\n").count(), 2, "one image, one state");
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn the_file_is_made_with_its_folder_and_readable_by_all() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, boot) = testing::agent();
        let report = reporting::empty(&boot.machine, None);
        save(&boot.machine, &report).unwrap();
        let mode = fs_err::metadata(boot.path(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        assert!(testing::get(&boot, FILE).unwrap().contains("image=\"unknown\""));
    }
}
