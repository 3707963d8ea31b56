//! What a build may leave behind when it is killed: processes, mounts, scratch folders. Looked for
//! by the path of the lab's own scratch folder, so that other builds on the machine do not count.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use fs_err as fs;

use crate::lab::names;

/// Orphans get their signal at once; ending takes them a moment, on a busy machine a longer one.
const GRACE: Duration = Duration::from_secs(30);

/// Everything left, once the orphans had their time to end; empty when clean.
///
/// # Errors
/// `/proc` cannot be read.
pub fn find(scratch: &Path) -> Result<Vec<String>> {
    let start = Instant::now();
    loop {
        let left = now(scratch)?;
        if left.is_empty() || start.elapsed() > GRACE {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn now(scratch: &Path) -> Result<Vec<String>> {
    let mut left = processes(scratch)?;
    let place = scratch.to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let ours = |line: &&str| line.split(' ').nth(1).is_some_and(|at| at.starts_with(&place));
    left.extend(mounts.lines().filter(ours).map(|line| format!("mount {line}")));
    left.extend(names(scratch)?.iter().map(|name| format!("file {name} in {place}")));
    Ok(left)
}

/// Processes whose command line, environment, folder or root names the scratch folder.
fn processes(scratch: &Path) -> Result<Vec<String>> {
    let place = scratch.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
            continue;
        }
        // A process that ends meanwhile has nothing to say.
        let text = |file: &str| fs::read(folder.join(file)).unwrap_or_default();
        let line = String::from_utf8_lossy(&text("cmdline")).replace('\0', " ");
        let target = |file: &str| fs::read_link(folder.join(file)).unwrap_or_default();
        let inside = target("cwd").starts_with(scratch) || target("root").starts_with(scratch);
        let named = line.contains(&place);
        let inherits = String::from_utf8_lossy(&text("environ")).contains(&place);
        if inside || named || inherits {
            found.push(format!("process {name}: {line}"));
        }
    }
    Ok(found)
}
