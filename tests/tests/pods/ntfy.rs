//! In ntfy's place: takes what Alertmanager sends, with the time it came, and makes of it what ntfy shows
//! on a phone. ntfy runs the texts of the headers as Go's templates on the message's body, and so does helm.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::kubernetes::Cluster;
use fs_err as fs;
use serde_json::Value;

/// For a sender who stops in the middle.
const PATIENCE: Duration = Duration::from_secs(10);
/// What ntfy does with the two headers; a `ConfigMap`, as helm takes nothing but objects.
const TEMPLATE: &str = r#"{{- define "title" }}TITLE{{ end }}{{ define "text" }}TEXT{{ end -}}
apiVersion: v1
kind: ConfigMap
metadata: {name: said}
data:
  title: {{ include "title" .Values | toJson }}
  text: {{ include "text" .Values | toJson }}
"#;

/// A request as it came.
#[derive(Debug)]
pub struct Message {
    pub came: Instant,
    /// `POST /home`.
    pub line: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Message {
    /// Of which alert, and whether it is `firing` or `resolved`.
    pub fn is(&self, alert: &str, status: &str) -> bool {
        self.body["groupLabels"]["alertname"] == alert && self.body["status"] == status
    }

    /// A header, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Title and text on the phone.
    pub fn shown(&self, cluster: &Cluster) -> Result<(String, String)> {
        let chart = cluster.place().join("said");
        let body = chart.join("body.json");
        fs::create_dir_all(chart.join("templates"))?;
        fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: said\nversion: 1.0.0\n")?;
        let text = TEMPLATE.replace("TITLE", self.header("x-title"));
        let text = text.replace("TEXT", self.header("x-message"));
        fs::write(chart.join("templates/said.yaml"), text)?;
        fs::write(&body, self.body.to_string())?;
        let (chart, body) = (chart.display().to_string(), body.display().to_string());
        let said = cluster.helm(&["template", "said", &chart, "-f", &body])?;
        let said: Value = serde_saphyr::from_str(&said)?;
        let field = |name: &str| said["data"][name].as_str().unwrap_or_default().to_owned();
        Ok((field("title"), field("text")))
    }
}

/// The server. It ends with the test's process.
#[derive(Debug)]
pub struct Ntfy {
    pub address: SocketAddr,
    came: Receiver<Message>,
}

impl Ntfy {
    /// Listens at an address that pods reach.
    pub fn start(address: Ipv4Addr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        let (send, came) = channel();
        std::thread::spawn(move || {
            // One after the other: there is one sender.
            for stream in listener.incoming().flatten() {
                match read(&stream) {
                    Ok(message) => drop(send.send(message)), // nobody waits after the test
                    Err(cause) => println!("pods: no message came to ntfy: {cause:#}"),
                }
            }
        });
        Ok(Self { address, came })
    }

    /// Waits for a message that fits; tells of the others.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&Message) -> bool,
    ) -> Result<Message> {
        let end = Instant::now() + limit;
        loop {
            match self.came.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(message) if fits(&message) => return Ok(message),
                Ok(other) => {
                    let (status, group) = (&other.body["status"], &other.body["groupLabels"]);
                    println!("pods: meanwhile {status} came: {group}");
                }
                Err(RecvTimeoutError::Timeout) => bail!("{what} did not come within {limit:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("ntfy has ended"),
            }
        }
    }
}

/// One request with a length, and its answer.
fn read(stream: &TcpStream) -> Result<Message> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").context("the message has no length")?.parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let came = Instant::now();
    let mut stream = stream;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Ok(Message { came, line, headers, body: serde_json::from_slice(&body)? })
}
