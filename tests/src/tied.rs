//! Processes that end with this one, however it ends: also when it is killed.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context, Result, anyhow};
use node::command::Run as _;

/// A command to start and where its process is wanted.
type Request = (Command, Sender<std::io::Result<Child>>);

/// `program` under a guard of the kernel's: it is killed when this process is gone.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = node::command::tied("KILL", program);
    command.stdin(Stdio::null());
    command
}

/// Starts a command made by [`command`].
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: Command) -> Result<Child> {
    let line = command.line();
    let (send, receive) = channel();
    starter().send((command, send)).map_err(|_| anyhow!("the starter of processes is gone"))?;
    let started = receive.recv().context("the starter of processes is gone")?;
    started.with_context(|| format!("failed to start `{line}`"))
}

/// The kernel ties the guard to the thread that started the process, not to the program. A test's
/// thread ends with its test, so one thread that never ends starts them all.
fn starter() -> &'static Sender<Request> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (send, receive) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn()); // who asked may be gone
            }
        });
        send
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_outlives_the_thread_that_wanted_it() {
        let start = || {
            let mut sleep = command("sleep");
            sleep.arg("30");
            spawn(sleep).unwrap()
        };
        let mut child = std::thread::spawn(start).join().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
