//! The wire: raw requests, and what the real daemon answered.

use serde_json::Value;

use super::client::{Answer, image, parts, raw, upload_as};
use super::facts::{Score, double, folder, lines, same};

/// Requests whose answer stands for a call that the project does not make.
const OTHER: [&str; 4] =
    ["endpoint not for tokens", "token-denied endpoint", "root only endpoint", "gzip"];

#[test]
fn raw_requests_are_answered_as_the_real_daemon_does() {
    let Some(rows) = lines("wire-golden.jsonl") else { return };
    let (double, mut score) = (double(), Score::default());
    for row in rows {
        let note = row["note"].as_str().unwrap();
        if OTHER.contains(&note) {
            score.skip();
            continue;
        }
        let request = request(row["request_head"].as_str().unwrap(), note);
        let got = Answer::parse(&raw(&double, &request));
        let want = format!(
            "{}\r\n\r\n{}",
            row["response_head"].as_str().unwrap(),
            row["response_body"].as_str().unwrap()
        );
        score.count(note, &facts(&Answer::parse(want.as_bytes())), &facts(&got));
    }
    score.close("wire-golden.jsonl");
}

/// The recording has the token's secret taken out, and long bodies cut.
fn request(text: &str, note: &str) -> Vec<u8> {
    let mut text = text.replace("=SECRET", &format!("={}", pve_double::SECRET));
    let wanted = text
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .and_then(|text| text.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
    if let Some(missing) =
        wanted.map(|length: usize| length.saturating_sub(body)).filter(|_| note.contains("KiB"))
    {
        text.push_str(&"x".repeat(missing));
    }
    if note == "8 KiB+ url" && !text.contains("\r\n") {
        text = format!(
            "{text}{} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken=builder@pve!ci={}\r\nConnection: close\r\n\r\n",
            "a".repeat(8000),
            pve_double::SECRET
        );
    }
    text.into_bytes()
}

/// What of an answer must agree: status, reason, whether the connection stays, type, errors or plain text.
fn facts(answer: &Answer) -> String {
    let header = |name: &str| {
        answer.head.lines().find_map(|line| line.strip_prefix(name).map(str::trim)).unwrap_or("-")
    };
    let text = match &answer.json {
        _ if answer.status == 200 => String::new(),
        Value::Null if header("Content-Type:") == "-" => same(&answer.body),
        Value::Null => "…".to_owned(),
        json => {
            format!("{} {}", json["errors"], same(json["message"].as_str().unwrap_or_default()))
        }
    };
    format!(
        "{} {} | {} | {} | {text}",
        answer.status,
        same(&answer.reason),
        header("Connection:"),
        header("Content-Type:")
    )
}

#[test]
fn uploads_end_as_the_real_ones_did() {
    let Some(folder) = folder("multipart-cases.json") else { return };
    let text = fs_err::read_to_string(folder.join("multipart-cases.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let (double, mut score) = (double(), Score::default());
    for case in all["cases"].as_array().unwrap() {
        let name = case["case"].as_str().unwrap();
        let token = format!("{}={}", token(case["token"].as_str().unwrap()), pve_double::SECRET);
        let answer = send(&double, case, name, &token);
        let exit = answer.json["data"]
            .as_str()
            .map(|_| super::client::task(&double, &answer).0)
            .unwrap_or_default();
        let got = format!(
            "{} {} {} {}",
            answer.status,
            same(&answer.reason),
            answer.json["errors"],
            sums(&exit)
        );
        let reason = case["reason"].as_str().unwrap_or_default();
        let exit = case["task_exitstatus"].as_str().unwrap_or_default();
        let want = format!(
            "{} {} {} {}",
            case["status"].as_u64().unwrap_or(0),
            same(reason),
            case["errors"],
            sums(exit)
        );
        score.count(name, &want, &got);
    }
    score.close("multipart-cases.json");
}

fn token(name: &str) -> &'static str {
    match name {
        "none" => "builder@pve!none",
        "audit" => "audit@pve!audit",
        "old" => "builder@pve!old",
        _ => "builder@pve!ci",
    }
}

/// Checksums are those of other bytes here.
fn sums(text: &str) -> String {
    let words = text.split('\'').map(|word| {
        if word.len() == 64 && !word.trim_matches('0').is_empty() { "sum" } else { word }
    });
    same(&words.collect::<Vec<_>>().join("'"))
}

fn content(name: &str) -> Vec<u8> {
    match name {
        "raw bytes named .qcow2" => b"no image at all".repeat(9),
        "raw named .raw" => vec![0; 4096],
        "empty file" => Vec::new(),
        "qcow2 with a backing file" => {
            let mut bytes = image();
            bytes[15] = 1;
            bytes
        }
        _ => image(),
    }
}

fn send(double: &pve_double::Double, case: &Value, name: &str, token: &str) -> Answer {
    let path = case["path"].as_str().unwrap();
    let bytes = content(name);
    if let Some(fields) = case["fields_before_file"].as_array() {
        let right = !name.starts_with("wrong checksum") && name != "checksum wrong length";
        let fields: Vec<(String, String)> = fields
            .iter()
            .map(|field| {
                let (key, value) = field.as_str().unwrap().split_once('=').unwrap();
                let sum = (key == "checksum" && right).then(|| checksum(value, &bytes));
                (key.to_owned(), sum.unwrap_or_else(|| value.to_owned()))
            })
            .collect();
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        return upload_as(
            double,
            token,
            path,
            &parts(&fields, case["filename"].as_str().unwrap(), &bytes),
        );
    }
    odd(double, case, name, token)
}

/// The right checksum of other bytes, in the recorded case and kind.
pub fn checksum(recorded: &str, bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hex =
        |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let sum = if recorded.len() == 128 {
        hex(&sha2::Sha512::digest(bytes))
    } else {
        hex(&sha2::Sha256::digest(bytes))
    };
    if recorded.bytes().any(|byte| byte.is_ascii_uppercase()) { sum.to_uppercase() } else { sum }
}

/// Cases that are described in words.
fn odd(double: &pve_double::Double, case: &Value, name: &str, token: &str) -> Answer {
    let path = case["path"].as_str().unwrap();
    let plain = parts(&[("content", "import")], "n.qcow2", &image());
    let text = |bytes: &[u8]| bytes.iter().map(|byte| *byte as char).collect::<String>();
    let bytes = |text: String| text.chars().map(|letter| letter as u8).collect::<Vec<u8>>();
    let head = "Content-Disposition: form-data; name=\"filename\"; filename=\"n.qcow2\"\r\nContent-Type: application/octet-stream";
    let body = match name {
        "field parts: extra Content-Type header" => bytes(
            text(&plain)
                .replace("name=\"content\"", "name=\"content\"\r\nContent-Type: text/plain"),
        ),
        "preamble before first boundary" => [b"preamble\r\n", plain.as_slice()].concat(),
        "no closing boundary" => plain[..plain.len() - 8].to_vec(),
        name if name.starts_with("file part") => {
            bytes(text(&plain).replace(head, case["file_part_headers"].as_str().unwrap()))
        }
        _ => plain,
    };
    if name == "quoted boundary" || name == "urlencoded body on upload" {
        let kind = if name == "quoted boundary" {
            "multipart/form-data; boundary=\"XB\""
        } else {
            "application/x-www-form-urlencoded"
        };
        let body = if name == "quoted boundary" {
            body
        } else {
            b"content=import&filename=x.qcow2".to_vec()
        };
        let head = format!(
            "POST /api2/json{path} HTTP/1.1\r\nHost: x\r\nAuthorization: PVEAPIToken={token}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        return Answer::parse(&raw(double, &[head.as_bytes(), &body].concat()));
    }
    upload_as(double, token, path, &body)
}
