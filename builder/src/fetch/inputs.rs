//! From the lock's entries to wanted files: where each may be, and what to say when a mirror
//! dropped one.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use super::{Failed, Failure, Fetched, Options, Want, fetch};
use crate::lock::apt::{SetRequest, resolve};
use crate::lock::mirror::Mirrors;
use crate::lock::{Artifact, BaseSet, Diff, Lock, Package};
use crate::store::Store;
use crate::ui::Ui;

/// Brings these artifacts of the lock into the store; returns where each lies, in that order.
pub fn fetch_artifacts(
    store: &Store,
    lock: &Lock,
    names: &[&str],
    ui: &Ui,
    options: &Options,
) -> Result<Vec<PathBuf>> {
    let artifacts: Vec<_> = names.iter().map(|name| lock.artifact(name)).collect::<Result<_>>()?;
    let wants: Vec<_> = artifacts.iter().map(|a| want_artifact(a)).collect();
    fetch(store, &wants, ui, options).map_err(|error| {
        let standin = artifacts.iter().find(|a| a.standin && !store.has(&a.sha256));
        match standin {
            Some(a) => error.context(format!(
                "`{}` of the lock is a stand-in, which cannot be downloaded; give the file with \
                 --artifact {}=PATH",
                a.name, a.name
            )),
            None => error.context("failed to fetch the artifacts of the lock"),
        }
    })?;
    Ok(artifacts.iter().map(|a| store.object(&a.sha256)).collect())
}

fn want_artifact(artifact: &Artifact) -> Want {
    Want {
        name: format!("{} {}", artifact.name, artifact.version),
        urls: artifact.url.iter().cloned().collect(),
        digest: artifact.sha256,
        size: artifact.size,
    }
}

/// Brings every package of `set` into the store. When mirrors dropped some, the error lists
/// what they have instead.
pub fn fetch_base(
    store: &Store,
    set: &BaseSet,
    request: &SetRequest,
    mirrors: &Mirrors,
    ui: &Ui,
    options: &Options,
) -> Result<Fetched> {
    if set.packages.iter().all(|p| store.has_whole(&p.sha256, Some(p.size))) {
        return Ok(Fetched { files: 0, bytes: 0 }); // no mirror need be known
    }
    let addresses = if options.offline { Vec::new() } else { request.addresses(mirrors)? };
    let wants: Vec<_> = set.packages.iter().map(|p| want_package(p, &addresses)).collect();
    fetch(store, &wants, ui, options).map_err(|error| match error.downcast::<Failed>() {
        Ok(failed) => explain(store, set, request, mirrors, &failed),
        Err(error) => error.context(format!("failed to fetch the packages of `{}`", set.name)),
    })
}

/// Its own mirror first, then the others of the set: a mirror may hold what another one lists.
fn want_package(package: &Package, addresses: &[(String, String)]) -> Want {
    let on = |(_, base): &(String, String)| match base.strip_prefix("file://") {
        Some(folder) => format!("{folder}/{}", package.path),
        // Object stores behind some mirrors take a plain `+` for a space; apt encodes it too.
        None => format!("{base}/{}", package.path.replace('+', "%2b").replace(':', "%3a")),
    };
    let (own, others): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|(name, _)| *name == package.mirror);
    Want {
        name: format!("{} {}", package.name, package.version),
        urls: own.into_iter().chain(others).map(on).collect(),
        digest: package.sha256,
        size: Some(package.size),
    }
}

