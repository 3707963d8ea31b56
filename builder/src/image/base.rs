//! The base root file system (D5): mmdebstrap over a pool of exactly the locked packages, never
//! over the network, as an ordinary user where subordinate ids allow it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use node::command::{Run, tied};
use node::packages::Packages;
use node::values::Digest;
use serde::{Deserialize, Serialize};

use super::key::Key;
use super::plan::Plan;
use super::scan::{self, Scan};
use super::scratch::Scratch;
use crate::config::Image;
use crate::fetch::make_pool;
use crate::lock::BaseSet;
use crate::store::Store;
use crate::ui::Ui;

/// Version of this stage's code.
const VERSION: u32 = 3;
const CLEAN_HOOK: &str = include_str!("clean-hook.sh");
/// Runs before the kernel is installed. The initrd at zstd's level 1, not 9: made two seconds
/// faster, some 2 MB larger, and GRUB reads it once.
const INITRD_HOOK: &str = r#"mkdir -p "$1/etc/initramfs-tools/conf.d" &&
echo COMPRESSLEVEL=1 > "$1/etc/initramfs-tools/conf.d/compresslevel""#;

/// Files of the stage's output.
pub const TAR: &str = "root.tar";
/// Bytes the tree and its packages take while mmdebstrap works (measured: 0.6 GB).
const TREE_BYTES: u64 = 1 << 30;
const FACTS: &str = "facts.json";
/// Lines of mmdebstrap's, and characters of each, that an error shows.
const SAID_LINES: usize = 15;
const SAID_WIDTH: usize = 300;

/// What later stages need to know of the base without reading its tar again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// `/usr/lib/os-release`, which the overlay completes.
    pub os_release: String,
    /// Bytes its files take on disk, in blocks of 4 KiB.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
    /// What the secret scan looked at.
    pub scan: Scan,
}

impl Facts {
    /// Those of the stage output `stage`.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn load(stage: &Path) -> Result<Self> {
        let path = stage.join(FACTS);
        serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| format!("{} is damaged; remove its folder", path.display()))
    }
}

/// Key of the base: the exact packages, and everything of the image's file that steers mmdebstrap.
///
/// # Errors
/// Never in practice (see [`Key::json`]).
pub fn key(set: &BaseSet, image: &Image) -> Result<Digest> {
    let key = Key::of("base", VERSION).with("hook", CLEAN_HOOK).with("suite", &image.suite);
    let key = key.with("trim hook", trim_hook(&image.exclude, &image.include));
    let key = key.with("initrd hook", INITRD_HOOK);
    let key = key.with("epoch", image.source_date_epoch.to_string()).with("scan", scan::VERSION);
    let key = key.json("exclude", &image.exclude)?.json("include", &image.include)?;
    let key = key.json("request", &set.request)?;
    Ok(set.packages.iter().fold(key, |k, p| k.digest(&p.name, &p.sha256)).finish())
}

/// Builds the base into `dest`. All packages of `set` must be in the store.
///
/// # Errors
/// mmdebstrap fails, what it installed is not what is locked, or a secret is found.
pub fn make(store: &Store, plan: &Plan, ui: &Ui, dest: &Path) -> Result<()> {
    let (set, image) = (&plan.base, &plan.image);
    let scratch = Scratch::new(TREE_BYTES)?;
    let pool = scratch.path().join("pool");
    make_pool(store, set, &image.suite, &pool, ui)?;
    let tar = dest.join(TAR);
    run_mmdebstrap(scratch.path(), &pool, &plan.names, image, &tar)?;
    let facts = inspect(&tar, set)?;
    fs::write(dest.join(FACTS), serde_json::to_vec(&facts)?)?;
    Ok(())
}

