//! Control of a double from another process: plain HTTP on a port of the loopback.
//!
//! | request | does |
//! |---|---|
//! | `GET /leftovers` | what is still there, by kind |
//! | `GET /seen` | the requests so far: `[call, path, status]` |
//! | `GET /verdict` | 200, or 500 with faults that never struck or requests outside the table |
//! | `POST /fault` | adds a fault: `{"call": …, "nth": 1, "effect": {"timeout": {"applied": true}}}` |
//! | `POST /advance` | lets that many milliseconds pass: a number |

use std::io::{BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::serve::Shared;
use crate::wire::{Head, JSON, Response};

/// Listens in a thread of its own, which ends with the process.
pub(crate) fn listen(shared: &Arc<Shared>, port: u16) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .context("failed to listen for control requests")?;
    let port = listener.local_addr()?.port();
    let shared = Arc::clone(shared);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(serve(&shared, stream));
        }
    });
    Ok(port)
}

fn serve(shared: &Arc<Shared>, stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = BufReader::new(stream);
    let Some(head) = Head::read(&mut stream) else { return Ok(()) };
    let mut body = String::new();
    stream.by_ref().take(head.length()).read_to_string(&mut body)?;
    let (status, data) = match run(shared, &head.method, &head.target, &body) {
        Ok(data) => (200, data),
        Err(error) => (500, json!(format!("{error:#}"))),
    };
    let reason = if status == 200 { "OK" } else { "Failed" }.to_owned();
    let response =
        Response { status, reason, kind: Some(JSON), body: data.to_string().into_bytes() };
    Ok(response.send(stream.get_mut(), &head, false)?)
}

fn run(shared: &Arc<Shared>, method: &str, target: &str, body: &str) -> Result<Value> {
    let mut world = shared.world();
    world.settle();
    match (method, target) {
        ("GET", "/leftovers") => Ok(json!(world.leftovers())),
        ("GET", "/seen") => {
            Ok(world.seen.iter().map(|seen| json!([seen.on, seen.path, seen.status])).collect())
        }
        ("GET", "/verdict") => world.verdict().map(|()| Value::Null),
        ("POST", "/fault") => {
            let fault: Fault = serde_json::from_str(body).context("the body is no fault")?;
            world.faults.add(fault);
            Ok(Value::Null)
        }
        ("POST", "/advance") => {
            let by = body.trim().parse().context("the body is no number of milliseconds")?;
            world.clock.advance(Duration::from_millis(by));
            world.settle();
            Ok(json!(world.clock.now()))
        }
        _ => bail!("no control request `{method} {target}`"),
    }
}
