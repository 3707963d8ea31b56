//! Connections: one thread each, requests one after the other, the end after any error.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::access::Caller;
use crate::api::{self, Answer, Routed};
use crate::fault::Effect;
use crate::form;
use crate::model::{Upload, World};
use crate::table::{Raw, Value};
use crate::upload::{self, Parts};
use crate::wire::{Head, Response};

/// The largest form or JSON, from 8.4 on.
const MAX_BODY: u64 = 512 << 10;
/// How long the end of a client's bytes is waited for after an early answer.
const LINGER: Duration = Duration::from_millis(300);

/// What all connections share.
pub(crate) struct Shared {
    pub world: Mutex<World>,
    pub tls: Arc<ServerConfig>,
    pub stop: AtomicBool,
}

impl Shared {
    /// The model; a test that panicked while it held it does not take the rest down.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// Takes connections until told to stop.
pub(crate) fn listen(shared: &Arc<Shared>, listener: &TcpListener) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || drop(connection(&shared, stream)));
    }
}

fn connection(shared: &Arc<Shared>, tcp: TcpStream) -> anyhow::Result<()> {
    let idle = Duration::from_millis(shared.world().setup.idle_ms);
    tcp.set_read_timeout(Some(idle))?;
    tcp.set_nodelay(true)?;
    let socket = tcp.try_clone()?;
    let tls = ServerConnection::new(Arc::clone(&shared.tls))?;
    let mut stream = BufReader::with_capacity(64 << 10, StreamOwned::new(tls, tcp));
    while let Some(head) = Head::read(&mut stream) {
        let Answer::Send(response) = exchange(shared, &head, &mut stream) else { break };
        let keep = response.status < 400 && head.keeps_open();
        response.send(stream.get_mut(), &head, keep)?;
        if !keep {
            finish(&mut stream, &socket);
            break;
        }
    }
    socket.shutdown(std::net::Shutdown::Both)?;
    Ok(())
}

/// Lets the client read the answer before its unread bytes reset the connection.
fn finish(stream: &mut Stream, socket: &TcpStream) {
    stream.get_mut().conn.send_close_notify();
    drop(stream.get_mut().flush());
    drop(socket.shutdown(std::net::Shutdown::Write));
    drop(socket.set_read_timeout(Some(LINGER)));
    let mut bytes = [0; 16 << 10];
    while matches!(stream.get_mut().sock.read(&mut bytes), Ok(1..)) {}
}

fn exchange(shared: &Arc<Shared>, head: &Head, stream: &mut Stream) -> Answer {
    match begin(shared, head) {
        Ok((routed, caller)) if is_upload(&routed) => {
            take_upload(shared, (&routed, &caller), head, stream)
        }
        Ok((routed, caller)) => match body(head, stream) {
            Ok(Some(raw)) => shared.world().answer(&routed, &caller, raw),
            Ok(None) => Answer::Close,
            Err(response) => Answer::Send(response),
        },
        Err(answer) => answer,
    }
}

fn is_upload(routed: &Routed) -> bool {
    routed.call.on == "POST /nodes/{node}/storage/{storage}/upload"
}

/// What is looked at before the body: method, length, target, token, call.
fn begin(shared: &Arc<Shared>, head: &Head) -> Result<(Routed, Caller), Answer> {
    let say = |response| Err(Answer::Send(response));
    if head.version.starts_with("HTTP/2") {
        return say(Response::plain(506, "http protocol version 2.0 not supported"));
    }
    if !["GET", "POST", "PUT", "DELETE"].contains(&head.method.as_str()) {
        return say(Response::empty(501, &format!("method '{}' not available", head.method)));
    }
    if head.get("transfer-encoding").is_some() {
        return say(Response::plain(501, "chunked transfer encoding not supported"));
    }
    let target = api::split_target(&head.target).map_err(Answer::Send)?;
    let routed = api::route(&head.method, target);
    let caller = shared.world().access.authenticate(head.get("authorization"));
    let caller = match caller {
        Ok(caller) => caller,
        Err(_) if routed.as_ref().is_ok_and(is_upload) => return Err(Answer::Close),
        Err(reason) => {
            let delay = shared.world().setup.auth_delay_ms;
            std::thread::sleep(Duration::from_millis(delay));
            let on = routed.map_or_else(|path| path, |routed| routed.call.on.clone());
            shared.world().note(&on, &head.target, 401);
            return say(Response::empty(401, reason));
        }
    };
    if ["GET", "DELETE"].contains(&head.method.as_str()) && head.length() > 0 {
        return say(Response::plain(
            501,
            &format!("Unexpected content for method '{}'", head.method),
        ));
    }
    match routed {
        Ok(routed) => Ok((routed, caller)),
        Err(_) if head.get("content-type").is_some_and(|kind| kind.starts_with("multipart/")) => {
            say(Response::plain(501, "for data too large"))
        }
        Err(path) => say(shared.world().unknown(&head.method, &path)),
    }
}