fn run_mmdebstrap(
    scratch: &Path,
    pool: &Path,
    names: &[String],
    image: &Image,
    tar: &Path,
) -> Result<()> {
    let hook = scratch.join("clean-hook");
    node::files::write_atomic(&hook, CLEAN_HOOK.as_bytes(), 0o755)?;
    // As root its mounts would be the host's: killed at the wrong moment it leaves them behind, and
    // whoever removes the folder then walks into the host's /sys.
    let root = nix::unistd::geteuid().is_root();
    let (mode, first) = if root { ("root", "unshare") } else { ("unshare", "mmdebstrap") };
    // If this process is killed, so is mmdebstrap, which then cleans up after itself.
    let mut command = tied("TERM", first);
    if root {
        command.args(["--mount", "mmdebstrap"]);
    }
    // Not --quiet: then it keeps to itself what a failed dpkg said.
    command.args(["--variant=minbase", "--format=tar"]);
    command.arg(format!("--mode={mode}")).arg(format!("--include={}", names.join(",")));
    command
        .arg("--aptopt=Acquire::Languages \"none\"")
        .arg("--aptopt=APT::Install-Recommends \"false\"");
    command.arg(format!("--setup-hook={}", dpkg_hook(&image.exclude, &image.include)));
    command.arg(format!("--extract-hook={}", trim_hook(&image.exclude, &image.include)));
    command.arg(format!("--essential-hook={INITRD_HOOK}"));
    command.arg(format!("--customize-hook={}", hook.display()));
    command.args([&image.suite, "-"]);
    command.arg(format!("deb [trusted=yes] copy://{} {} main", pool.display(), image.suite));
    command.env("SOURCE_DATE_EPOCH", image.source_date_epoch.to_string());
    // Debian's own programs only: maintainer scripts run python3, and a user's may be slow or another.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TMPDIR", scratch).env("LC_ALL", "C").env("TZ", "UTC");
    command.stdin(Stdio::null()).stdout(fs::File::create(tar)?.into_file());
    let output = command.stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("failed to start `{}`", command.line()))?;
    let status = output.status;
    ensure!(
        status.success(),
        "failed to build the base root file system: mmdebstrap ended with {status}:\n{}",
        last_words(&String::from_utf8_lossy(&output.stderr))
    );
    Ok(())
}

/// The last lines of what mmdebstrap said, each cut: it repeats whole command lines of dpkg, and behind
/// one of those the cause would not be seen.
fn last_words(said: &str) -> String {
    let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(SAID_LINES)..];
    let cut = |line: &&str| format!("  {}", line.chars().take(SAID_WIDTH).collect::<String>());
    last.iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// Leaves `exclude` out of every package that dpkg unpacks, on the node too. As `--dpkgopt` the same lines
/// would make mmdebstrap start a Python program for each essential package, a second or two in all.
fn dpkg_hook(exclude: &[String], include: &[String]) -> String {
    let lines = |word, globs: &[String]| -> Vec<String> {
        globs.iter().map(|glob| format!("path-{word}={glob}\n")).collect()
    };
    let text = [lines("exclude", exclude), lines("include", include)].concat().concat();
    format!(
        "mkdir -p \"$1/etc/dpkg/dpkg.cfg.d\" && printf %s {} > \"$1/etc/dpkg/dpkg.cfg.d/90paths\"",
        quoted(&text)
    )
}

