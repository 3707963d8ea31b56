//! A place for processes that must end together: namespaces of their own for processes, mounts and
//! network. When its first process ends, the kernel ends all others in it, also those that made
//! themselves independent, such as containerd's shims; mounts and cables go with them. That happens
//! when the [`Jail`] is dropped, and when this process ends in any other way.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::tied;

/// How long the namespaces may take to be made, and everything in them to end.
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// The first process: tells its number on this host, then collects what its children leave.
const FIRST: &str = "read -r pid rest </proc/self/stat; echo $pid >$0.new; mv $0.new $0; \
    mount -t proc proc /proc; sleep infinity & while :; do wait; done";

/// The place.
#[derive(Debug)]
pub struct Jail {
    holder: Child,
    first: u32,
}

impl Jail {
    /// Makes one; `sign` is a path for a small file of its own.
    ///
    /// # Errors
    /// We are not root, or the kernel gives no namespaces.
    pub fn start(sign: &Path) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "a test in namespaces of its own takes root");
        node::files::ensure_absent(sign)?; // of an earlier one
        let mut unshare = tied::command("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount", "--net", "sh", "-c", FIRST]);
        let errors = sign.with_extension("errors");
        unshare.arg(sign).stderr(fs::File::create(&errors)?.into_file());
        let mut holder = tied::spawn(unshare)?;
        let first = first_of(&mut holder, sign)
            .with_context(|| fs::read_to_string(errors).unwrap_or_default())?;
        Ok(Self { holder, first })
    }

    /// The number, on this host, of its first process.
    pub fn pid(&self) -> u32 {
        self.first
    }

    /// `program`, to be run in there; [`tied::spawn`] starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = tied::command("nsenter");
        command.args(["--target", &self.first.to_string(), "--pid", "--mount", "--net", "--"]);
        command.arg(program);
        command
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // The holder ends when the first process and all others are gone.
        if let (Ok(None), Ok(first)) = (self.holder.try_wait(), i32::try_from(self.first)) {
            let _ = kill(Pid::from_raw(first), Signal::SIGKILL);
        }
        let end = Instant::now() + LIMIT;
        while matches!(self.holder.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        let _ = self.holder.kill(); // ended already in all good cases
        let _ = self.holder.wait();
    }
}

fn first_of(holder: &mut Child, sign: &Path) -> Result<u32> {
    let end = Instant::now() + LIMIT;
    loop {
        if let Ok(text) = fs::read_to_string(sign) {
            return text.trim().parse().context("the first process told no number");
        }
        if let Some(status) = holder.try_wait()? {
            bail!("the namespaces of a test ended with {status}");
        }
        ensure!(Instant::now() < end, "the namespaces of a test did not come within {LIMIT:?}");
        std::thread::sleep(POLL);
    }
}

/// The processes that `parent` started, by their numbers on this host.
///
/// # Errors
/// `/proc` cannot be read.
pub fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Ok(pid) = name.to_string_lossy().parse::<u32>() else { continue };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default(); // it ended
        // The name, in brackets, may hold anything; state and parent follow it.
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        if rest.split(' ').nth(1).and_then(|p| p.parse().ok()) == Some(parent) {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_children_of_this_process_are_found() {
        let mut child = Command::new("sleep").arg("30").spawn().unwrap();
        assert!(children_of(std::process::id()).unwrap().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
