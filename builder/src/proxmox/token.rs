//! The API token: from the environment or a file, never from an argument, never shown.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Holds the token itself, for CI; it wins over `proxmox.token_file`.
pub const VARIABLE: &str = "BUILDER_PROXMOX_TOKEN";

/// `USER@REALM!ID=SECRET`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
    /// Where it was found, for messages.
    from: String,
}

impl Token {
    /// From the environment, else from `file`.
    ///
    /// # Errors
    /// Neither is there, the file can be read by others, or it holds no token.
    pub fn find(file: Option<&str>) -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(text) if !text.trim().is_empty() => Self::parse(&text, VARIABLE).context(VARIABLE),
            _ => Self::read(file),
        }
    }

    fn read(file: Option<&str>) -> Result<Self> {
        let Some(file) = file else {
            bail!(
                "no API token: write it to a file of yours (USER@REALM!ID=SECRET, mode 0600) and \
                 name it as proxmox.token_file in cluster/cluster.toml, or set {VARIABLE}; \
                 docs/proxmox.md has the commands that make one"
            );
        };
        let path = expand(file)?;
        let meta = fs_err::metadata(&path).context("failed to find proxmox.token_file")?;
        let others = meta.permissions().mode() & 0o077;
        ensure!(
            others == 0,
            "others may read the API token in {}; run `chmod 600 {0}`",
            path.display()
        );
        let name = path.display().to_string();
        let text = fs_err::read_to_string(&path)?;
        Self::parse(&text, &name).with_context(|| format!("proxmox.token_file, {name}, is wrong"))
    }

    /// From its text, which was found in `from`.
    ///
    /// # Errors
    /// It is no token; the text is not repeated.
    pub fn parse(text: &str, from: &str) -> Result<Self> {
        let text = text.trim();
        // The header that people copy from documents carries this in front.
        let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
        let plain = |c: char| c.is_ascii_graphic() && !"=! ".contains(c);
        let parsed = text.split_once('=').filter(|(id, secret)| {
            let (user, name) = id.split_once('!').unwrap_or_default();
            user.contains('@')
                && user.chars().all(plain)
                && !name.is_empty()
                && name.chars().all(plain)
                && !secret.is_empty()
                && secret.chars().all(plain)
        });
        match parsed {
            Some((id, secret)) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned(), from: from.to_owned() })
            }
            None => bail!("it holds no API token, which looks like builder@pve!ci=SECRET"),
        }
    }

    /// `USER@REALM!ID`: not a secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The file or the variable that held it.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// `USER@REALM`.
    pub fn user(&self) -> &str {
        self.id.split('!').next().unwrap_or_default()
    }

    /// The value of the `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("PVEAPIToken={}={}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

/// `~/x` in the user's home.
fn expand(file: &str) -> Result<PathBuf> {
    let Some(rest) = file.strip_prefix("~/") else { return Ok(Path::new(file).to_owned()) };
    let home = std::env::var_os("HOME").context("HOME is not set, so ~/ leads nowhere")?;
    Ok(Path::new(&home).join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn a_token_is_read_and_its_secret_never_shown() {
        for text in ["a@pve!ci=s3cret", " PVEAPIToken=a@pve!ci=s3cret\n"] {
            let token = Token::parse(text, "x").unwrap();
            assert_eq!((token.id(), token.user()), ("a@pve!ci", "a@pve"));
            assert_eq!(token.header(), "PVEAPIToken=a@pve!ci=s3cret");
            assert_eq!(format!("{token:?}"), "Token(a@pve!ci)");
        }
        for bad in ["", "s3cret", "a@pve=s3cret", "a!ci=s3cret", "a@pve!ci=", "a@pve!ci=s3 cret"] {
            let error = format!("{:#}", Token::parse(bad, "x").unwrap_err());
            assert!(!error.contains("s3"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs_err::write(&path, "a@pve!ci=s3cret\n").unwrap();
        let mode = |mode| fs_err::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let text = Token::read(path.to_str()).unwrap_err().to_string();
        assert!(text.ends_with(&format!("run `chmod 600 {}`", path.display())), "{text}");
        mode(0o600);
        assert_eq!(Token::read(path.to_str()).unwrap().id(), "a@pve!ci");
    }
}
