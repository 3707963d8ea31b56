//! Tasks: what Proxmox does in the background, named by a UPID and followed to its end.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::client::Client;
use super::clock::Patience;
use super::error::{Class, Error};
use super::parse;
use super::transport::{Method, Request};

/// A fresh task may not be found by its own name for a moment.
const FRESH: Duration = Duration::from_secs(10);
/// A task that takes longer than this is told about, again and again.
const NEWS_EVERY: Duration = Duration::from_secs(15);
/// The end of a failed task's log says why; the whole of it may be thousands of lines of progress.
const LOG_LINES: usize = 20;

/// Name of a task: `UPID:NODE:PID:PSTART:START:TYPE:ID:USER:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upid {
    text: String,
    node: String,
    kind: String,
    id: String,
}

impl Upid {
    /// The host it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Such as `qmcreate`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The VM's number, of a clone that of its source; a storage's name; may be empty.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Upid {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{text}` is no task's name");
        let parts: Vec<_> = text.split(':').collect();
        let ["UPID", node, pid, pstart, start, kind, id, user, ""] = parts.as_slice() else {
            return Err(fail());
        };
        let hex =
            |t: &str, n: &[usize]| n.contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
        let name = |t: &str| {
            let edge = |c: char| c.is_ascii_alphanumeric();
            t.starts_with(edge) && t.ends_with(edge) && t.chars().all(|c| edge(c) || c == '-')
        };
        let plain = |t: &str| !t.contains(['/', ' ', '\t', '\n']);
        let sound = name(node)
            && hex(pid, &[8])
            && hex(pstart, &[8, 9])
            && hex(start, &[8])
            && [kind, id, user].into_iter().all(|t| plain(t))
            && !kind.is_empty()
            && !user.is_empty();
        if !sound {
            return Err(fail());
        }
        let own = |t: &str| t.to_owned();
        Ok(Self { text: own(text), node: own(node), kind: own(kind), id: own(id) })
    }
}

/// How a task ended that did not fail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskEnd {
    /// Its name; `None` when the effect was found without it.
    pub upid: Option<Upid>,
    /// Lines of its log that warn; they were shown already.
    pub warnings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    exitstatus: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default, deserialize_with = "parse::word")]
    t: String,
}

impl Client {
    /// Follows a task to its end. `call` names what it is for.
    ///
    /// # Errors
    /// It failed, with the end of its log; or it did not end within `limit`.
    pub fn follow(&self, call: &str, upid: &Upid, limit: Duration) -> Result<TaskEnd, Error> {
        self.remember(upid);
        let clock = self.clock();
        let first = Duration::from_millis(100);
        let mut patience = Patience::new(clock, limit, first, Duration::from_secs(2));
        let (started, mut told) = (clock.now(), clock.now());
        loop {
            match self.task_status(upid) {
                Ok(status) if status.status == "stopped" => {
                    return self.ended(call, upid, &status.exitstatus.unwrap_or_default());
                }
                Ok(_) => {}
                Err(e)
                    if e.class == Class::NotFound
                        && clock.now().saturating_sub(started) < FRESH => {}
                Err(e) => return Err(e),
            }
            if clock.now().saturating_sub(told) >= NEWS_EVERY {
                told = clock.now();
                self.tell_progress(call, upid, told.saturating_sub(started));
            }
            if !patience.wait() {
                let text = format!("the task {upid} did not end within {} s", limit.as_secs());
                return Err(Error::new(Class::StillRuns, call, text).fix(
                    "look at the task on the host's web page; run the command again when it ended",
                ));
            }
        }
    }

    fn task_status(&self, upid: &Upid) -> Result<Status, Error> {
        let path = format!("/nodes/{}/tasks/{upid}/status", upid.node);
        self.read(&Request::new(Method::Get, path))
    }

    fn ended(&self, call: &str, upid: &Upid, exit: &str) -> Result<TaskEnd, Error> {
        if exit == "OK" {
            return Ok(TaskEnd { upid: Some(upid.clone()), warnings: Vec::new() });
        }
        // A log that cannot be had must not hide how the task ended.
        let log = self.task_log(upid).unwrap_or_default();
        if exit.starts_with("WARNINGS") {
            let warns = |line: &&String| line.to_ascii_uppercase().starts_with("WARN");
            let mut warnings: Vec<_> = log.iter().filter(warns).cloned().collect();
            if warnings.is_empty() {
                warnings.push(format!("the task {upid} ended with {exit}"));
            }
            for line in &warnings {
                self.ui().warn(format!("{call}: {line}"));
            }
            return Ok(TaskEnd { upid: Some(upid.clone()), warnings });
        }
        let skip = log.len().saturating_sub(LOG_LINES);
        Err(Error::of_task(call, exit, &log[skip..]))
    }

    /// The lines of a task's log.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn task_log(&self, upid: &Upid) -> Result<Vec<String>, Error> {
        let path = format!("/nodes/{}/tasks/{upid}/log", upid.node);
        let lines: Vec<Line> = self.read(&Request::new(Method::Get, path).with("limit", &0))?;
        Ok(lines.into_iter().map(|line| line.t).collect())
    }

    fn tell_progress(&self, call: &str, upid: &Upid, elapsed: Duration) {
        let log = self.task_log(upid).unwrap_or_default();
        let last = log.last().map(|line| format!(": {line}")).unwrap_or_default();
        self.ui().line(format!("{call}: still running after {} s{last}", elapsed.as_secs()));
    }

    /// A task of this kind on a host that this client has not followed yet: the one a call started
    /// whose answer was lost. The newest, running or not; foreign ones are seen only with
    /// `Sys.Audit`.
    pub(super) fn unseen_task(
        &self,
        node: &str,
        (kind, id): (&str, &str),
    ) -> Result<Option<Upid>, Error> {
        #[derive(Debug, Deserialize)]
        struct Entry {
            #[serde(default, deserialize_with = "parse::word")]
            upid: String,
        }
        let path = format!("/nodes/{node}/tasks");
        let request = Request::new(Method::Get, path)
            .with("typefilter", kind)
            .with("source", "all")
            .with("limit", &50);
        let entries: Vec<Entry> = self.read(&request)?;
        let tasks = entries.iter().filter_map(|entry| entry.upid.parse::<Upid>().ok());
        let mut tasks = tasks.filter(|t| t.kind == kind && t.id == id && !self.remembers(t));
        Ok(tasks.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tasks_are_read_and_others_refused() {
        let upid: Upid =
            "UPID:pve1:00005212:0005BF3E:6B041983:qmcreate:9000:builder@pve!ci:".parse().unwrap();
        assert_eq!((upid.node(), upid.kind(), upid.id()), ("pve1", "qmcreate", "9000"));
        let upid: Upid =
            "UPID:pve-2:00086DA5:00B7AA7A1:6A4C5684:imgcopy::root@pam!sdk:".parse().unwrap();
        assert_eq!((upid.node(), upid.id()), ("pve-2", ""));
        for bad in [
            "",
            "garbage",
            "UPID:pve:4675:0005B36F:6A4A8EED:qmcreate:9101:root@pam:",
            "UPID:pve:00004675:0005B36F:6A4A8EED:qmcreate:9101:root@pam",
            "UPID:pve_1:00004675:0005B36F:6A4A8EED:qmcreate:9101:root@pam:",
            "UPID:../x:00004675:0005B36F:6A4A8EED:qmcreate:9101:root@pam:",
        ] {
            assert!(bad.parse::<Upid>().is_err(), "{bad}");
        }
    }
}
