//! A package set as a local apt repository of exactly these packages, for mmdebstrap.
//!
//! The index is made from the packages' own control data, so it needs no network and no
//! apt-utils, and is the same bytes for the same set everywhere.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use node::command::{Run as _, check};
use node::values::Digest;

use crate::lock::{BaseSet, Package};
use crate::store::Store;
use crate::ui::Ui;

/// Raised when the index of an unchanged set would come out different.
const STAGE_VERSION: u32 = 1;
/// Reading control data starts a program per package; two keep both of a small host's cores busy.
const READERS: usize = 2;

/// Makes `dest` (which must not exist or be empty) an apt repository with the one suite `suite`,
/// component `main`: `deb [trusted=yes] copy://DEST SUITE main`. The packages are hard links
/// into the store; every one must be there already.
pub fn make_pool(store: &Store, set: &BaseSet, suite: &str, dest: &Path, ui: &Ui) -> Result<()> {
    let index = index(store, set, ui)?;
    let debs = dest.join("debs");
    fs::create_dir_all(&debs)?;
    for package in &set.packages {
        link(&store.object(&package.sha256), &debs.join(file_name(package)))?;
    }
    write_suite(set, suite, dest, &index)
}

/// Name and key of the stage that holds the set's index, for the record of an image's build.
pub fn pool_stage(set: &BaseSet) -> (String, Digest) {
    ("pool".to_owned(), Digest::of(format!("pool {STAGE_VERSION} {}", set.digest())))
}

/// The text of `Packages`, from the cache if this very set was indexed before.
fn index(store: &Store, set: &BaseSet, ui: &Ui) -> Result<String> {
    let (stage, key) = pool_stage(set);
    let _lock = store.stage_lock(&stage, &key, ui)?;
    let ready = store.stage(&stage, &key);
    if ready.is_dir() {
        return Ok(fs::read_to_string(ready.join("Packages"))?);
    }
    let temp = store.temp_dir("pool")?;
    let text = read_controls(store, set)?;
    fs::write(temp.path().join("Packages"), &text)?;
    let inputs = [(set.name.clone(), set.digest().to_string())];
    store.commit_stage(&stage, &key, temp, &inputs)?;
    Ok(text)
}

fn read_controls(store: &Store, set: &BaseSet) -> Result<String> {
    let next = AtomicUsize::new(0);
    let read = || {
        let mut mine = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(package) = set.packages.get(at) else { return Ok(mine) };
            mine.push((at, stanza(store, package)?));
        }
    };
    let results: Vec<Result<Vec<(usize, String)>>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        readers.into_iter().filter_map(|reader| reader.join().ok()).collect()
    });
    let mut all = results.into_iter().collect::<Result<Vec<_>>>()?.concat();
    if all.len() != set.packages.len() {
        bail!("failed to index the packages of `{}`", set.name);
    }
    all.sort();
    Ok(all.into_iter().map(|(_, text)| text).collect())
}

/// One package's paragraph: its control data, and where apt finds the file.
fn stanza(store: &Store, package: &Package) -> Result<String> {
    let Package { name, version, arch, size, sha256, .. } = package;
    let deb = store.object(sha256);
    if !deb.is_file() {
        bail!("package {name} {version} is not in the cache");
    }
    let control =
        control_file(&deb).with_context(|| format!("failed to read package {name} {version}"))?;
    let field = |key: &str| control.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    let found = (field("Package:"), field("Version:"), field("Architecture:"));
    if found != (Some(name), Some(version), Some(arch)) {
        bail!("the lock says {name} {version} {arch}, but the file with that digest is {found:?}");
    }
    let path = file_name(package);
    let control = control.trim_end();
    Ok(format!("{control}\nFilename: debs/{path}\nSize: {size}\nSHA256: {sha256}\n\n"))
}

