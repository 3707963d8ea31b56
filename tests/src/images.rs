//! The project's own images, built once for all tests by the same script that the README's first
//! command runs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::lab::{Programs, repository};
use crate::run::{Ended, Running};

/// Names a file with the paths of images that were just built, one a line: `just e2e` gives it, so
/// that not every test program looks again whether there is something to build.
pub const VARIABLE: &str = "E2E_IMAGES";
/// For all three, K3s' stand-in and helm included, with nothing built before.
const LIMIT: std::time::Duration = std::time::Duration::from_mins(40);

/// The image of a profile.
///
/// # Errors
/// It cannot be built.
pub fn of(profile: &str) -> Result<&'static PathBuf> {
    let starts = |p: &&PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{profile}-"))
    };
    all()?.iter().find(starts).with_context(|| format!("no image of {profile} was built"))
}

fn all() -> Result<&'static [PathBuf]> {
    static IMAGES: OnceLock<Result<Vec<PathBuf>, String>> = OnceLock::new();
    let built = IMAGES.get_or_init(|| paths().map_err(|e| format!("{e:#}")));
    built.as_deref().map_err(|e| anyhow::anyhow!("{e}"))
}

fn paths() -> Result<Vec<PathBuf>> {
    Programs::find()?;
    let text = if let Some(list) = std::env::var_os(VARIABLE) {
        fs_err::read_to_string(repository().join(list))?
    } else {
        let mut script = Command::new(repository().join("tests/image.sh"));
        let running = Running::start(script.arg("all"))?.within(LIMIT);
        running.end().and_then(Ended::ok)?.stdout
    };
    Ok(text.lines().map(|line| repository().join(line)).collect())
}
