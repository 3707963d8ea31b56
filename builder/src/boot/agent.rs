//! The QEMU guest agent, used exactly as in production (D10): ping until it answers, then write
//! the join secret into the folder that the image made for it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use node::join::{FILE, FOLDER};
use serde_json::{Value, json};

/// A running agent answers in well under a second, also under emulation; a silent one is asked
/// again after this.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Largest answer kept: ours are a few dozen bytes.
const ANSWER_BYTES: usize = 1 << 20;

/// A connection to the agent's serial port.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    /// Last number used for a sync; each is used once.
    sync: u64,
    pending: Vec<u8>,
}

impl Agent {
    /// Takes over the socket of the agent's port.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, sync: 0, pending: Vec::new() }
    }

    /// Delivers the secret, trying until `deadline`: the agent starts late in the boot, and the
    /// folder may come after it. `not_yet` hears the cause of each try that failed.
    ///
    /// # Errors
    /// The deadline passed; the last cause is the error's. The secret is in no message.
    pub fn deliver(
        &mut self,
        payload: &[u8],
        deadline: Instant,
        mut not_yet: impl FnMut(String),
    ) -> Result<()> {
        let path = format!("/{FOLDER}/{FILE}");
        loop {
            let result = self.synchronise().and_then(|()| self.write_file(&path, payload));
            let Err(cause) = result else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(cause.context("failed to hand the join secret to the guest agent"));
            }
            not_yet(format!("{cause:#}"));
            std::thread::sleep(PAUSE);
        }
    }

    /// Throws away what an earlier talk left behind: the answer that carries our newest number is
    /// the first of this talk. Also the ping.
    fn synchronise(&mut self) -> Result<()> {
        self.sync += 1;
        self.stream.write_all(&[0xff]).context("failed to write to the guest agent's port")?;
        let arguments = json!({ "id": self.sync });
        self.send("guest-sync-delimited", &arguments)?;
        let limit = Instant::now() + ANSWER_LIMIT;
        // An agent answers each stray 0xff with an error: those and older answers are passed over.
        while !matches!(answer_in(&self.read_line(limit)?), Ok(id) if id == self.sync) {}
        self.call("guest-ping", &json!({})).map(|_| ())
    }

    fn write_file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let handle = self.call("guest-file-open", &json!({ "path": path, "mode": "w" }))?;
        let write = json!({ "handle": handle, "buf-b64": BASE64_STANDARD.encode(content) });
        let written = self.call("guest-file-write", &write);
        let closed = self.call("guest-file-close", &json!({ "handle": handle }));
        let count = written?.get("count").and_then(Value::as_u64);
        closed?;
        if count != Some(content.len() as u64) {
            bail!("the guest agent wrote {count:?} of {} bytes", content.len());
        }
        Ok(())
    }

    fn call(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments)?;
        self.receive(Instant::now() + ANSWER_LIMIT).with_context(|| format!("`{command}` failed"))
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.stream.write_all(line.as_bytes()).context("failed to write to the guest agent's port")
    }

    /// The next answer; a refusal is an error with the agent's words.
    fn receive(&mut self, limit: Instant) -> Result<Value> {
        answer_in(&self.read_line(limit)?)
    }

    fn read_line(&mut self, limit: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                return Ok(self.pending.drain(..=end).collect());
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the guest agent does not answer");
            }
            self.stream.set_read_timeout(Some(left))?;
            self.read_some()?;
        }
    }

    fn read_some(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(anyhow!("QEMU closed the guest agent's port")),
            Ok(_) if self.pending.len() > ANSWER_BYTES => {
                Err(anyhow!("the guest agent sent more than {ANSWER_BYTES} bytes without an end"))
            }
            Ok(n) => {
                self.pending.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(e) => Err(e).context("failed to read from the guest agent's port"),
        }
    }
}

fn answer_in(line: &[u8]) -> Result<Value> {
    // Each delimited answer starts with 0xff, which is in no JSON text.
    let text = line.rsplit(|b| *b == 0xff).next().unwrap_or_default();
    let mut answer: Value =
        serde_json::from_slice(text).context("the guest agent's answer is not JSON")?;
    if let Some(error) = answer.get("error") {
        let said = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
        bail!("the guest agent refused: {said}");
    }
    Ok(answer.get_mut("return").map(Value::take).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    use node::join::{Bootstrap, Join};

    fn join() -> Join {
        Join {
            node: "n1".parse().unwrap(),
            token: "s3cret".into(),
            agent_token: None,
            cluster_id: None,
            snapshot_key: None,
            bootstrap: Bootstrap::No,
        }
    }

    /// An agent in a thread: refuses the first `refusals` opens, then keeps what is written.
    fn agent(refusals: usize, garbage: &'static [u8]) -> (Agent, std::thread::JoinHandle<Vec<u8>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || serve(theirs, refusals, garbage));
        (Agent::new(ours), thread)
    }

    fn serve(mut stream: UnixStream, mut refusals: usize, garbage: &[u8]) -> Vec<u8> {
        stream.write_all(garbage).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut kept = Vec::new();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
            if line.first() == Some(&0xff) {
                // What a real agent says to it.
                stream.write_all(b"{\"error\": {\"desc\": \"Invalid JSON syntax\"}}\n").unwrap();
            }
            let text = line.rsplit(|b| *b == 0xff).next().unwrap().to_vec();
            line.clear();
            let ask: Value = serde_json::from_slice(&text).unwrap();
            let arguments = &ask["arguments"];
            let answer = match ask["execute"].as_str().unwrap() {
                "guest-sync-delimited" => json!({ "return": arguments["id"] }),
                "guest-file-open" if refusals > 0 => {
                    refusals -= 1;
                    json!({ "error": { "class": "GenericError", "desc": "No such file" } })
                }
                "guest-file-open" => {
                    assert_eq!(arguments["path"], "/run/firstboot/join/payload");
                    json!({ "return": 1000 })
                }
                "guest-file-write" => {
                    let text = arguments["buf-b64"].as_str().unwrap();
                    kept = BASE64_STANDARD.decode(text).unwrap();
                    json!({ "return": { "count": kept.len(), "eof": false } })
                }
                _ => json!({ "return": {} }),
            };
            stream.write_all(&[&[0xff], format!("{answer}\n").as_bytes()].concat()).unwrap();
        }
        kept
    }

    #[test]
    fn the_secret_arrives_whole_past_old_answers_and_a_folder_that_is_late() {
        let (mut agent, thread) = agent(2, b"{\"return\":\n\xff{\"return\": 99}\n");
        agent
            .deliver(&join().encode().unwrap(), Instant::now() + Duration::from_secs(20), drop)
            .unwrap();
        drop(agent);
        assert_eq!(Join::decode(&thread.join().unwrap()).unwrap(), join());
    }

    #[test]
    fn the_deadline_keeps_the_last_cause_and_no_secret() {
        let (mut agent, _thread) = agent(usize::MAX, b"");
        let error = agent.deliver(&join().encode().unwrap(), Instant::now(), drop).unwrap_err();
        let text = format!("{error:#}");
        assert_eq!(
            text,
            "failed to hand the join secret to the guest agent: `guest-file-open` failed: \
             the guest agent refused: No such file"
        );
    }
}
