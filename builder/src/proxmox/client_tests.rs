//! The client against a scripted wire, in virtual time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::changes::Clone;
use super::client::{Client, Limits};
use super::clock::Clock;
use super::error::{Class, Error};
use super::transport::{Failure, OnBytes, Reply, Request, Transport, Upload};
use super::upload::Uploaded;
use crate::ui::Ui;

const UPID: &str = "UPID:pve1:00005212:0005BF3E:6B041983:qmclone:9000:builder@pve!ci:";

/// Time that passes only by pauses.
#[derive(Default)]
struct Virtual(Mutex<Duration>);

impl Clock for Virtual {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn pause(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}

/// What the wire does with one call.
type Answer = (&'static str, Wire);

#[derive(Clone)]
enum Wire {
    Says(u16, String),
    Fails(Failure),
}

/// Answers in order, each only to the call it is meant for; the last one stays.
struct Script(Mutex<VecDeque<Answer>>);

impl Script {
    fn answer(&self, call: &str) -> Result<Reply, Failure> {
        let mut answers = self.0.lock().unwrap();
        let (wanted, answer) = answers.front().cloned().expect("a call after the script's end");
        assert!(call.contains(wanted), "{call} instead of {wanted}");
        if answers.len() > 1 {
            answers.pop_front();
        }
        match answer {
            Wire::Says(status, body) => {
                Ok(Reply { status, reason: "as it is".into(), body: body.into() })
            }
            Wire::Fails(failure) => Err(failure),
        }
    }
}

impl Transport for Script {
    fn send(&self, request: &Request) -> Result<Reply, Failure> {
        self.answer(&request.name())
    }
    fn upload(&self, upload: &Upload, on_bytes: OnBytes) -> Result<Reply, Failure> {
        on_bytes(upload.bytes);
        self.answer(&upload.path())
    }
}

fn client(answers: Vec<Answer>) -> (Client, Arc<Virtual>, Arc<Script>) {
    let clock = Arc::new(Virtual::default());
    let script = Arc::new(Script(Mutex::new(answers.into())));
    let wire: Arc<dyn Transport> = Arc::<Script>::clone(&script);
    let time: Arc<dyn Clock> = Arc::<Virtual>::clone(&clock);
    (Client::new("https://pve1:8006", wire, time, Ui::new(true)), clock, script)
}

fn ok(data: &Value) -> Wire {
    Wire::Says(200, json!({ "data": data }).to_string())
}

fn fail(status: u16, message: &str) -> Wire {
    Wire::Says(status, json!({ "message": format!("{message}\n"), "data": null }).to_string())
}

fn broken() -> Wire {
    Wire::Fails(Failure::Broken("connection closed before message completed".into()))
}

fn stopped(exit: &str) -> Wire {
    ok(&json!({ "status": "stopped", "exitstatus": exit }))
}

const CLONE: Clone<'static> =
    Clone { from: ("pve1", 9000), vmid: 201, name: "w1", pool: None, full: None };

fn ended(script: &Script) -> bool {
    script.0.lock().unwrap().len() == 1
}

fn class(result: Result<impl std::fmt::Debug, Error>) -> Class {
    result.unwrap_err().class
}

#[test]
fn a_lock_is_waited_for_and_its_last_cause_told_when_the_time_is_up() {
    let busy = || fail(500, "can't lock file '/var/lock/x' - got timeout");
    let (c, clock, script) = client(vec![
        ("POST", busy()),
        ("POST", ok(&json!(UPID))),
        ("status", stopped("cfs-lock 'storage-a' error: got lock request timeout")),
        ("log", ok(&json!([{ "n": 1, "t": "x" }]))),
        ("POST", ok(&json!(UPID))),
        ("status", stopped("OK")),
    ]);
    assert_eq!(c.clone_vm(&CLONE).unwrap().upid.unwrap().to_string(), UPID);
    assert!(ended(&script) && clock.now() > Duration::from_secs(1));
    let (c, clock, _) = client(vec![("POST", busy())]);
    let error = c.clone_vm(&CLONE).unwrap_err();
    assert_eq!(error.class, Class::Busy);
    assert!(error.text.ends_with("got timeout (for 300 s)"), "{}", error.text);
    assert_eq!(clock.now(), Limits::default().locks);
}

#[test]
fn a_call_that_was_not_delivered_is_repeated_and_one_refused_is_not() {
    let (c, _, script) = client(vec![
        ("POST", fail(595, "Connection refused")),
        ("POST", Wire::Fails(Failure::Unreached("refused".into()))),
        ("POST", ok(&json!(UPID))),
        ("status", stopped("OK")),
    ]);
    c.clone_vm(&CLONE).unwrap();
    assert!(ended(&script));
    let (c, clock, _) = client(vec![("POST", fail(595, "No route to host"))]);
    assert_eq!(class(c.clone_vm(&CLONE)), Class::NotDelivered);
    assert!(clock.now() < 2 * Limits::default().reach);
    let (c, clock, _) =
        client(vec![("POST", fail(403, "Permission check failed (/vms/201, VM.Allocate)"))]);
    assert_eq!(class(c.clone_vm(&CLONE)), Class::Permission);
    assert_eq!(clock.now(), Duration::ZERO);
}

#[test]
fn after_a_lost_answer_the_effect_is_looked_for_before_the_call_is_repeated() {
    let none = || fail(500, "Configuration file 'nodes/pve1/qemu-server/201.conf' does not exist");
    // It had its effect: no second POST.
    let (c, _, script) = client(vec![
        ("POST", fail(596, "")),
        ("config", none()),
        ("tasks", ok(&json!([]))),
        ("config", ok(&json!({ "name": "w1", "lock": "clone" }))),
        ("tasks", ok(&json!([{ "upid": UPID }]))),
        ("status", stopped("OK")),
        ("config", ok(&json!({ "name": "w1" }))),
    ]);
    c.clone_vm(&CLONE).unwrap();
    assert!(ended(&script));
    // It had none: a second POST, and only one.
    let mut answers = vec![("POST", broken())];
    for _ in 0..10 {
        answers.extend([("config", none()), ("tasks", ok(&json!([])))]);
    }
    answers.extend([("POST", ok(&json!(UPID))), ("status", stopped("OK"))]);
    let (c, clock, script) = client(answers);
    c.clone_vm(&CLONE).unwrap();
    assert!(ended(&script));
    assert_eq!(clock.now(), Limits::default().lost, "it may still take effect for so long");
}

#[test]
fn a_number_that_somebody_else_took_is_told_also_after_a_lost_answer() {
    let other = || ok(&json!({ "name": "theirs" }));
    let taken = || fail(500, "unable to create VM 201: config file already exists");
    let mut answers = vec![("POST", broken())];
    for _ in 0..10 {
        answers.extend([("config", other()), ("tasks", ok(&json!([])))]);
    }
    answers.extend([("POST", taken()), ("config", other())]);
    let (c, _, script) = client(answers);
    assert_eq!(class(c.clone_vm(&CLONE)), Class::IdTaken);
    assert!(ended(&script));
    // The first call had its effect late: the second one is refused for it, and that is a success.
    let mut answers = vec![("POST", broken())];
    let none = || fail(500, "Configuration file 'nodes/pve1/qemu-server/201.conf' does not exist");
    for _ in 0..10 {
        answers.extend([("config", none()), ("tasks", ok(&json!([])))]);
    }
    answers.extend([("POST", taken()), ("config", ok(&json!({ "name": "w1" })))]);
    let (c, _, script) = client(answers);
    c.clone_vm(&CLONE).unwrap();
    assert!(ended(&script));
}

#[test]
fn a_task_is_followed_from_its_first_unknown_moment_and_warnings_are_kept() {
    let unknown = json!({ "message": "Parameter verification failed.\n", "errors": { "upid": "no such task" } });
    let unknown = Wire::Says(400, unknown.to_string());
    let (c, _, script) = client(vec![
        ("POST", ok(&json!(UPID))),
        ("status", unknown),
        ("status", ok(&json!({ "status": "running" }))),
        ("status", stopped("WARNINGS: 1")),
        ("log", ok(&json!([{ "t": "a" }, { "t": "WARN: no link" }, { "t": "TASK WARNINGS: 1" }]))),
    ]);
    assert_eq!(c.clone_vm(&CLONE).unwrap().warnings, ["WARN: no link"]);
    assert!(ended(&script));
    let (c, clock, _) =
        client(vec![("POST", ok(&json!(UPID))), ("", ok(&json!({ "status": "running" })))]);
    let text = c.with_limits(Limits { task: Duration::from_secs(14), ..Limits::default() });
    let text = text.clone_vm(&CLONE).unwrap_err().text;
    assert!(text.ends_with("did not end within 14 s"), "{text}");
    assert!(clock.now() >= Duration::from_secs(14));
}

fn upload() -> Upload {
    Upload {
        endpoint: None,
        node: "pve1".into(),
        storage: "local".into(),
        content: "import",
        name: "worker-3f9c2a71b0de.qcow2".into(),
        file: "worker.qcow2".into(),
        bytes: 700,
        sha256: node::values::Digest::of("x"),
    }
}

fn listing(size: u64) -> Wire {
    ok(&json!([{ "volid": "local:import/worker-3f9c2a71b0de.qcow2", "size": size.to_string() }]))
}

#[test]
fn an_upload_is_sent_only_when_the_file_is_not_there() {
    const TASK: &str = "UPID:pve1:00005212:0005BF3E:6B041983:imgcopy::builder@pve!ci:";
    let (c, _, script) = client(vec![("content", listing(700)), ("never", broken())]);
    assert_eq!(c.upload(&upload()).unwrap(), Uploaded::Found);
    assert!(ended(&script));
    // A half one is sent again; a broken connection is looked behind.
    let (c, _, script) = client(vec![
        ("content", listing(10)),
        ("upload", broken()),
        ("tasks", ok(&json!([{ "upid": TASK }]))),
        ("status", stopped("OK")),
        ("content", listing(700)),
        ("never", broken()),
    ]);
    assert_eq!(c.upload(&upload()).unwrap(), Uploaded::Sent);
    assert!(ended(&script));
    // Broken bytes are sent again, but not for ever.
    let mut answers = vec![("content", ok(&json!([])))];
    for _ in 0..3 {
        answers.push(("upload", ok(&json!(TASK))));
        answers.push(("status", stopped("checksum mismatch: got 'a' != expect 'b'")));
        answers.push(("log", ok(&json!([]))));
    }
    answers.push(("never", broken()));
    let (c, _, script) = client(answers);
    let error = c.upload(&upload()).unwrap_err();
    assert!(ended(&script));
    assert_eq!(error.class, Class::Corrupt);
    assert!(error.text.ends_with("(3 times)"), "{}", error.text);
}
