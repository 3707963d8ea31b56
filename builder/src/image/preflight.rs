//! Whether the programs of the host that a command runs are there: asked before any work, and all
//! that are missing told at once, with the package to install.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// A program and Debian's package of it.
type Need = (&'static str, &'static str);

/// What a build runs. All else comes from the tools tree.
const BUILD: [Need; 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("sh", "dash"),
];
/// What a build as an ordinary user runs beside it.
const ROOTLESS: [Need; 2] = [("newuidmap", "uidmap"), ("newgidmap", "uidmap")];

/// Checks what [`super::Build::run`] runs.
///
/// # Errors
/// A program is missing.
pub fn build() -> Result<()> {
    let rootless = if nix::unistd::geteuid().is_root() { &[][..] } else { &ROOTLESS[..] };
    let needs: Vec<Need> = BUILD.iter().chain(rootless).copied().collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    check(&needs, &std::env::split_paths(&path).collect::<Vec<_>>())
}

fn check(needs: &[Need], folders: &[PathBuf]) -> Result<()> {
    let there = |name: &str| folders.iter().any(|folder| folder.join(name).is_file());
    let missing: Vec<&Need> = needs.iter().filter(|(name, _)| !there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = |pick: fn(&Need) -> &'static str, separator: &str| {
        let mut names: Vec<_> = missing.iter().map(|need| pick(need)).collect();
        names.dedup();
        names.join(separator)
    };
    bail!(
        "not in PATH, but needed to build: {}; install {}: apt install {}",
        list(|n| n.0, ", "),
        if missing.len() == 1 { "it" } else { "them" },
        list(|n| n.1, " ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    #[test]
    fn all_missing_programs_are_told_at_once_with_their_packages() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mmdebstrap"), "").unwrap();
        let folders = [dir.path().to_owned()];
        let text = check(&BUILD, &folders).unwrap_err().to_string();
        assert_eq!(
            text,
            "not in PATH, but needed to build: apt-get, dpkg-deb, setpriv, unshare, sh; install \
             them: apt install apt dpkg util-linux dash"
        );
        assert!(check(&BUILD[..1], &folders).is_ok());
    }
}