/// Removes from the essential packages, which are unpacked without dpkg, what it would have left out; before
/// they are configured, as they make links to their manual pages. Like dpkg it keeps links that may be
/// folders of what is included. What is mounted meanwhile is the host's own.
fn trim_hook(exclude: &[String], include: &[String]) -> String {
    let any = |globs: &mut dyn Iterator<Item = &str>| {
        let tests: Vec<_> =
            globs.map(|glob| format!("-path {}", quoted(&format!(".{glob}")))).collect();
        if tests.is_empty() { "-false".to_owned() } else { tests.join(" -o ") }
    };
    let folders = || include.iter().filter_map(|glob| Some(glob.rsplit_once('/')?.0));
    format!(
        "cd \"$1\" && for top in ./*; do case $top in ./dev|./proc|./sys) continue ;; esac; \
         find \"$top\" \\( {} \\) ! \\( {} \\) ! \\( -type l \\( {} \\) \\) \
         \\( ! -type d -o -empty \\) -delete || exit 1; done",
        any(&mut exclude.iter().map(String::as_str)),
        any(&mut include.iter().map(String::as_str)),
        any(&mut folders())
    )
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Reads the tar once: what is in it, whether it is what was locked, and whether it is clean.
fn inspect(tar: &Path, set: &BaseSet) -> Result<Facts> {
    let (mut os_release, mut status) = (String::new(), String::new());
    let (mut bytes, mut entries) = (0, 0);
    let scan = scan::tar(tar, |name, size, content| {
        bytes += size.next_multiple_of(4096);
        entries += 1;
        match name {
            "usr/lib/os-release" => os_release.push_str(&String::from_utf8_lossy(content)),
            "var/lib/dpkg/status" => status.push_str(&String::from_utf8_lossy(content)),
            _ => {}
        }
    })?;
    ensure!(!os_release.is_empty(), "the base has no /usr/lib/os-release");
    compare(&installed(&status), set)?;
    Ok(Facts { os_release, bytes, entries, scan })
}

/// `name=version` of every installed package of a dpkg status file.
fn installed(status: &str) -> BTreeSet<String> {
    Packages::of_status(status).iter().map(|(name, version)| format!("{name}={version}")).collect()
}

fn compare(installed: &BTreeSet<String>, set: &BaseSet) -> Result<()> {
    let locked = set.packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect();
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
        a.difference(b).cloned().collect::<Vec<_>>().join(" ")
    };
    if *installed != locked {
        bail!(
            "the base is not what builder.lock says: installed but not locked: {}; \
             locked but not installed: {}; run `builder lock --update {}`",
            or_none(only(installed, &locked)),
            or_none(only(&locked, installed)),
            set.name
        );
    }
    Ok(())
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_trim_leaves_what_is_included_and_no_empty_folder() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            fs::create_dir_all(root.path().join(path).parent().unwrap()).unwrap();
            fs::write(root.path().join(path), "").unwrap();
        };
        for path in ["doc/a/copyright", "doc/a/NEWS", "doc/b/NEWS", "it's/x/y", "kept"] {
            put(path);
        }
        let link = |path: &str| std::os::unix::fs::symlink("a", root.path().join(path)).unwrap();
        ["doc/c", "it's/link"].into_iter().for_each(link);
        let exclude = ["/doc/*", "/it's/*"].map(str::to_owned);
        let include = ["/doc/*/copyright".to_owned()];
        let hook = trim_hook(&exclude, &include);
        let ended = Command::new("sh").args(["-c", &hook, "sh"]).arg(root.path()).status().unwrap();
        assert!(ended.success(), "{hook}");
        let there = |path: &str| root.path().join(path).exists();
        assert!(there("doc/a/copyright") && there("kept"));
        assert!(there("doc/c/copyright") && !root.path().join("it's/link").is_symlink());
        assert!(!there("doc/a/NEWS") && !there("doc/b") && !there("it's/x"));
        let ended = Command::new("sh")
            .args(["-c", &dpkg_hook(&exclude, &include), "sh"])
            .arg(root.path())
            .status();
        assert!(ended.unwrap().success());
        let written = fs::read_to_string(root.path().join("etc/dpkg/dpkg.cfg.d/90paths")).unwrap();
        assert_eq!(
            written,
            "path-exclude=/doc/*\npath-exclude=/it's/*\npath-include=/doc/*/copyright\n"
        );
    }

    #[test]
    fn a_cause_is_seen_before_a_line_of_kilobytes() {
        let said = format!("one\n\ndpkg: error processing x\nE: {} failed\n", "x.deb ".repeat(900));
        let words = last_words(&said);
        assert!(words.starts_with("  one\n  dpkg: error processing x\n  E: x.deb"), "{words}");
        assert!(words.len() < 400, "{words}");
        assert_eq!(last_words(&"line\n".repeat(50)).lines().count(), SAID_LINES);
    }

    #[test]
    fn only_installed_packages_count() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: b\nStatus: deinstall ok config-files\nVersion: 2\n";
        assert_eq!(installed(status), ["a=1".to_owned()].into());
    }
}
