//! Where lines go: under systemd to the journal with fields, and to the console; else to stderr.

use std::path::Path;
use std::sync::OnceLock;

use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::console;

/// Set once the journal takes our lines.
static JOURNAL: OnceLock<()> = OnceLock::new();

/// Sends all later lines to the journal with the field `IMAGE_ID`, if systemd started us as the
/// service of a stage.
pub fn connect(stage: &str, image_id: &str) {
    if !connected_to_journal() || JOURNAL.get().is_some() {
        return;
    }
    let Ok(logger) = JournalLog::new() else { return };
    let logger = logger
        .add_extra_field("IMAGE_ID", image_id)
        // We may be gone before journald has looked up whose lines these are; with this field
        // `journalctl --unit` finds them all the same.
        .add_extra_field("OBJECT_SYSTEMD_UNIT", format!("firstboot-{stage}.service"));
    if logger.install().is_ok() {
        log::set_max_level(log::LevelFilter::Info);
        let _ = JOURNAL.set(());
    }
}

/// A line about a step.
pub fn info(root: &Path, step: &str, text: &str) {
    write(root, log::Level::Info, step, text);
}

/// A line about something that a person should look at.
pub fn warn(root: &Path, step: &str, text: &str) {
    write(root, log::Level::Warn, step, text);
}

/// The last words of a command that failed.
pub fn error(text: &str) {
    eprintln!("error: {text}");
}

fn write(root: &Path, level: log::Level, step: &str, text: &str) {
    if JOURNAL.get().is_some() {
        log::log!(level, STEP = step; "{text}");
        // Not by way of stderr: the journal would hold each line twice.
        console::line(root, &format!("firstboot: {text}"));
    } else {
        eprintln!("firstboot: {text}");
    }
}
