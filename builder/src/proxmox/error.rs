//! What went wrong with a call or a task, sorted by what a caller can do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::tls::Refused;
use super::transport::{Failure, Reply};

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The token is not known.
    Auth,
    /// The token may not do this.
    Permission,
    /// A parameter is wrong.
    Rejected,
    /// The VM's number is taken.
    IdTaken,
    /// The VM carries a lock; it may go away.
    Locked,
    /// A lock was waited for in vain, or the cluster is not ready: the call had no effect and can
    /// be repeated.
    Busy,
    /// The call did not arrive: it can be repeated.
    NotDelivered,
    /// Nobody knows whether the call had its effect: look before repeating.
    Unknown,
    /// The task still runs after all the time it was given.
    StillRuns,
    /// There is no such VM, volume or task.
    NotFound,
    /// A template that linked clones stand on.
    InUse,
    /// The guest's agent does not answer yet.
    AgentNotReady,
    /// The server's certificate is not good.
    Certificate,
    /// What arrived is not what was sent.
    Corrupt,
    /// This version of Proxmox has no such call, or the program made it wrongly.
    Unsupported,
    /// The state is not right for it.
    Refused,
    /// Something of this machine's own.
    Local,
}

/// A failed call or task.
#[derive(Debug, Clone)]
pub struct Error {
    /// What can be done.
    pub class: Class,
    /// The call, such as `POST /nodes/pve1/qemu`, without its values.
    pub call: String,
    /// What Proxmox said, or what happened to the connection.
    pub text: String,
    /// Per parameter, what is wrong with it.
    pub errors: BTreeMap<String, String>,
    /// The task's log, of a task that failed.
    pub log: Box<[String]>,
    /// What a person can do.
    pub fix: Option<String>,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.text)?;
        for (name, text) in &self.errors {
            write!(f, "\n  {name}: {text}")?;
        }
        for line in &self.log {
            write!(f, "\n  | {line}")?;
        }
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// A status (0: any) and a pattern of the message.
type Row = (u16, &'static str, Class);

/// Replies by what they say; the first that fits counts. [`STATUS`] has the rest.
const REPLIES: [Row; 14] = [
    (400, r"^errors: .*already exists", Class::IdTaken),
    (400, r"^errors: .*no such task", Class::NotFound),
    (500, r"^Configuration file 'nodes/.+' does not exist$", Class::NotFound),
    (500, r"^unable to find configuration file for VM \d+", Class::NotFound),
    (500, r"^unable to create VM \d+.*already exists", Class::IdTaken),
    (500, r"^VM is locked \(", Class::Locked),
    (500, r"can't lock file .* - got timeout", Class::Busy),
    (500, r"got lock request timeout", Class::Busy),
    (500, r"^cluster not ready - no quorum\?", Class::Busy),
    (500, r"got no worker upid", Class::Busy),
    (500, r"^(only root can set|Only root can pass)", Class::Permission),
    (
        500,
        r"^(No QEMU guest agent configured|VM \d+ is not running|QEMU guest agent is not running)",
        Class::AgentNotReady,
    ),
    (500, r"^SSH public key validation error$", Class::Rejected),
    (501, r"", Class::Unsupported),
];

/// Replies by their status alone.
const STATUS: [(u16, Class); 7] = [
    (400, Class::Rejected),
    (401, Class::Auth),
    (403, Class::Permission),
    (506, Class::Unsupported),
    (595, Class::NotDelivered),
    (596, Class::Unknown),
    (599, Class::Unknown),
];

/// Ends of tasks.
const TASKS: [Row; 8] = [
    (0, r"(can't lock file '.*'|cfs-lock '.*' error:).*got (lock request )?timeout$", Class::Busy),
    (0, r"^VM is locked \(", Class::Locked),
    (0, r"^unable to create VM \d+.*already exists", Class::IdTaken),
    (0, r"is still in use by linked cloned$", Class::InUse),
    (0, r"^checksum mismatch: got ", Class::Corrupt),
    (0, r"^failed to stat '", Class::NotFound),
    (0, r"^(unexpected status$|.*interrupted by signal$)", Class::Unknown),
    (0, r"^\d{3} Permission check failed", Class::Permission),
];

static REPLY_RULES: LazyLock<Vec<(u16, Regex, Class)>> = LazyLock::new(|| compiled(&REPLIES));
static TASK_RULES: LazyLock<Vec<(u16, Regex, Class)>> = LazyLock::new(|| compiled(&TASKS));

fn compiled(rows: &[Row]) -> Vec<(u16, Regex, Class)> {
    let row = |(status, text, class): &Row| Some((*status, Regex::new(text).ok()?, *class));
    rows.iter().filter_map(row).collect()
}

fn find(rules: &[(u16, Regex, Class)], status: u16, text: &str) -> Option<Class> {
    let fits = |(s, re, _): &&(u16, Regex, Class)| *s == status && re.is_match(text);
    rules.iter().find(fits).map(|(_, _, class)| *class)
}

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
struct Body {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    errors: Option<BTreeMap<String, String>>,
}

impl Error {
    /// An error of our own making.
    pub fn new(class: Class, call: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            class,
            call: call.into(),
            text: text.into(),
            errors: BTreeMap::new(),
            log: Box::default(),
            fix: None,
        }
    }

    /// The same with what a person can do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Of a reply that is no success.
    pub fn of_reply(call: &str, reply: &Reply) -> Self {
        let body: Body = serde_json::from_slice(&reply.body).unwrap_or_default();
        let message = body.message.as_deref().map_or("", str::trim);
        let message = if message.is_empty() { reply.reason.as_str() } else { message };
        let errors = body.errors.unwrap_or_default();
        let detail = errors.values().cloned().collect::<Vec<_>>().join("; ");
        let class = find(&REPLY_RULES, reply.status, &format!("errors: {detail}"))
            .filter(|_| !errors.is_empty())
            .or_else(|| find(&REPLY_RULES, reply.status, message))
            .or_else(|| STATUS.iter().find(|(s, _)| *s == reply.status).map(|(_, class)| *class))
            .unwrap_or(Class::Refused);
        let errors = errors.into_iter().map(|(k, v)| (k, v.trim().to_owned())).collect();
        let text = format!("{} {message}", reply.status);
        let error = Self { errors, ..Self::new(class, call, text) };
        match fix_of(class, message) {
            Some(fix) => error.fix(fix),
            None => error,
        }
    }

    /// Of a call without a reply.
    pub fn of_failure(call: &str, endpoint: &str, failure: Failure) -> Self {
        match failure {
            Failure::Unreached(text) => Self::new(
                Class::NotDelivered,
                call,
                format!("{endpoint} cannot be reached: {text}"),
            )
            .fix("check proxmox.endpoint, and that this machine reaches the host's port"),
            Failure::Certificate(Refused { found, why, fix }) => Self::new(
                Class::Certificate,
                call,
                format!("the certificate of {endpoint} {why}\n  its SHA-256 fingerprint: {found}"),
            )
            .fix(fix),
            Failure::Broken(text) => Self::new(Class::Unknown, call, format!("no answer: {text}")),
            Failure::Local(text) => Self::new(Class::Local, call, text),
        }
    }

    /// Of a task that ended with `exit`.
    pub fn of_task(call: &str, exit: &str, log: &[String]) -> Self {
        let class = find(&TASK_RULES, 0, exit).unwrap_or(Class::Refused);
        let error =
            Self { log: log.into(), ..Self::new(class, call, format!("the task failed: {exit}")) };
        match fix_of(class, exit) {
            Some(fix) => error.fix(fix),
            None => error,
        }
    }

    /// Whether repeating the same call is safe and may help.
    pub const fn is_passing(&self) -> bool {
        matches!(self.class, Class::Busy | Class::Locked | Class::NotDelivered)
    }
}

