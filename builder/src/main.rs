//! The `builder` program: arguments, one place where errors are printed, the exit code.

use std::process::ExitCode;

use builder::cli::Cli;
use builder::config::Problems;
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
    if error.chain().any(is_closed_pipe) {
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