/// The parameters of a body; none when the client stalled.
fn body(head: &Head, stream: &mut Stream) -> Result<Option<Raw>, Response> {
    let mut raw = Raw::new();
    let length = head.length();
    if length == 0 {
        return Ok(Some(raw));
    }
    let kind = head.get("content-type").unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim();
    if length > MAX_BODY || plain.starts_with("multipart/") {
        return Err(Response::plain(501, "for data too large"));
    }
    if !["application/x-www-form-urlencoded", "application/json"].contains(&plain) {
        return Err(Response::plain(
            506,
            &format!("upload 'Content-Type '{kind}' not implemented"),
        ));
    }
    let mut bytes = Vec::new();
    if stream.by_ref().take(length).read_to_end(&mut bytes).is_err() || bytes.len() as u64 != length
    {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    if plain == "application/json" {
        form::json(&text, &mut raw).map_err(|text| Response::plain(500, &format!("{text}\n")))?;
    } else {
        form::urlencoded(&text, &mut raw);
    }
    Ok(Some(raw))
}

/// Rights first, without a word; then the body; then the call, which may leave the file behind.
fn take_upload(
    shared: &Arc<Shared>,
    (routed, caller): (&Routed, &Caller),
    head: &Head,
    stream: &mut Stream,
) -> Answer {
    let given: Raw = routed
        .from_path
        .iter()
        .map(|(name, value)| (name.clone(), Value::Text(value.clone())))
        .collect();
    let allowed = |world: &World| {
        routed.call.needs.iter().all(|need| world.check_need(caller, need, &given).is_ok())
    };
    let boundary = head.get("content-type").and_then(upload::boundary);
    if !allowed(&shared.world()) || routed.query.contains_key("tmpfilename") {
        shared.world().note(&routed.call.on, &routed.path, 0);
        return Answer::Close;
    }
    let Some(boundary) = boundary else {
        // Another kind of body is waited over; a boundary in quotes ends the connection at once.
        if !head.get("content-type").is_some_and(|kind| kind.starts_with("multipart/")) {
            let mut bytes = [0; 4096];
            while matches!(stream.read(&mut bytes), Ok(1..)) {}
        }
        return Answer::Close;
    };
    let (name, file) = {
        let mut world = shared.world();
        let name = world.new_upload_name();
        let file = world.folder.join("uploads").join(name.rsplit('/').next().unwrap_or_default());
        (name, file)
    };
    let cut = shared.world().faults.next_is(&routed.call.on, &Effect::Dropped { applied: false });
    let length = if cut { head.length() / 2 } else { head.length() };
    match upload::read(stream, length, boundary, &file) {
        _ if cut => {
            drop(fs_err::remove_file(&file));
            shared.world().answer(routed, caller, Raw::new())
        }
        Parts::Dropped => {
            drop(fs_err::remove_file(&file));
            shared.world().note(&routed.call.on, &routed.path, 0);
            Answer::Close
        }
        Parts::WrongOrder => Answer::Send(Response::empty(400, "Bad Request")),
        Parts::Failed(text) => {
            drop(fs_err::remove_file(&file));
            Answer::Send(Response::plain(500, &format!("{text}\n")))
        }
        Parts::File { fields, name: sent, size } => {
            let mut raw: Raw =
                fields.into_iter().map(|(name, value)| (name, Value::Text(value))).collect();
            raw.insert("filename".to_owned(), Value::Text(sent));
            raw.insert("tmpfilename".to_owned(), Value::Text(name.clone()));
            let node = routed.from_path.get("node").cloned().unwrap_or_default();
            let mut world = shared.world();
            world.uploads.insert(name, Upload { node, file, size });
            world.answer(routed, caller, raw)
        }
    }
}
