//! A web server for the tests that misbehaves on request.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How one request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// As a good server does, with ranges.
    Good,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The whole body whatever range was asked for.
    NoRange,
    /// The whole body, ended by the connection's end, no length given; so many bytes only.
    NoLength(usize),
    /// `Content-Length` is wrong by so much; the body has that length too.
    Lie(i64),
    /// Other bytes of the same length.
    Wrong,
    /// This status and no body.
    Status(u16),
    /// A byte at a time, with this pause.
    Drip(Duration),
    /// A 206 that starts elsewhere.
    WrongRange,
    /// A redirect to this path.
    Redirect(&'static str),
    /// So many bytes, then silence.
    Stop(usize),
}

/// Serves one body; answers come from a list, the last one for ever.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    body: Vec<u8>,
    answers: Mutex<Vec<Answer>>,
    requests: AtomicUsize,
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Server {
    pub fn start(body: &[u8], answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            body: body.to_vec(),
            answers: Mutex::new(answers.to_vec()),
            requests: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let ours = shared.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ours.stop.load(Ordering::SeqCst) {
                    return;
                }
                let ours = ours.clone();
                std::thread::spawn(move || ours.connection(&stream));
            }
        });
        Self { port, shared, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/file", self.port)
    }

    /// Requests answered.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Bytes of bodies sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// One request per connection; errors are the client's hanging up.
    fn connection(&self, mut stream: &TcpStream) {
        let mut range = 0;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let line = line.to_ascii_lowercase();
            if let Some(from) = line.strip_prefix("range: bytes=") {
                range = from.trim_end_matches('-').parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        let _ = self.answer(&mut stream, &answer, range);
    }

    fn answer(&self, to: &mut impl Write, answer: &Answer, range: usize) -> std::io::Result<()> {
        let body = &self.body;
        let whole = body.len();
        match answer {
            Answer::Good => self.part(to, range, whole),
            Answer::Cut(after) => self.part(to, range, (range + after).min(whole)),
            Answer::NoRange => self.full(to, body, whole),
            Answer::NoLength(bytes) => {
                write!(to, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                self.send(to, &body[..*bytes])
            }
            Answer::Lie(by) => {
                let length = whole.checked_add_signed(isize::try_from(*by).unwrap()).unwrap();
                let mut lie = body.clone();
                lie.resize(length, b'x');
                self.full(to, &lie, length)
            }
            Answer::Wrong => self.full(to, &vec![b'x'; whole], whole),
            Answer::Status(code) => {
                write!(to, "HTTP/1.1 {code} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            }
            Answer::Drip(pause) => self.drip(to, *pause),
            Answer::WrongRange => {
                let rest = whole - range;
                write!(
                    to,
                    "HTTP/1.1 206 Some\r\nContent-Range: bytes 1-{}/{whole}\r\n",
                    whole - 1
                )?;
                write!(to, "Content-Length: {rest}\r\nConnection: close\r\n\r\n")
            }
            Answer::Redirect(path) => {
                write!(
                    to,
                    "HTTP/1.1 302 Go\r\nLocation: {path}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            }
            Answer::Stop(after) => {
                write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {whole}\r\n\r\n")?;
                self.send(to, &body[..*after])?;
                to.flush()?;
                self.wait();
                Ok(())
            }
        }
    }

    /// The bytes `from..to` of an answer that promises all from `from` on.
    fn part(&self, out: &mut impl Write, from: usize, to: usize) -> std::io::Result<()> {
        let whole = self.body.len();
        if from >= whole {
            return write!(
                out,
                "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if from > 0 {
            write!(
                out,
                "HTTP/1.1 206 Some\r\nContent-Range: bytes {from}-{}/{whole}\r\n",
                whole - 1
            )?;
        } else {
            write!(out, "HTTP/1.1 200 OK\r\n")?;
        }
        write!(out, "Content-Length: {}\r\nConnection: close\r\n\r\n", whole - from)?;
        self.send(out, &self.body[from..to])
    }

    fn full(&self, to: &mut impl Write, body: &[u8], length: usize) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
        self.send(to, body)
    }

    fn drip(&self, to: &mut impl Write, pause: Duration) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.body.len())?;
        for byte in &self.body {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            self.send(to, &[*byte])?;
            to.flush()?;
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Until the test is over.
    fn wait(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&self, to: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
        for chunk in bytes.chunks(16 * 1024) {
            to.write_all(chunk)?;
            self.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
        Ok(())
    }
}
