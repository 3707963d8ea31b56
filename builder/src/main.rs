//! The `builder` program: arguments, one place where errors are printed, the exit code.

use std::os::fd::AsFd as _;
use std::process::ExitCode;

use builder::cli::Cli;
use builder::config::Problems;
use clap::Parser as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Programs that unpack files into an image apply it: whoever builds, the modes are the same.
    umask(Mode::from_bits_truncate(0o022));
    builder::logging::start(cli.global.quiet, cli.global.verbose);
    match builder::commands::run(&cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Prints the error once, one line per cause; returns what the caller of this program shall see.
fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        let what = if problems.is_usage() { " " } else { " the configuration is wrong\n" };
        eprintln!("error:{what}{problems}");
        return ExitCode::from(builder::USAGE);
    }
    if error.chain().any(is_closed_pipe) && reader_is_gone() {
        return ExitCode::SUCCESS; // the reader of our output, such as `head`, has had enough
    }
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    ExitCode::FAILURE
}

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether nobody reads our output any more. A pipe to a program we run may break as well, and
/// that is a failure like any other.
fn reader_is_gone() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    let asked = poll(&mut fds, PollTimeout::ZERO);
    asked.is_ok() && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR))
}
