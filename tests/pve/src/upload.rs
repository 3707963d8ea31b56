//! Uploads: a body of parts in one fixed order, read as a stream into the upload folder.

use std::io::{BufRead, Read, Write};
use std::path::Path;

/// The fields before the file, in the only order that is taken.
const ORDER: [&str; 3] = ["content", "checksum-algorithm", "checksum"];
/// Bytes moved at once.
const CHUNK: usize = 256 << 10;

/// How a body of parts ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Fields, the file's name as sent, and its size.
    File { fields: Vec<(String, String)>, name: String, size: u64 },
    /// 400 with an empty body.
    WrongOrder,
    /// 500 with this text.
    Failed(String),
    /// The connection ends without an answer.
    Dropped,
}

/// The boundary of a `Content-Type`; a quoted one is none.
pub(crate) fn boundary(kind: &str) -> Option<&str> {
    let rest = kind.strip_prefix("multipart/form-data")?;
    let text = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    (!text.starts_with('"')).then_some(text)
}

/// Reads the parts of a body of known length; the file's bytes go to `file`.
pub(crate) fn read(from: &mut impl BufRead, length: u64, boundary: &str, file: &Path) -> Parts {
    let mut body = from.take(length);
    let parts = parts(&mut body, &format!("--{boundary}"), file);
    if parts != Parts::Dropped {
        // So that the client gets to read the answer.
        drop(std::io::copy(&mut body, &mut std::io::sink()));
    }
    parts
}

fn parts(body: &mut impl BufRead, mark: &str, file: &Path) -> Parts {
    // Whatever stands before the first boundary is skipped.
    loop {
        match text_line(body) {
            None => return Parts::Failed("upload failed".to_owned()),
            Some(line) if line == mark => break,
            Some(_) => {}
        }
    }
    let mut fields: Vec<(String, String)> = Vec::new();
    loop {
        let Some(part) = headers(body) else { return Parts::Dropped };
        if let Some(name) = part.file {
            if part.name != "filename" {
                return Parts::Failed(format!(
                    "wrong field name '{}' for file upload, expected 'filename'",
                    part.name
                ));
            }
            return match store(body, mark, file) {
                Ok(Some(size)) => Parts::File { fields, name, size },
                Ok(None) => Parts::Failed("upload failed".to_owned()),
                Err(_) => Parts::Dropped,
            };
        }
        let place = |name: &str| ORDER.iter().position(|known| *known == name);
        let last = fields.last().and_then(|(name, _)| place(name));
        match place(&part.name) {
            Some(here) if last.is_none_or(|last| here > last) => {}
            _ => return Parts::WrongOrder,
        }
        let Some(value) = value(body, mark) else { return Parts::Dropped };
        fields.push((part.name, value));
    }
}

struct Part {
    name: String,
    file: Option<String>,
}

/// The disposition must come first and be spelt exactly so.
fn headers(body: &mut impl BufRead) -> Option<Part> {
    let first = text_line(body)?;
    let rest = first.strip_prefix("Content-Disposition: form-data; name=\"")?;
    let (name, rest) = rest.split_once('"')?;
    let file = match rest.strip_prefix("; filename=\"") {
        Some(rest) => Some(rest.rsplit_once('"')?.0.to_owned()),
        None if rest.is_empty() => None,
        None => return None,
    };
    while !text_line(body)?.is_empty() {}
    Some(Part { name: name.to_owned(), file })
}

fn value(body: &mut impl BufRead, mark: &str) -> Option<String> {
    let mut lines = Vec::new();
    loop {
        let line = text_line(body)?;
        if line == mark {
            return Some(lines.join("\r\n"));
        }
        lines.push(line);
    }
}

fn text_line(body: &mut impl BufRead) -> Option<String> {
    let mut bytes = Vec::new();
    body.by_ref().take(64 << 10).read_until(b'\n', &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.strip_suffix('\n').map(|line| line.trim_end_matches('\r').to_owned())
}

/// All up to the closing boundary; none when there is no such.
fn store(body: &mut impl Read, mark: &str, file: &Path) -> std::io::Result<Option<u64>> {
    let ends = [format!("\r\n{mark}--\r\n"), format!("\r\n{mark}--")];
    let keep = ends[0].len();
    let mut out = fs_err::File::create(file)?;
    let mut held: Vec<u8> = Vec::with_capacity(CHUNK + keep);
    let mut size = 0;
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = body.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        held.extend_from_slice(&chunk[..count]);
        let ready = held.len().saturating_sub(keep);
        out.write_all(&held[..ready])?;
        size += ready as u64;
        held.drain(..ready);
    }
    let Some(end) = ends.iter().find(|end| held.ends_with(end.as_bytes())) else { return Ok(None) };
    let rest = &held[..held.len() - end.len()];
    out.write_all(rest)?;
    Ok(Some(size + rest.len() as u64))
}
