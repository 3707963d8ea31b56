//! The content in the operator's editor. The plain text lies in memory only, readable by its owner,
//! and is overwritten before it goes.

use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use fs_err as fs;

use super::vault::Content;

/// Memory-backed folders, the user's own first.
const MEMORY: [&str; 2] = ["XDG_RUNTIME_DIR", "/dev/shm"];

/// Lets the operator edit `content`; `None` when nothing was changed.
///
/// # Errors
/// There is no editor or no memory-backed folder, the editor failed, or the text is not sound: it is
/// then lost but for what the error says, and the encrypted file stands as it was.
pub fn edit(content: &Content) -> Result<Option<Content>> {
    let text = content.to_text()?;
    let mut file = tempfile::Builder::new()
        .prefix("secrets-")
        .suffix(".toml")
        .tempfile_in(memory()?)
        .context("failed to make a file in memory")?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    let edited = run(file.path()).and_then(|()| Ok(fs::read_to_string(file.path())?));
    overwrite(&mut file)?;
    let edited = edited?;
    if edited == text {
        return Ok(None);
    }
    Ok(Some(Content::parse(&edited).context("the edited text was not taken over")?))
}

fn memory() -> Result<std::path::PathBuf> {
    let folder = |name: &&str| match name.strip_prefix('/') {
        Some(_) => Some(Path::new(*name).to_owned()),
        None => std::env::var_os(name).map(Into::into),
    };
    let found = MEMORY.iter().filter_map(folder).find(|path| path.is_dir());
    found.context("no folder in memory: neither $XDG_RUNTIME_DIR nor /dev/shm is there")
}

fn run(path: &Path) -> Result<()> {
    let named = ["VISUAL", "EDITOR"].iter().filter_map(|name| std::env::var(name).ok());
    let Some(editor) = named.map(|e| e.trim().to_owned()).find(|e| !e.is_empty()) else {
        bail!("no editor: set EDITOR, such as EDITOR=nano");
    };
    // As a shell does it: EDITOR may hold arguments.
    let status = Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(path)
        .status()
        .with_context(|| format!("failed to start the editor `{editor}`"))?;
    if !status.success() {
        bail!("the editor `{editor}` ended with {status}: nothing was changed");
    }
    Ok(())
}

/// An editor may have put another file in its place, so both the path and our handle.
fn overwrite(file: &mut tempfile::NamedTempFile) -> Result<()> {
    let length = fs::metadata(file.path()).map_or(0, |meta| meta.len());
    if let Ok(mut seen) = fs::OpenOptions::new().write(true).open(file.path()) {
        seen.write_all(&vec![0; usize::try_from(length)?])?;
    }
    let own = file.as_file().metadata()?.len();
    file.rewind()?;
    file.write_all(&vec![0; usize::try_from(own)?])?;
    Ok(())
}