fn fix_of(class: Class, message: &str) -> Option<String> {
    let inside = message.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'));
    let inside = inside.map(|(inside, _)| inside);
    Some(match (class, inside) {
        (Class::Auth, _) => "the token is not known or was revoked: make a new one with \
                             `pveum user token add`, see docs/proxmox.md"
            .to_owned(),
        (Class::Permission, Some(what)) if what.contains("does not exist") => {
            format!("make it first: `pveum pool add NAME` ({what})")
        }
        (Class::Permission, Some(what)) if what.contains("modifying tag") => {
            "the datacenter restricts tags: allow ours in Datacenter, Options, User Tag Access"
                .to_owned()
        }
        (Class::Permission, Some(what)) => match what.split_once(", ") {
            Some((path, privilege)) if path.starts_with('/') => {
                let first = privilege.split('|').next().unwrap_or_default();
                format!(
                    "give the token a role with {first} on {path}; `builder preflight` prints the \
                     command"
                )
            }
            _ => "`builder preflight` names the privileges that are missing".to_owned(),
        },
        (Class::Permission, None) => {
            "`builder preflight` names the privileges that are missing".to_owned()
        }
        (Class::Locked, Some(_)) => "if nothing works on the VM any more, the lock is a killed \
                                     task's; root removes it on its host with `qm unlock VMID`"
            .to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, message: &str) -> Class {
        let body = serde_json::json!({ "message": format!("{message}\n"), "data": null });
        let reply = Reply { status, reason: "x".into(), body: body.to_string().into() };
        Error::of_reply("GET /x", &reply).class
    }

    #[test]
    fn every_row_is_a_pattern() {
        assert_eq!((REPLY_RULES.len(), TASK_RULES.len()), (REPLIES.len(), TASKS.len()));
    }

    #[test]
    fn replies_are_sorted_by_what_helps() {
        let cases = [
            (401, "No ticket", Class::Auth),
            (403, "Permission check failed (/vms/9, VM.Audit)", Class::Permission),
            (400, "Parameter verification failed.", Class::Rejected),
            (500, "unable to create VM 9: config file already exists", Class::IdTaken),
            (500, "unable to create VM 9 - VM 9 already exists on node 'a'", Class::IdTaken),
            (500, "VM is locked (clone)", Class::Locked),
            (500, "can't lock file '/x' - got timeout", Class::Busy),
            (
                500,
                "Configuration file 'nodes/a/qemu-server/9.conf' does not exist",
                Class::NotFound,
            ),
            (500, "QEMU guest agent is not running", Class::AgentNotReady),
            (500, "storage 'x' does not exist", Class::Refused),
            (501, "Method 'GET /x' not implemented", Class::Unsupported),
            (595, "", Class::NotDelivered),
            (596, "", Class::Unknown),
        ];
        for (status, message, class) in cases {
            assert_eq!(of(status, message), class, "{status} {message}");
        }
    }

    #[test]
    fn tasks_are_sorted_by_what_helps() {
        let cases = [
            ("can't lock file '/x' - got timeout", Class::Busy),
            ("cfs-lock 'storage-a' error: got lock request timeout", Class::Busy),
            ("clone failed: cfs-lock 'storage-a' error: got lock request timeout", Class::Busy),
            ("checksum mismatch: got 'a' != expect 'b'", Class::Corrupt),
            ("base volume 'a' is still in use by linked cloned", Class::InUse),
            ("unexpected status", Class::Unknown),
            ("shrinking disks is not supported", Class::Refused),
        ];
        for (exit, class) in cases {
            assert_eq!(Error::of_task("x", exit, &[]).class, class, "{exit}");
        }
    }

    #[test]
    fn parameters_are_named_and_an_empty_body_speaks_by_its_reason() {
        let body = serde_json::json!({
            "message": "Parameter verification failed.\n", "errors": { "vmid": "VM 9 already exists\n" },
        });
        let reply = Reply { status: 400, reason: "x".into(), body: body.to_string().into() };
        let error = Error::of_reply("GET /cluster/nextid", &reply);
        assert_eq!(error.class, Class::IdTaken);
        assert_eq!(
            error.to_string(),
            "GET /cluster/nextid: 400 Parameter verification failed.\n  vmid: VM 9 already exists"
        );
        let reply = Reply { status: 595, reason: "Connection refused".into(), body: vec![] };
        let error = Error::of_reply("GET /x", &reply);
        assert_eq!(error.to_string(), "GET /x: 595 Connection refused");
    }
}