/// As dpkg-deb streams it: with `--field` it would unpack the file into a folder of /tmp first, which a
/// kill leaves there.
fn control_file(deb: &Path) -> Result<String> {
    let mut command = Command::new("dpkg-deb");
    let output = command.arg("--ctrl-tarfile").arg(deb).output();
    let output = output.with_context(|| format!("failed to start `{}`", command.line()))?;
    check(&command, &output)?;
    for entry in tar::Archive::new(output.stdout.as_slice()).entries()? {
        let mut entry = entry?;
        if entry.path()?.file_name().is_some_and(|name| name == "control") {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    bail!("{} has no control file", deb.display())
}

/// As in Debian's own pool: without the epoch, whose colon would need encoding.
fn file_name(package: &Package) -> String {
    let version = package.version.split_once(':').map_or(&*package.version, |(_, rest)| rest);
    format!("{}_{version}_{}.deb", package.name, package.arch)
}

/// A hard link; a copy where the cache lies on another file system.
fn link(object: &Path, at: &Path) -> Result<()> {
    match fs::hard_link(object, at) {
        Err(e) if matches!(e.kind(), ErrorKind::CrossesDevices | ErrorKind::TooManyLinks) => {
            fs::copy(object, at)?;
        }
        other => other?,
    }
    Ok(())
}

fn write_suite(set: &BaseSet, suite: &str, dest: &Path, index: &str) -> Result<()> {
    // All packages of a set have its architecture or `all`; apt lists both under the former.
    let arch = set.packages.iter().map(|p| p.arch.as_str()).find(|a| *a != "all");
    let arch = arch.unwrap_or("amd64");
    let below = format!("main/binary-{arch}/Packages");
    let folder = dest.join("dists").join(suite);
    let packages = folder.join(&below);
    fs::create_dir_all(packages.parent().unwrap_or(&folder))?;
    fs::write(&packages, index)?;
    // mmdebstrap finds the essential packages by Codename. The date is as old as can be, so
    // that no wrong clock makes apt call it "not valid yet".
    let mut release = format!(
        "Origin: builder.lock\nLabel: {}\nSuite: {suite}\nCodename: {suite}\n\
         Date: Thu, 01 Jan 1970 00:00:00 UTC\nArchitectures: {arch}\nComponents: main\nSHA256:\n",
        set.name
    );
    writeln!(release, " {} {} {below}", Digest::of(index), index.len())?;
    fs::write(folder.join("Release"), release)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tiny real .deb in the store, and its lock entry.
    fn deb(store: &Store, work: &Path, name: &str, version: &str) -> Package {
        let tree = work.join(name);
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x.test>\n\
             Description: a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let file = work.join(format!("{name}.deb"));
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-b"]).arg(&tree).arg(&file).run().unwrap();
        let (sha256, size) = store.add_file(&file).unwrap();
        let (name, version, arch) = (name.to_owned(), version.to_owned(), "all".to_owned());
        let (mirror, path) = ("debian".to_owned(), "pool/x".to_owned());
        Package { name, arch, version, mirror, path, size, sha256 }
    }

    #[test]
    fn a_pool_lists_exactly_the_set_and_the_same_set_gives_the_same_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let packages =
            vec![deb(&store, dir.path(), "alpha", "1:2.0-1"), deb(&store, dir.path(), "beta", "3")];
        let set = BaseSet { name: "t".into(), request: Digest::of(""), packages };
        let ui = Ui::new(true);
        let mut texts = Vec::new();
        for name in ["one", "two"] {
            let dest = dir.path().join(name);
            make_pool(&store, &set, "trixie", &dest, &ui).unwrap();
            assert!(dest.join("debs/alpha_2.0-1_all.deb").is_file());
            let suite = dest.join("dists/trixie");
            let index = fs::read_to_string(suite.join("main/binary-amd64/Packages")).unwrap();
            let release = fs::read_to_string(suite.join("Release")).unwrap();
            assert!(release.contains(&Digest::of(&index).to_string()));
            texts.push((index, release));
        }
        assert_eq!(texts[0], texts[1]);
        let paths: Vec<_> =
            texts[0].0.lines().filter_map(|l| l.strip_prefix("Filename: ")).collect();
        assert_eq!(paths, ["debs/alpha_2.0-1_all.deb", "debs/beta_3_all.deb"]);
    }

    #[test]
    fn a_file_that_is_another_package_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
        let mut package = deb(&store, dir.path(), "alpha", "2");
        package.version = "3".into();
        let set = BaseSet { name: "t".into(), request: Digest::of(""), packages: vec![package] };
        let text = make_pool(&store, &set, "trixie", &dir.path().join("p"), &Ui::new(true))
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("the lock says alpha 3 all, but"), "{text}");
    }
}
