//! The operator's age key: one file outside the project, readable by its owner alone. Encryption is
//! that of the program `age`; plain text reaches it and comes from it by pipes only.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use node::command::{Run as _, check};
use node::files;

/// Names another file than the default.
pub const VARIABLE: &str = "BUILDER_AGE_KEY";

/// The key: where it lies, and its public half.
#[derive(Debug)]
pub struct Key {
    /// Its file.
    pub path: PathBuf,
    /// Whom files are encrypted for: `age1…`.
    pub recipient: String,
}

/// `$BUILDER_AGE_KEY`, else `age.key` in the user's configuration folder.
///
/// # Errors
/// Neither that nor `$XDG_CONFIG_HOME` nor `$HOME` is set.
pub fn path() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let config = || set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let default = || config().map(|folder| folder.join("node-image-builder/age.key"));
    set(VARIABLE)
        .or_else(default)
        .with_context(|| format!("neither {VARIABLE} nor HOME is set: there is no place for a key"))
}

impl Key {
    /// Reads the key; `None` when there is no file.
    ///
    /// # Errors
    /// Others may read the file, or it holds no key.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let meta = match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            meta => meta?,
        };
        let mode = meta.permissions().mode() & 0o777;
        let others = mode & 0o077;
        ensure!(
            others == 0,
            "{} has mode {mode:o}: others can read the key; run `chmod 600 {0}`",
            path.display()
        );
        // Its own message may quote the file.
        let output = Command::new("age-keygen").arg("-y").arg(path).output().context(MISSING)?;
        ensure!(
            output.status.success(),
            "{} holds no age key: a line `AGE-SECRET-KEY-1…`",
            path.display()
        );
        let recipient = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(Some(Self { path: path.to_owned(), recipient }))
    }

    /// Reads the key that is there, or makes one; says which.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn read_or_make(path: &Path) -> Result<(Self, bool)> {
        if let Some(key) = Self::read(path)? {
            return Ok((key, false));
        }
        let text = Command::new("age-keygen").stdout_text().context(MISSING)?;
        let folder = path.parent().context("a key file lies in a folder")?;
        fs::create_dir_all(folder)?;
        files::write_atomic(path, text.as_bytes(), 0o600)?;
        let key = Self::read(path)?.context("the key that was just made is gone")?;
        Ok((key, true))
    }

    /// Encrypts for this key, as ASCII text.
    ///
    /// # Errors
    /// `age` is not installed or fails.
    pub fn encrypt(&self, plain: &[u8]) -> Result<Vec<u8>> {
        pipe(Command::new("age").args(["--armor", "--recipient", &self.recipient]), plain)
    }

    /// Opens what was encrypted for this key.
    ///
    /// # Errors
    /// It was encrypted for another one, or was changed since.
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        pipe(Command::new("age").args(["--decrypt", "--identity"]).arg(&self.path), sealed)
    }
}

/// Said where the program cannot be started.
const MISSING: &str = "failed to run age; Debian's package `age` has it: apt install age";

/// Gives `input` to a program's stdin; what it prints.
fn pipe(command: &mut Command, input: &[u8]) -> Result<Vec<u8>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(MISSING)?;
    let stdin = child.stdin.take().context("a pipe to age")?;
    let output = std::thread::scope(|scope| {
        // A program that ends early has said why on stderr: that is the error to tell.
        scope.spawn(move || { stdin }.write_all(input));
        child.wait_with_output()
    })?;
    check(command, &output)?;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/age.key");
        assert!(Key::read(&path).unwrap().is_none());
        let (made, new) = Key::read_or_make(&path).unwrap();
        let (read, again) = Key::read_or_make(&path).unwrap();
        assert_eq!((new, again), (true, false));
        assert_eq!(made.recipient, read.recipient);
        let long = vec![b'x'; 300_000];
        assert_eq!(read.decrypt(&made.encrypt(&long).unwrap()).unwrap(), long);
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("age.key");
        fs::write(&path, "AGE-SECRET-KEY-1SECRETSECRET\n").unwrap();
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let text = Key::read(&path).unwrap_err().to_string();
        assert!(text.contains("has mode 644") && text.contains("chmod 600"), "{text}");
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = Key::read(&path).unwrap_err().to_string();
        assert!(text.contains("holds no age key") && !text.contains("SECRETSECRET"), "{text}");
    }
}
