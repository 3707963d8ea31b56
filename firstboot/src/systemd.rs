//! What we ask of systemd: units by `systemctl`, and our own state by its notify socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;

use anyhow::Result;
use node::command::Run;

/// Exit status that systemd gives a service whose program it could not execute.
pub const EXIT_EXEC: u32 = 203;

/// Lines of a unit's journal shown when it does not come up.
const TAIL: &str = "12";

/// Longest text made of them: the report goes over a serial line, and K3s logs whole objects.
const LONGEST: usize = 1500;

/// Sends `text` (`STATUS=…`, `READY=1`) to systemd, if it started us and listens.
pub fn notify(text: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = name.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    // A status that systemd does not get is no reason to fail.
    let sent = address.and_then(|to| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &to));
    drop(sent);
}

/// Queues the start of units, or their restart when `again`, without waiting for them.
///
/// # Errors
/// systemd refuses, for example because a unit does not exist.
pub fn start(units: &[&str], again: bool) -> Result<()> {
    let verb = if again { "restart" } else { "start" };
    Command::new("systemctl").args([verb, "--no-block"]).args(units).run()
}

/// Whether a unit runs.
///
/// # Errors
/// `systemctl` cannot be started.
pub fn is_active(unit: &str) -> Result<bool> {
    Command::new("systemctl").args(["is-active", "--quiet", unit]).succeeds()
}

/// How a service unit stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `active`, `activating`, `failed`, …
    pub active: String,
    /// `running`, `auto-restart`, …
    pub sub: String,
    /// How the last run ended: `success`, `exit-code`, `signal`, `exec-condition`, …
    pub result: String,
    /// Exit status of the last run; 203 means that the binary could not be executed.
    pub status: u32,
    /// How often systemd restarted it by itself.
    pub restarts: u32,
}

impl UnitState {
    /// Reads it from systemd.
    ///
    /// # Errors
    /// `systemctl` fails.
    pub fn of(unit: &str) -> Result<Self> {
        const KEYS: &str = "--property=ActiveState,SubState,Result,ExecMainStatus,NRestarts";
        let text = Command::new("systemctl").args(["show", KEYS, unit]).stdout_text()?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
            match key {
                "ActiveState" => value.clone_into(&mut state.active),
                "SubState" => value.clone_into(&mut state.sub),
                "Result" => value.clone_into(&mut state.result),
                "ExecMainStatus" => state.status = value.parse().unwrap_or(0),
                "NRestarts" => state.restarts = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        state
    }

    /// Why this unit will not come up without help, if that is so.
    pub fn hopeless(&self) -> Option<String> {
        // How often a start may fail before we call it a habit: K3s itself ends once or twice
        // while its server or its peers are not there yet.
        const RESTARTS: u32 = 3;
        let ended = format!("{}, exit status {}", self.result, self.status);
        match (self.active.as_str(), self.sub.as_str()) {
            _ if self.status == EXIT_EXEC && self.active != "active" => {
                Some("its program cannot be executed (status 203/EXEC)".to_owned())
            }
            ("failed", _) => Some(format!("it failed ({ended})")),
            (_, "auto-restart") if self.restarts >= RESTARTS => {
                Some(format!("it ended {} times ({ended})", self.restarts + 1))
            }
            _ => None,
        }
    }
}

/// The last lines of a unit's journal in this boot, or why there are none.
pub fn last_lines(unit: &str) -> String {
    let mut command = Command::new("journalctl");
    command.args(["--boot", "--no-pager", "--output=cat", "--lines", TAIL, "--unit", unit]);
    match command.stdout_text() {
        Ok(text) => tail(&text.trim().replace('\n', " | ")),
        Err(error) => format!("(no journal: {error:#})"),
    }
}

/// The end of `text`, at most [`LONGEST`] bytes and a mark.
fn tail(text: &str) -> String {
    let from = text.len().saturating_sub(LONGEST);
    if from == 0 {
        return text.to_owned();
    }
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    format!("… {}", &text[from..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_short_and_whole_characters() {
        assert_eq!(tail("short"), "short");
        let text = tail(&"äöü".repeat(LONGEST));
        assert!(text.len() <= LONGEST + 4 && text.ends_with('ü'), "{}", text.len());
        assert!(tail(&format!("{}ä", "x".repeat(LONGEST - 1))).starts_with("… x"));
    }

    #[test]
    fn only_a_unit_that_cannot_come_up_is_hopeless() {
        let state = |active, sub, status, restarts| {
            let text = format!(
                "ActiveState={active}\nSubState={sub}\nResult=exit-code\nExecMainStatus={status}\nNRestarts={restarts}\n"
            );
            UnitState::parse(&text).hopeless()
        };
        assert_eq!(state("active", "running", 0, 0), None);
        assert_eq!(state("activating", "start", 0, 0), None);
        assert_eq!(state("activating", "auto-restart", 1, 2), None);
        assert_eq!(state("active", "running", 203, 1), None);
        let text = state("activating", "auto-restart", 203, 0).unwrap();
        assert_eq!(text, "its program cannot be executed (status 203/EXEC)");
        let text = state("activating", "auto-restart", 1, 3).unwrap();
        assert_eq!(text, "it ended 4 times (exit-code, exit status 1)");
        assert_eq!(
            state("failed", "failed", 1, 0).unwrap(),
            "it failed (exit-code, exit status 1)"
        );
    }
}
