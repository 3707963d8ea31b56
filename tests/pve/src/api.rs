//! A call from its head to its answer, in Proxmox' order: route, token, privileges, node, parameters,
//! the call itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use crate::access::Caller;
use crate::calls;
use crate::fault::Effect;
use crate::form;
use crate::model::{Seen, TaskFault, World};
use crate::reply::{Fail, Reply};
use crate::table::{Call, Need, Raw, TABLE, Value};
use crate::wire::{JSON, Response};

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/api2/json`.
    Json,
    /// `/api2/extjs`: errors come with status 200.
    ExtJs,
}

/// A request that found its call.
#[derive(Debug, Clone)]
pub(crate) struct Routed {
    pub call: &'static Call,
    pub path: String,
    pub from_path: BTreeMap<String, String>,
    pub query: Raw,
    pub shape: Shape,
}

/// What the connection does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Send(Response),
    /// The end, without a word.
    Close,
}

/// Shape and path of a target, or the answer for one that is none.
pub(crate) fn split_target(target: &str) -> Result<(Shape, String, Raw), Response> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = form::percent_decode(path, false);
    let mut raw = Raw::new();
    form::urlencoded(query, &mut raw);
    let Some(rest) = path.strip_prefix("/api2/") else {
        return Err(Response::plain(500, &format!("no such file '{path}'\n")));
    };
    let (shape, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    let rest = format!("/{}", parts.join("/"));
    match shape {
        "json" => Ok((Shape::Json, rest, raw)),
        "extjs" => Ok((Shape::ExtJs, rest, raw)),
        other => Err(Response::plain(501, &format!("no formatter for uri {rest}, {other}"))),
    }
}

/// Finds the call.
pub(crate) fn route(
    method: &str,
    (shape, path, query): (Shape, String, Raw),
) -> Result<Routed, String> {
    match TABLE.route(method, &path) {
        Some((call, from_path)) => Ok(Routed { call, path, from_path, query, shape }),
        None => Err(path),
    }
}

impl World {
    /// The answer for a path or a method that the table does not have; it is noted.
    pub(crate) fn unknown(&mut self, method: &str, path: &str) -> Response {
        let message = format!("Method '{method} {path}' not implemented");
        self.outside.push(format!("{method} {path}"));
        self.note(&format!("{method} {path}"), path, 501);
        let body = json!({"data": null, "message": message}).to_string().into_bytes();
        Response { status: 501, reason: message, kind: Some(JSON), body }
    }

    pub(crate) fn note(&mut self, on: &str, path: &str, status: u16) {
        let seen = Seen { on: on.to_owned(), path: path.to_owned(), status };
        if let Some(watcher) = &mut self.watcher {
            watcher.0(&seen);
        }
        self.seen.push(seen);
    }

    /// Time passes, faults strike, the call is done.
    pub(crate) fn answer(&mut self, routed: &Routed, caller: &Caller, body: Raw) -> Answer {
        self.clock.request();
        self.settle();
        let answer = self.struck(routed, caller, body);
        self.task_fault = None;
        let status = match &answer {
            Answer::Send(response) => response.status,
            Answer::Close => 0,
        };
        self.note(&routed.call.on, &routed.path, status);
        answer
    }

    fn struck(&mut self, routed: &Routed, caller: &Caller, body: Raw) -> Answer {
        let timeout = Answer::Send(Response::empty(596, "Connection timed out"));
        match self.faults.strike(&routed.call.on) {
            None => {}
            Some(Effect::Status(status, message)) => {
                return Answer::Send(render(Err(Fail::new(status, message)), routed.shape));
            }
            Some(Effect::Unreachable) => {
                return Answer::Send(Response::empty(595, "Connection refused"));
            }
            Some(Effect::Timeout { applied: false }) => return timeout,
            Some(Effect::Dropped { applied: false }) => return Answer::Close,
            Some(Effect::Timeout { applied: true }) => {
                drop(self.reply(routed, caller, body));
                return timeout;
            }
            Some(Effect::Dropped { applied: true }) => {
                drop(self.reply(routed, caller, body));
                return Answer::Close;
            }
            Some(effect) => self.task_fault = Some(TaskFault(effect)),
        }
        match self.reply(routed, caller, body) {
            Err(fail) if [595, 596].contains(&fail.status) => {
                Answer::Send(Response::empty(fail.status, &fail.message))
            }
            reply => Answer::Send(render(reply, routed.shape)),
        }
    }

    fn reply(&mut self, routed: &Routed, caller: &Caller, body: Raw) -> Reply {
        let mut raw = body;
        for (name, value) in &routed.query {
            raw.entry(name.clone()).or_insert_with(|| value.clone());
        }
        for (name, value) in &routed.from_path {
            if raw.get(name).is_some_and(|given| *given != Value::Text(value.clone())) {
                return Err(Fail::parameter(
                    name,
                    "duplicate parameter (already defined in URI) with conflicting values!",
                ));
            }
            raw.insert(name.clone(), Value::Text(value.clone()));
        }
        for need in &routed.call.needs {
            self.check_need(caller, need, &raw)?;
        }
        if routed.call.proxied {
            self.reach(routed.from_path.get("node").map_or("", String::as_str))?;
        }
        let args = TABLE.check(routed.call, &raw).map_err(|errors| {
            let unknown =
                errors.iter().filter(|(_, text)| text.starts_with("property is not defined"));
            self.outside
                .extend(unknown.map(|(name, _)| format!("{} with `{name}`", routed.call.on)));
            Fail::parameters(errors)
        })?;
        calls::run(&routed.call.on, self, caller, &args)
    }

    /// Whether the caller may make the call at all.
    pub(crate) fn check_need(&self, caller: &Caller, need: &Need, raw: &Raw) -> Result<(), Fail> {
        let privileges: Vec<&str> =
            need.privileges.iter().map(|name| self.privilege(name)).collect();
        let mut failed = None;
        for path in &need.paths {
            match fill(path, raw) {
                Filled::Impossible => return Err(Fail::denied_plainly()),
                Filled::Absent => {}
                Filled::Path(path) => match self.need(caller, &path, &privileges) {
                    Ok(()) => return Ok(()),
                    Err(fail) => failed = Some(fail),
                },
            }
        }
        // Where a choice of paths fails, Proxmox names none.
        Err(failed.filter(|_| need.paths.len() == 1).unwrap_or_else(Fail::denied_plainly))
    }

    /// The agent's privileges were one before 9.0.
    fn privilege<'a>(&self, name: &'a str) -> &'a str {
        if self.setup.version.starts_with('8') && name.starts_with("VM.GuestAgent.") {
            "VM.Monitor"
        } else {
            name
        }
    }

    fn reach(&self, node: &str) -> Result<(), Fail> {
        match self.nodes.get(node) {
            None => {
                let text = format!(
                    "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
                );
                Err(Fail::new(500, text))
            }
            Some(node) if !node.online => Err(Fail::new(595, "Connection refused")),
            Some(_) => Ok(()),
        }
    }
}

/// What became of a path of the table.
enum Filled {
    Path(String),
    /// Its parameter was left out, and without it the path is no way in.
    Absent,
    /// Its parameter is something no path can hold.
    Impossible,
}

/// A path with its parameters. It ends where a parameter would be that was left out.
fn fill(path: &str, raw: &Raw) -> Filled {
    let mut filled = Vec::new();
    for part in path.split('/') {
        let Some(name) = part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) else {
            filled.push(part);
            continue;
        };
        match raw.get(name) {
            Some(Value::Text(text)) => filled.push(text),
            Some(_) => return Filled::Impossible,
            None if name == "pool" => return Filled::Absent,
            None => break,
        }
    }
    Filled::Path(filled.join("/"))
}

/// Data or error as Proxmox writes it.
pub(crate) fn render(reply: Reply, shape: Shape) -> Response {
    let mut body = Map::new();
    let fail = match reply {
        Ok(data) => {
            if shape == Shape::ExtJs {
                body.insert("success".to_owned(), json!(1));
            }
            body.insert("data".to_owned(), data);
            return Response {
                status: 200,
                reason: "OK".to_owned(),
                kind: Some(JSON),
                body: Json::Object(body).to_string().into_bytes(),
            };
        }
        Err(fail) => fail,
    };
    body.insert("data".to_owned(), Json::Null);
    body.insert("message".to_owned(), json!(format!("{}\n", fail.message)));
    if !fail.errors.is_empty() {
        body.insert("errors".to_owned(), json!(fail.errors));
    }
    let reason = fail.message.replace(['\r', '\n'], " ");
    let (status, reason) = match shape {
        Shape::Json => (fail.status, reason),
        Shape::ExtJs => {
            body.insert("success".to_owned(), json!(0));
            body.insert("status".to_owned(), json!(fail.status));
            (200, "OK".to_owned())
        }
    };
    Response { status, reason, kind: Some(JSON), body: Json::Object(body).to_string().into_bytes() }
}
