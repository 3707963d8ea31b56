//! QEMU's guest agent, spoken to as Proxmox does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// As long as Proxmox waits for the agent.
const AGENT_LIMIT: Duration = Duration::from_secs(3);

/// The agent's port, which takes bytes also before anybody reads them.
#[derive(Debug)]
pub(crate) struct Agent {
    port: UnixStream,
    pending: Vec<u8>,
    sync: u64,
}

impl Agent {
    pub(crate) fn new(port: UnixStream) -> Self {
        Self { port, pending: Vec::new(), sync: 0 }
    }

    /// The answer that carries our newest number is the first of this talk.
    pub(crate) fn synchronise(&mut self) -> Result<()> {
        self.sync += 1;
        self.port.write_all(&[0xff])?;
        self.send("guest-sync-delimited", &json!({"id": self.sync}))?;
        let end = Instant::now() + AGENT_LIMIT;
        while !matches!(answer(&self.line(end)?), Ok(id) if id == self.sync) {}
        Ok(())
    }

    pub(crate) fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        answer(&self.line(Instant::now() + AGENT_LIMIT)?)
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        Ok(self.port.write_all(line.as_bytes())?)
    }

    fn line(&mut self, end: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                return Ok(self.pending.drain(..=at).collect());
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the agent does not answer");
            self.port.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match self.port.read(&mut bytes) {
                Ok(0) => bail!("QEMU closed the agent's port"),
                Ok(count) => self.pending.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn answer(line: &[u8]) -> Result<Value> {
    // A delimited answer starts with 0xff, which is in no JSON text.
    let text = line.rsplit(|byte| *byte == 0xff).next().unwrap_or_default();
    let mut answer: Value =
        serde_json::from_slice(text).context("the agent's answer is no JSON")?;
    if let Some(error) = answer.get("error") {
        bail!("{}", error.get("desc").and_then(Value::as_str).unwrap_or("no reason given"));
    }
    Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
}
