//! The program `firstboot`; everything is in its library.

use std::process::ExitCode;

fn main() -> ExitCode {
    firstboot::run()
}
