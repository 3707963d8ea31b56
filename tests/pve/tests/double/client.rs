//! A client that can also do wrong: raw bytes over TLS, and calls with forms.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use pve_double::Double;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// An answer; status 0 when the connection ended without one.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub head: String,
    pub body: String,
    pub json: Value,
}

impl Answer {
    pub fn data(&self) -> &Value {
        assert_eq!(self.status, 200, "{self:?}");
        &self.json["data"]
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut first = head.lines().next().unwrap_or_default().splitn(3, ' ').skip(1);
        Self {
            status: first.next().and_then(|code| code.parse().ok()).unwrap_or(0),
            reason: first.next().unwrap_or_default().to_owned(),
            head: head.to_owned(),
            body: body.to_owned(),
            json: serde_json::from_str(body).unwrap_or(Value::Null),
        }
    }
}

/// Sends bytes and reads to the end of the connection.
pub fn raw(double: &Double, bytes: &[u8]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    let ca = rustls::pki_types::CertificateDer::from_pem_slice(double.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", double.port())).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), tcp);
    // A server that ends the connection early is not this side's failure.
    let _sent = stream.write_all(bytes).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    let _end = stream.read_to_end(&mut answer);
    answer
}

/// A call of a token, with its parameters where they belong.
pub fn call_as(
    double: &Double,
    token: &str,
    method: &str,
    path: &str,
    params: &[(&str, &str)],
) -> Answer {
    let form: Vec<String> =
        params.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    let form = form.join("&");
    let mut head =
        format!("Host: x\r\nAuthorization: PVEAPIToken={token}\r\nConnection: close\r\n");
    let (query, body) = match method {
        "GET" | "DELETE" if form.is_empty() => (String::new(), ""),
        "GET" | "DELETE" => (format!("?{form}"), ""),
        _ => (String::new(), form.as_str()),
    };
    if !body.is_empty() {
        head.push_str("Content-Type: application/x-www-form-urlencoded\r\n");
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    Answer::parse(&raw(
        double,
        format!("{method} /api2/json{path}{query} HTTP/1.1\r\n{head}\r\n{body}").as_bytes(),
    ))
}

/// A call of the setup's first token.
pub fn call(double: &Double, method: &str, path: &str, params: &[(&str, &str)]) -> Answer {
    call_as(double, &double.token(), method, path, params)
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The parts of an upload as Proxmox wants them.
pub fn parts(fields: &[(&str, &str)], name: &str, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, value) in fields {
        body.extend(
            format!("--XB\r\nContent-Disposition: form-data; name=\"{field}\"\r\n\r\n{value}\r\n")
                .bytes(),
        );
    }
    let head = format!(
        "Content-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream"
    );
    body.extend(format!("--XB\r\n{head}\r\n\r\n").bytes());
    body.extend(content);
    body.extend(b"\r\n--XB--\r\n");
    body
}

/// Sends an upload's body.
pub fn upload_as(double: &Double, token: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={token}\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=XB\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Answer::parse(&raw(double, &[head.as_bytes(), body].concat()))
}

/// Follows a task to its end; how it ended, and its log.
pub fn task(double: &Double, answer: &Answer) -> (String, Vec<String>) {
    let upid = answer.data().as_str().unwrap_or_default().to_owned();
    double.advance(Duration::from_mins(2));
    double.world(|world| {
        let task = world.tasks.iter().find(|task| task.upid == upid).unwrap();
        (task.exit.clone().unwrap_or_default(), task.log.clone())
    })
}

/// A call whose task must end well.
pub fn done(double: &Double, method: &str, path: &str, params: &[(&str, &str)]) {
    let answer = call(double, method, path, params);
    let (exit, log) = task(double, &answer);
    assert_eq!(exit, "OK", "{method} {path}: {log:?}");
}

/// The head of an image of 64 MiB and some bytes.
pub fn image() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[24..32].copy_from_slice(&(64u64 << 20).to_be_bytes());
    bytes
}

/// Uploads an image as `node.qcow2` into `local`.
pub fn upload_image(double: &Double) {
    let body = parts(&[("content", "import")], "node.qcow2", &image());
    let answer = upload_as(double, &double.token(), "/nodes/pve1/storage/local/upload", &body);
    assert_eq!(task(double, &answer).0, "OK");
}

/// Uploads, creates and converts: the template 9000.
pub fn template(double: &Double) {
    upload_image(double);
    let settings = [
        ("vmid", "9000"),
        ("name", "tmpl"),
        ("pool", "k3s"),
        ("memory", "2048"),
        ("agent", "enabled=1"),
        ("scsihw", "virtio-scsi-single"),
        ("scsi0", "disks:0,import-from=local:import/node.qcow2,format=qcow2"),
        ("ide2", "disks:cloudinit"),
        ("net0", "virtio,bridge=vmbr0"),
        ("boot", "order=scsi0"),
    ];
    done(double, "POST", "/nodes/pve1/qemu", &settings);
    done(double, "POST", "/nodes/pve1/qemu/9000/template", &[]);
}
