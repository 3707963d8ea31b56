//! Files given by hand: stand-ins that take a release's place in the lock, and releases the
//! operator has already, which must be what the lock says.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use node::command::Run;

use super::{Artifact, ArtifactKind, Lock};
use crate::store::{Store, hash_file};

/// Given as the path of a stand-in for a chart: there is none.
const NONE: &str = "none";

/// Parses `NAME=PATH` arguments; `flag` is their flag, for messages.
pub fn parse_assignments(flag: &str, texts: &[String]) -> Result<Vec<(String, String)>> {
    let parse = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => bail!("{flag} {text}: must be NAME=VALUE"),
    };
    texts.iter().map(parse).collect()
}

/// Makes the file at `path` the artifact `name` of the lock, marked as a stand-in, and adds it
/// to the store, as it can be fetched from nowhere.
pub fn standin(lock: &mut Lock, store: &Store, name: &str, path: &Path) -> Result<()> {
    if path == Path::new(NONE) {
        return leave_out(lock, name);
    }
    // Helm's release is an archive, its stand-in the program out of one.
    let Some(kind) = known_kind(name).or(lock.artifacts.get(name).map(|a| a.kind)) else {
        bail!("--standin {name}: the lock has no artifact of this name");
    };
    let version = version(lock, name, kind, path)?;
    let (sha256, size) = store.add_file(path)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let artifact = Artifact {
        name: name.to_owned(),
        kind,
        version,
        url: None,
        sha256,
        size: Some(size),
        source: format!("stand-in, hashed from the local file {file}"),
        standin: true,
        left_out: false,
    };
    lock.artifacts.insert(name.to_owned(), artifact);
    Ok(())
}

/// Has images made without a chart of the lock: the bundle goes on without its releases.
fn leave_out(lock: &mut Lock, name: &str) -> Result<()> {
    let Some(artifact) = lock.artifacts.get_mut(name) else {
        bail!("--standin {name}={NONE}: the lock has no artifact of this name");
    };
    if artifact.kind != ArtifactKind::Chart {
        bail!("--standin {name}={NONE}: only charts can be left out; give a file");
    }
    (artifact.standin, artifact.left_out) = (true, true);
    Ok(())
}

/// What stands in for an artifact that images may need, even if the lock lacks its release.
fn known_kind(name: &str) -> Option<ArtifactKind> {
    match name {
        "k3s" | "helm" => Some(ArtifactKind::Binary),
        "k3s-airgap-images" => Some(ArtifactKind::AirgapImages),
        _ => None,
    }
}

/// What a program says of itself; an archive has the version of the K3s it belongs to.
fn version(lock: &Lock, name: &str, kind: ArtifactKind, path: &Path) -> Result<String> {
    if kind != ArtifactKind::Binary {
        let k3s = lock.artifacts.get("k3s").map(|k3s| k3s.version.clone());
        return Ok(k3s.unwrap_or_else(|| "unknown".to_owned()));
    }
    let argument = if name == "helm" { "version" } else { "--version" };
    let text = Command::new(std::path::absolute(path)?).arg(argument).stdout_text();
    let text = text.with_context(|| format!("--standin {name}: cannot ask its version"))?;
    let is_version = |word: &&str| {
        word.strip_prefix('v').unwrap_or(word).starts_with(|c: char| c.is_ascii_digit())
    };
    let words = |c: char| c.is_whitespace() || c == '"' || c == ',';
    let word = text.split(words).find(is_version);
    word.map(str::to_owned).with_context(|| {
        format!(
            "--standin {name}: `{} {argument}` says no version: {}",
            path.display(),
            text.trim()
        )
    })
}

/// Takes a file the operator has already instead of its download: into the store, if it is
/// exactly what the lock says.
pub fn check_artifact(lock: &Lock, store: &Store, name: &str, path: &Path) -> Result<()> {
    let artifact = lock.artifact(name)?;
    let (found, size) = hash_file(path)?;
    if found != artifact.sha256 {
        bail!(
            "--artifact {name}={}: its SHA-256 is {found} ({size} bytes), the lock has {} for \
             {name} {}; give that file, or lock yours as a stand-in: builder lock --standin \
             {name}=PATH",
            path.display(),
            artifact.sha256,
            artifact.version
        );
    }
    if !store.has(&found) {
        store.add_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn program(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("k3s-standin");
        fs_err::write(&path, text).unwrap();
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_stand_in_takes_the_place_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let mut lock = sample();
        let path = program(dir.path(), "#!/bin/sh\necho 'k3s version v1.36.4+k3s1 (abc)'\n");
        standin(&mut lock, &store, "k3s", &path).unwrap();
        let k3s = lock.artifact("k3s").unwrap();
        assert!(k3s.standin && k3s.url.is_none() && store.has(&k3s.sha256));
        assert_eq!(k3s.version, "v1.36.4+k3s1");
        let images = dir.path().join("images.tar");
        fs_err::write(&images, "tar").unwrap();
        standin(&mut lock, &store, "k3s-airgap-images", &images).unwrap();
        assert_eq!(lock.artifact("k3s-airgap-images").unwrap().version, "v1.36.4+k3s1");
        let text = standin(&mut lock, &store, "nonsense", &images).unwrap_err().to_string();
        assert!(text.contains("no artifact of this name"), "{text}");
    }

    #[test]
    fn a_program_stands_in_for_a_released_archive() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let mut lock = sample();
        let mut helm = lock.artifact("k3s").unwrap().clone();
        (helm.name, helm.kind) = ("helm".into(), ArtifactKind::Archive);
        lock.artifacts.insert("helm".into(), helm);
        let path = program(dir.path(), "#!/bin/sh\necho v4.2.3+g0123abc\n");
        standin(&mut lock, &store, "helm", &path).unwrap();
        let helm = lock.artifact("helm").unwrap();
        assert_eq!((helm.kind, helm.version.as_str()), (ArtifactKind::Binary, "v4.2.3+g0123abc"));
    }

    #[test]
    fn a_stand_in_that_says_no_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let path = program(dir.path(), "#!/bin/sh\necho hello\n");
        let text = standin(&mut sample(), &store, "k3s", &path).unwrap_err().to_string();
        assert!(text.contains("says no version: hello"), "{text}");
    }

    #[test]
    fn a_given_artifact_must_be_what_the_lock_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let lock = sample();
        let path = dir.path().join("k3s");
        fs_err::write(&path, "other").unwrap();
        let text = check_artifact(&lock, &store, "k3s", &path).unwrap_err().to_string();
        assert!(text.contains("its SHA-256 is d9298a10"), "{text}");
        fs_err::write(&path, "k3s").unwrap();
        check_artifact(&lock, &store, "k3s", &path).unwrap();
        assert!(store.has(&lock.artifact("k3s").unwrap().sha256));
    }
}
