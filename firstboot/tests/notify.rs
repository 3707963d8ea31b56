//! Failures told by ntfy: against a server that takes them, one that refuses, one that hangs, and
//! none at all.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod node;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use node::{Node, SECRET};

const START: &str = "systemctl start --no-block firstboot-notify.service";

/// A server on loopback that answers every request with `status`, and its requests.
fn server(status: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/nodes", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            sender.send(answer(stream.unwrap(), status)).unwrap();
        }
    });
    (url, receiver)
}

/// Head and body of one request.
fn answer(mut stream: TcpStream, status: &str) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let head_back = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head_back.as_bytes()).unwrap();
    head + &String::from_utf8(body).unwrap()
}

/// A worker whose host stage fails at its secret.
fn failing(url: &str) -> Node {
    let worker = Node::worker();
    worker.with_ntfy(url);
    worker.give(b"token=x\n");
    let ran = worker.run(&["host"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    worker
}

#[test]
fn a_failure_is_told_once_in_a_boot() {
    let (url, requests) = server("200 OK");
    let worker = failing(&url);
    assert_eq!(worker.calls().last().unwrap(), START, "the stage itself sends nothing");
    assert!(requests.try_recv().is_err());
    let ran = worker.run(&["notify"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let request = requests.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(request.starts_with("POST /nodes HTTP/1.1\r\n"), "{request}");
    assert!(
        request.to_lowercase().contains("title: k3s-worker-01: firstboot failed at secret\r\n")
    );
    let cause = "\r\n\r\nthe join secret is broken: does not start";
    assert!(request.contains(cause) && request.contains("\nTo fix: "), "{request}");
    assert!(request.ends_with("Image worker-0123456789ab, cluster home"), "{request}");
    assert!(!request.contains(SECRET));
    // The same failure again says nothing; the next boot does.
    assert_eq!(worker.run(&["notify"]).code, 0);
    assert!(requests.try_recv().is_err());
    worker.boot("2");
    worker.give(b"token=x\n");
    worker.run(&["host"]);
    assert_eq!(worker.run(&["notify"]).code, 0);
    assert!(requests.recv_timeout(Duration::from_secs(5)).is_ok());
}

#[test]
fn only_failures_are_told_and_only_where_someone_listens() {
    let (url, requests) = server("200 OK");
    let worker = Node::worker();
    worker.with_ntfy(&url);
    assert_eq!(worker.run(&["host"]).code, 0, "without a secret it waits");
    assert!(!worker.calls().contains(&START.to_owned()));
    assert_eq!(worker.run(&["notify"]).code, 0);
    assert!(requests.try_recv().is_err());
    let worker = Node::worker();
    worker.give(b"token=x\n");
    assert_eq!(worker.run(&["host"]).code, 1);
    assert!(!worker.calls().contains(&START.to_owned()));
}

#[test]
fn a_server_that_refuses_is_tried_again_with_one_line() {
    let (url, requests) = server("403 Forbidden");
    let worker = failing(&url);
    for _ in 0..2 {
        let ran = worker.run(&["notify"]);
        let want = format!(
            "error: failed to tell {url} that step `secret` failed: {url} answers 403 Forbidden\n"
        );
        assert_eq!((ran.code, ran.stderr), (1, want), "systemd tries again");
        assert!(requests.recv_timeout(Duration::from_secs(5)).is_ok());
    }
}

#[test]
fn a_server_that_hangs_or_is_not_there_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/nodes", silent.local_addr().unwrap());
    let worker = failing(&url);
    let start = Instant::now();
    let ran = worker.run(&["notify"]);
    let took = start.elapsed();
    assert!(ran.stderr.contains("no answer in 5.0 s"), "{}", ran.stderr);
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
    drop(silent);
    let ran = worker.run(&["notify"]);
    assert_eq!((ran.code, ran.stderr.lines().count()), (1, 1), "{}", ran.stderr);
    assert!(ran.stderr.contains("the request failed"), "{}", ran.stderr);
}
