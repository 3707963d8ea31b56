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
    if set.packages.iter().all(|p| store.has(&p.sha256)) {
        return Ok(Fetched { files: 0, bytes: 0 }); // no mirror need be known
    }
    let addresses = if options.offline { Vec::new() } else { request.addresses(mirrors)? };
    let wants: Vec<_> = set.packages.iter().map(|p| want_package(p, &addresses)).collect();
    fetch(store, &wants, ui, options).map_err(|error| match error.downcast::<Failed>() {
        Ok(failed) => explain(store, set, request, mirrors, &failed),
        Err(error) => error.context(format!("failed to fetch the packages of `{}`", set.name)),
    })
}

fn want_package(package: &Package, addresses: &[(String, String)]) -> Want {
    let on = |(_, base): &(String, String)| match base.strip_prefix("file://") {
        Some(folder) => format!("{folder}/{}", package.path),
        // Object stores behind some mirrors take a plain `+` for a space; apt encodes it too.
        None => format!("{base}/{}", package.path.replace('+', "%2b").replace(':', "%3a")),
    };
    Want {
        name: format!("{} {}", package.name, package.version),
        urls: addresses.iter().filter(|(name, _)| *name == package.mirror).map(on).collect(),
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