/// For packages that are gone, asks the mirrors what they have now.
fn explain(
    store: &Store,
    set: &BaseSet,
    request: &SetRequest,
    mirrors: &Mirrors,
    failed: &Failed,
) -> anyhow::Error {
    let name = &set.name;
    let (gone, other): (Vec<&Failure>, Vec<&Failure>) =
        failed.failures.iter().partition(|f| f.gone);
    if let Some(failure) = other.first() {
        return anyhow!("failed to fetch {}: {}", failure.name, failure.reason);
    }
    let names: Vec<_> = gone.iter().map(|f| f.name.as_str()).collect();
    let now = match resolve(store, request, mirrors).context("cannot ask what they have now") {
        Ok(now) => format!("the lock and the mirrors differ so:\n{}", Diff::new(set, &now)),
        Err(error) => format!("{error:#}\n"),
    };
    anyhow!(
        "the mirrors no longer have {} package(s) of `{name}`: {}; {now}run `builder lock --update \
         {name}` to lock what they have, or build where the cache still holds the old ones",
        names.len(),
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::apt::Source;
    use fs_err as fs;
    use node::values::Digest;
    use std::path::Path;

    fn package(name: &str, mirror: &str) -> Package {
        Package {
            name: name.into(),
            arch: "amd64".into(),
            version: "1:2+b1".into(),
            mirror: mirror.into(),
            path: format!("pool/{name}_2+b1_amd64.deb"),
            size: name.len() as u64,
            sha256: Digest::of(name),
        }
    }

    fn request(folder: &Path) -> SetRequest {
        let source = |mirror: &str| Source {
            mirror: mirror.into(),
            uri: Some(folder.join(mirror).display().to_string()),
            suites: vec!["trixie".into()],
            components: vec!["main".into()],
        };
        SetRequest {
            name: "debian-13".into(),
            origin: "images/debian-13.toml".into(),
            sources: vec![source("debian"), source("debian-security")],
            keyring: folder.join("none.gpg"),
            packages: vec![],
            essential: true,
            arch: "amd64".into(),
        }
    }

    #[test]
    fn a_package_is_asked_for_at_its_own_mirror_first_and_encoded_for_the_web_only() {
        let addresses = [("debian", "http://m.test/debian"), ("debian-security", "file:///srv/s")]
            .map(|(name, uri)| (name.to_owned(), uri.to_owned()));
        let urls = want_package(&package("a", "debian-security"), &addresses).urls;
        assert_eq!(
            urls,
            ["/srv/s/pool/a_2+b1_amd64.deb", "http://m.test/debian/pool/a_2%2bb1_amd64.deb"]
        );
    }

    #[test]
    fn folders_are_mirrors_and_what_they_dropped_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        for mirror in ["debian", "debian-security"] {
            fs::create_dir_all(dir.path().join(mirror).join("pool")).unwrap();
        }
        let there = package("there", "debian");
        // It moved from one archive to the other since it was locked.
        fs::write(dir.path().join("debian-security").join(&there.path), "there").unwrap();
        let packages = vec![there.clone()];
        let mut set = BaseSet { name: "debian-13".into(), request: Digest::of(""), packages };
        let (ui, options) = (Ui::new(true), Options::default());
        let (request, mirrors) = (request(dir.path()), Mirrors::default());
        let fetched = fetch_base(&store, &set, &request, &mirrors, &ui, &options).unwrap();
        assert_eq!((fetched.files, fetched.bytes), (1, 5));
        set.packages.extend([package("gone", "debian"), package("lost", "debian")]);
        let error = fetch_base(&store, &set, &request, &mirrors, &ui, &options).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.starts_with("the mirrors no longer have 2 package(s) of `debian-13`: "),
            "{text}"
        );
        assert!(text.contains("gone 1:2+b1") && text.contains("lost 1:2+b1"), "{text}");
        // Without a key ring nobody can say what there is instead; the reason stands there.
        assert!(
            text.contains(
                "cannot ask what they have now: images/debian-13.toml: there is no key ring"
            ),
            "{text}"
        );
        assert!(text.contains("run `builder lock --update debian-13`"), "{text}");
    }

    #[test]
    fn a_stand_in_that_is_not_here_must_be_given() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let mut lock = crate::lock::tests::sample();
        let k3s = lock.artifacts.get_mut("k3s").unwrap();
        (k3s.standin, k3s.url) = (true, None);
        let error = fetch_artifacts(&store, &lock, &["k3s"], &Ui::new(true), &Options::default())
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("`k3s` of the lock is a stand-in"), "{text}");
        assert!(text.contains("--artifact k3s=PATH"), "{text}");
    }
}
