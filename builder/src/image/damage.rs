//! After a failure: whether a download in the cache is no longer what its name says. The cache is
//! trusted while all goes well, as hashing it all would take longer than most builds.

use anyhow::{Error, Result};
use fs_err as fs;
use node::values::Digest;

use super::plan::Plan;
use crate::store::{Store, hash_file};

/// Adds to `error` which inputs of `plan` are damaged. They are removed, so that the next run
/// fetches them again.
pub fn explain(error: Error, plan: &Plan, store: &Store) -> Error {
    match remove_damaged(plan, store) {
        Ok(names) if names.is_empty() => error,
        Ok(names) => error.context(format!(
            "damaged in the cache, and removed from it: {}; run this again to fetch it anew",
            names.join(", ")
        )),
        // The first error is the one to tell; this one would only add that the cache is unreadable.
        Err(_) => error,
    }
}

fn remove_damaged(plan: &Plan, store: &Store) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, digest) in inputs(plan) {
        let path = store.object(&digest);
        if path.is_file() && hash_file(&path)?.0 != digest {
            fs::remove_file(&path)?;
            names.push(name);
        }
    }
    Ok(names)
}

/// Name and digest of every file a build reads from the cache.
fn inputs(plan: &Plan) -> impl Iterator<Item = (String, Digest)> {
    let sets = [&plan.base, &plan.tools, &plan.signed];
    let packages = sets.into_iter().flat_map(|set| &set.packages);
    let packages = packages.map(|p| (format!("{} {}", p.name, p.version), p.sha256));
    packages.chain(plan.artifacts().map(|a| (format!("{} {}", a.name, a.version), a.sha256)))
}
