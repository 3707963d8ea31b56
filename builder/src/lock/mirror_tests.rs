//! Resolving against a mirror of our own: real packages, really signed, in a folder.

use std::path::Path;
use std::process::Command;

use fs_err as fs;
use node::command::Run;
use node::values::Digest;

use super::apt::{SetRequest, Source, resolve};
use super::mirror::Mirrors;
use super::{BaseSet, Diff, Package};
use crate::fetch::{Options, fetch_base, make_pool};
use crate::store::Store;
use crate::ui::Ui;

/// Whether a signed mirror can be made and read on this machine.
fn possible() -> bool {
    let has = |program: &str, argument: &str| {
        Command::new(program).arg(argument).succeeds().unwrap_or(false)
    };
    let can = has("gpg", "--version") && has("gpgv", "--version") && has("apt-get", "--version");
    if !can {
        eprintln!("skipped: needs gpg, gpgv and apt-get");
    }
    can
}

/// A mirror `debian` with suite `trixie` under a folder, and the key that signs it.
struct Mirror<'a> {
    root: &'a Path,
}

impl Mirror<'_> {
    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.root.join("gpg")).args(["--batch", "--quiet", "--yes"]);
        gpg
    }

    fn make_key(&self) {
        fs::create_dir_all(self.root.join("gpg")).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(self.root.join("gpg"), private).unwrap();
        let key = ["--quick-generate-key", "test", "ed25519", "sign", "never"];
        self.gpg().args(["--passphrase", ""]).args(key).run().unwrap();
        self.gpg().arg("--output").arg(self.root.join("key.gpg")).arg("--export").run().unwrap();
    }

    /// Makes the mirror hold exactly these packages: name, version, more control lines.
    fn publish(&self, store: &Store, packages: &[(&str, &str, &str)]) {
        let packages = packages.iter().map(|p| self.package(store, *p)).collect();
        let set = BaseSet { name: "mirror".into(), request: Digest::of(""), packages };
        let mirror = self.root.join("debian");
        let _ = fs::remove_dir_all(&mirror);
        make_pool(store, &set, "trixie", &mirror, &Ui::new(true)).unwrap();
        let suite = mirror.join("dists/trixie");
        let mut sign = self.gpg();
        sign.arg("--output").arg(suite.join("InRelease")).arg("--clear-sign");
        sign.arg(suite.join("Release")).run().unwrap();
        fs::remove_file(suite.join("Release")).unwrap();
    }

    fn package(&self, store: &Store, (name, version, more): (&str, &str, &str)) -> Package {
        let tree = self.root.join("tree");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x.test>\n\
             {more}Description: a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let file = self.root.join("x.deb");
        let mut build = Command::new("dpkg-deb");
        // Else the same package made a second later has other bytes.
        build.env("SOURCE_DATE_EPOCH", "0");
        build.args(["--root-owner-group", "--build"]).arg(&tree).arg(&file).run().unwrap();
        let (sha256, size) = store.add_file(&file).unwrap();
        let (name, version, arch) = (name.to_owned(), version.to_owned(), "all".to_owned());
        Package { name, arch, version, mirror: "debian".into(), path: "x".into(), size, sha256 }
    }

    fn request(&self, packages: &[&str], essential: bool) -> SetRequest {
        SetRequest {
            name: "debian-13".into(),
            origin: "images/debian-13.toml".into(),
            sources: vec![Source {
                mirror: "debian".into(),
                uri: Some(self.root.join("debian").display().to_string()),
                suites: vec!["trixie".into()],
                components: vec!["main".into()],
            }],
            keyring: self.root.join("key.gpg"),
            packages: packages.iter().map(|&p| p.to_owned()).collect(),
            essential,
            arch: "amd64".into(),
        }
    }
}

impl Drop for Mirror<'_> {
    /// gpg leaves an agent running for its home folder.
    fn drop(&mut self) {
        let mut kill = Command::new("gpgconf");
        let _ = kill.arg("--homedir").arg(self.root.join("gpg")).args(["--kill", "all"]).run();
    }
}

const PACKAGES: [(&str, &str, &str); 7] = [
    ("base", "1", "Essential: yes\n"),
    ("init", "1", "Priority: required\n"),
    ("apt", "3", ""),
    ("tool", "1:2.0~rc1+b1", "Depends: lib\nRecommends: toy\n"),
    ("lib", "5", ""),
    ("toy", "1", ""),
    ("other", "1", ""),
];

fn names(set: &BaseSet) -> Vec<&str> {
    set.packages.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn a_base_holds_what_is_essential_and_a_tools_set_only_its_closure() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
    let mirror = Mirror { root: dir.path() };
    mirror.make_key();
    mirror.publish(&store, &PACKAGES);
    let mirrors = Mirrors::default();
    let base = resolve(&store, &mirror.request(&["tool"], true), &mirrors).unwrap();
    assert_eq!(names(&base), ["apt", "base", "init", "lib", "tool"]);
    let tools = resolve(&store, &mirror.request(&["tool"], false), &mirrors).unwrap();
    assert_eq!(names(&tools), ["lib", "tool"]);
    let tool = &tools.packages[1];
    assert_eq!((tool.version.as_str(), tool.mirror.as_str()), ("1:2.0~rc1+b1", "debian"));
    assert_eq!(tool.path, "debs/tool_2.0~rc1+b1_all.deb");
    let wrong = mirror.request(&["toool", "lib", "entirely-else"], false);
    let text = resolve(&store, &wrong, &mirrors).unwrap_err().to_string();
    insta::assert_snapshot!(text);
}

#[test]
fn a_dropped_version_is_refused_with_what_there_is_instead() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror { root: dir.path() };
    mirror.make_key();
    let made = Store::open(Some(&dir.path().join("made"))).unwrap();
    mirror.publish(&made, &PACKAGES);
    let (request, mirrors) = (mirror.request(&["tool"], false), Mirrors::default());
    let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
    let locked = resolve(&store, &request, &mirrors).unwrap();
    let mut newer = PACKAGES;
    newer[4].1 = "6";
    mirror.publish(&made, &newer);
    let (ui, options) = (Ui::new(true), Options::default());
    let error = fetch_base(&store, &locked, &request, &mirrors, &ui, &options).unwrap_err();
    insta::assert_snapshot!(error.to_string());
    let now = resolve(&store, &request, &mirrors).unwrap();
    assert_eq!(Diff::new(&locked, &now).to_string(), "  ~ lib 5 -> 6\n");
    fetch_base(&store, &now, &request, &mirrors, &ui, &options).unwrap();
}

#[test]
fn a_mirror_signed_by_somebody_else_is_refused() {
    if !possible() {
        return;
    }
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(Some(&dir.path().join("cache"))).unwrap();
    let (mirror, stranger) = (Mirror { root: dir.path() }, Mirror { root: other.path() });
    mirror.make_key();
    stranger.make_key();
    mirror.publish(&store, &PACKAGES);
    let mut request = mirror.request(&["tool"], false);
    request.keyring = other.path().join("key.gpg");
    let text = resolve(&store, &request, &Mirrors::default()).unwrap_err().to_string();
    assert!(
        text.contains("signatures couldn't be verified") || text.contains("NO_PUBKEY"),
        "{text}"
    );
}
