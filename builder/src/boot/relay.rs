//! What QEMU starts for each connection of the guest to the Kubernetes API: copies between its
//! stdin and stdout and a server on this host's loopback.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

/// A server on loopback takes a connection at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Connects this process' stdin and stdout with `server` until the server closes.
///
/// Says nothing on failure, not even on stderr: QEMU gives this process the guest's connection as
/// stderr too, so a message would reach the guest as the server's answer. The guest sees the
/// connection close.
pub fn relay(server: SocketAddr) -> ExitCode {
    match connect(server) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn connect(server: SocketAddr) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(&server, CONNECT_LIMIT)?;
    stream.set_nodelay(true)?;
    // Plain files: the standard handles keep bytes back until a line is whole.
    let from_guest = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let to_guest = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    splice(from_guest, to_guest, stream)
}

/// Copies both ways; ends with the server's side, as the guest's end of input only means that it
/// has no more to ask.
fn splice(
    from: impl Read + Send + 'static,
    mut to: impl Write,
    server: TcpStream,
) -> std::io::Result<()> {
    let mut sending = server.try_clone()?;
    let mut receiving = server;
    std::thread::spawn(move || {
        let mut from = from;
        let done = std::io::copy(&mut from, &mut sending);
        let how = if done.is_ok() { Shutdown::Write } else { Shutdown::Both };
        // The other direction notices on its own when the socket is gone already.
        let _ = sending.shutdown(how);
    });
    std::io::copy(&mut receiving, &mut to)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_question_and_a_later_answer_pass_also_after_the_guest_stopped_asking() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let answering = std::thread::spawn(move || {
            let mut question = String::new();
            peer.read_to_string(&mut question).unwrap();
            peer.write_all(format!("answer to {question}").as_bytes()).unwrap();
        });
        let mut answer = Vec::new();
        splice(std::io::Cursor::new(b"why".to_vec()), &mut answer, server).unwrap();
        answering.join().unwrap();
        assert_eq!(answer, b"answer to why");
    }

    #[test]
    fn a_server_that_is_not_there_is_a_silent_failure() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(connect(port).is_err());
    }
}
