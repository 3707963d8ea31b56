//! The secret scan (D8): no image is made from a root file system that holds a secret, or anything
//! else that must be made anew on each node. Findings name path and rule, never the secret.

use std::io::Read;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use fs_err as fs;
use regex::bytes::{Regex, RegexSet};
use serde::{Deserialize, Serialize};

use super::tarball::{Content, Entry, Tarball, plain_name};

/// Part of every stage key: raise it with any change of the rules, so that all is looked at again.
pub const VERSION: &str = "1";

/// Bytes looked at in one go, and how far two pieces overlap so that no secret hides on a border.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 8 << 10;
/// Threads that look at files: each holds a piece in memory, and more than two would wait for the
/// largest file.
const THREADS: usize = 2;

struct Rule {
    name: &'static str,
    pattern: &'static str,
}

/// What no file may contain. Each needs its content, not its marker alone: programs that read keys
/// carry the markers.
const CONTENT: [Rule; 8] = [
    Rule {
        name: "private key",
        pattern: r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----\r?\n(?:[A-Za-z-]+: [^\n]*\n)*\s*[A-Za-z0-9+/=]{40}",
    },
    Rule { name: "K3s token", pattern: r"K10[0-9a-f]{64}::[A-Za-z0-9:._-]{4}" },
    Rule { name: "age key", pattern: r"AGE-SECRET-KEY-1[0-9A-Z]{50}" },
    Rule { name: "kubeconfig key", pattern: r"client-key-data: [A-Za-z0-9+/=]{40}" },
    Rule { name: "Proxmox API token", pattern: r"PVEAPIToken=[^\s=]+=[0-9a-f]{8}-[0-9a-f]{4}-" },
    Rule { name: "Tailscale key", pattern: r"tskey-(?:auth|api|client)-[A-Za-z0-9]{10}" },
    Rule { name: "AWS access key", pattern: r"\bAKIA[0-9A-Z]{16}\b" },
    Rule { name: "GitHub token", pattern: r"\bgh[pousr]_[A-Za-z0-9]{36}\b" },
];

/// What no path may be (folders end in `/`).
const PATHS: [Rule; 8] = [
    Rule { name: "SSH host key", pattern: r"^etc/ssh/ssh_host_\w+_key" },
    Rule { name: "K3s node password", pattern: r"^etc/rancher/node/" },
    Rule {
        name: "K3s server state",
        pattern: r"^var/lib/rancher/k3s/server/(?:tls|cred|db|token)",
    },
    Rule { name: "K3s token file", pattern: r"^etc/rancher/k3s/secrets/." },
    Rule { name: "cloud-init instance", pattern: r"^var/lib/cloud/(?:instances?|data|seed)/?" },
    Rule { name: "authorized keys", pattern: r"^(?:root|home/[^/]+)/\.ssh/." },
    Rule { name: "random seed", pattern: r"^var/lib/systemd/random-seed" },
    Rule { name: "journal", pattern: r"^var/log/journal/." },
];

/// What certain files may not contain, though others may.
const IN_FILE: [(&str, Rule); 3] = [
    ("etc/shadow", Rule { name: "password", pattern: r"(?m)^[^:\n]+:\$" }),
    ("etc/machine-id", Rule { name: "machine id", pattern: r"[0-9a-f]{32}" }),
    ("var/lib/dbus/machine-id", Rule { name: "machine id", pattern: r"[0-9a-f]{32}" }),
];

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Files looked into.
    pub files: u64,
    /// Bytes looked at.
    pub bytes: u64,
}

impl Scan {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }
}

/// A scan in progress.
#[derive(Debug, Default)]
struct Scanner {
    scan: Scan,
    findings: Vec<String>,
}

/// The compiled rules; they are constants, so a test proves that they compile.
static RULES: LazyLock<Option<(Regex, RegexSet, RegexSet)>> = LazyLock::new(|| {
    let any = CONTENT.iter().map(|r| r.pattern).collect::<Vec<_>>().join("|");
    let paths = RegexSet::new(PATHS.iter().map(|r| r.pattern)).ok()?;
    let each = RegexSet::new(CONTENT.iter().map(|r| r.pattern)).ok()?;
    Some((Regex::new(&any).ok()?, each, paths))
});

impl Scanner {
    fn path(&mut self, name: &str) -> Result<()> {
        let (_, _, paths) = RULES.as_ref().context("the scan's rules do not compile")?;
        for i in paths.matches(name.as_bytes()) {
            self.findings.push(format!("{name}: {}", PATHS[i].name));
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, entry: &Entry) -> Result<()> {
        self.path(name)?;
        match entry {
            Entry::File(Content::Bytes(bytes), _) => self.file(name, &bytes[..])?,
            Entry::File(Content::File(path), _) => self.file(name, fs::File::open(path)?)?,
            Entry::Link(_) | Entry::Folder(_) => return Ok(()),
        };
        Ok(())
    }

    /// Looks through a file; returns its start (all of it when it is at most one piece).
    fn file(&mut self, name: &str, mut from: impl Read) -> Result<Vec<u8>> {
        let (any, each, _) = RULES.as_ref().context("the scan's rules do not compile")?;
        let (mut first, mut piece) = (None, Vec::with_capacity(PIECE + OVERLAP));
        loop {
            let read = (&mut from).take(PIECE as u64).read_to_end(&mut piece);
            let read = read.with_context(|| format!("failed to read {name}"))?;
            self.scan.bytes += read as u64;
            // One pass for all rules; which it was is only asked when there is something.
            if any.is_match(&piece) {
                let hits = each.matches(&piece).into_iter().map(|i| CONTENT[i].name);
                self.findings.extend(hits.map(|rule| format!("{name}: {rule}")));
            }
            let done = read < PIECE;
            let keep = piece.len().saturating_sub(OVERLAP);
            let rest = piece.split_off(keep);
            if first.is_none() {
                piece.extend_from_slice(&rest);
                first = Some(std::mem::take(&mut piece));
            }
            piece = rest;
            if done {
                break;
            }
        }
        self.scan.files += 1;
        let start = first.unwrap_or_default();
        self.special(name, &start)?;
        Ok(start)
    }

    fn special(&mut self, name: &str, content: &[u8]) -> Result<()> {
        for (_, rule) in IN_FILE.iter().filter(|(file, _)| *file == name) {
            if Regex::new(rule.pattern)?.is_match(content) {
                self.findings.push(format!("{name}: {}", rule.name));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Scan> {
        self.findings.sort();
        self.findings.dedup();
        if self.findings.is_empty() {
            return Ok(self.scan);
        }
        bail!(
            "the image would hold what must not be in one:\n  {}\n\
             take it out of the package list, the tree or the artifact it comes from",
            self.findings.join("\n  ")
        );
    }
}

/// Scans the tar at `path`. `visit` is given each file's name, size in bytes and start (whole
/// files up to 1 MiB), and each folder's name with size 0.
///
/// # Errors
/// The tar cannot be read, or holds what no image may; then all findings are named.
pub fn tar(path: &Path, mut visit: impl FnMut(&str, u64, &[u8])) -> Result<Scan> {
    let mut scanner = Scanner::default();
    let mut tar =
        tar::Archive::new(std::io::BufReader::with_capacity(1 << 20, fs::File::open(path)?));
    for entry in tar.entries()? {
        let mut entry = entry.with_context(|| format!("failed to read {}", path.display()))?;
        let name = plain_name(&entry.path()?.to_string_lossy()).to_owned();
        let size = entry.size();
        if entry.header().entry_type().is_file() {
            scanner.path(&name)?;
            let start = scanner.file(&name, &mut entry)?;
            visit(&name, size, &start);
        } else {
            let slash = if entry.header().entry_type().is_dir() { "/" } else { "" };
            scanner.path(&format!("{name}{slash}"))?;
            visit(&name, 0, &[]);
        }
    }
    scanner.finish()
}

/// Scans what a tarball will hold.
///
/// # Errors
/// As [`tar`].
pub fn tarball(tarball: &Tarball) -> Result<Scan> {
    let entries: Vec<_> = tarball.entries().iter().collect();
    let next = AtomicUsize::new(0);
    // One after the other, each by whoever is free: K3s itself is as large as all else.
    let some = || {
        let mut scanner = Scanner::default();
        while let Some((name, entry)) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
            scanner.entry(name, entry)?;
        }
        Ok(scanner)
    };
    let scanners: Vec<Result<Scanner>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|s| s.unwrap_or_else(|_| Err(anyhow!("a scanning thread panicked")))).collect()
    });
    let mut all = Scanner::default();
    for scanner in scanners {
        let Scanner { scan, findings } = scanner?;
        all.scan = all.scan.plus(scan);
        all.findings.extend(findings);
    }
    all.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Secrets planted for the test, joined at run time so that the repository holds none.
    fn canaries() -> Vec<(&'static str, String)> {
        let x = |n| "Ab3".repeat(n);
        vec![
            ("private key", format!("-----BEGIN OPENSSH {} KEY-----\n{}\n", "PRIVATE", x(30))),
            (
                "private key",
                format!("-----BEGIN RSA {} KEY-----\nProc-Type: 4\n\n{}", "PRIVATE", x(30)),
            ),
            ("K3s token", format!("K10{}::server:{}", "0f".repeat(32), x(4))),
            ("age key", format!("AGE-SECRET-{}-1{}", "KEY", "Q7".repeat(30))),
            ("kubeconfig key", format!("client-key-{}: {}", "data", x(30))),
            ("Proxmox API token", format!("PVEAPI{}=a@pve!b=0123abcd-0123-", "Token")),
            ("Tailscale key", format!("tskey-{}-{}", "auth", x(6))),
            ("AWS access key", format!(" AK{}{} ", "IA", "Z2".repeat(8))),
            ("GitHub token", format!(" gh{}_{} ", "p", x(12))),
        ]
    }

    fn with(name: &str, content: impl Into<Vec<u8>>) -> Tarball {
        let mut t = Tarball::default();
        t.file(name, content, 0o600).unwrap();
        t
    }

    #[test]
    fn every_planted_canary_is_found_and_never_shown() {
        for (rule, secret) in canaries() {
            // In the middle of a large binary, across the border of two pieces.
            let mut data = vec![b'.'; 3 * PIECE];
            data[PIECE - 20..PIECE - 20 + secret.len()].copy_from_slice(secret.as_bytes());
            let text = tarball(&with("opt/blob", data)).unwrap_err().to_string();
            assert!(text.contains(&format!("opt/blob: {rule}")), "{rule}: {text}");
            assert!(!text.contains(&secret));
        }
    }

    #[test]
    fn paths_and_special_files_are_found() {
        let found = |name: &str, content: &str| tarball(&with(name, content)).is_err();
        for path in [
            "etc/ssh/ssh_host_ed25519_key",
            "etc/rancher/node/password",
            "root/.ssh/authorized_keys",
            "var/lib/rancher/k3s/server/token",
            "var/lib/cloud/instance/user-data.txt",
            "etc/rancher/k3s/secrets/server-token",
            "var/lib/systemd/random-seed",
        ] {
            assert!(found(path, "x"), "{path}");
        }
        assert!(found("etc/shadow", "root:$y$j9T$abc:1:\n"));
        assert!(!found("etc/shadow", "root:*:1:\nbin:!:1:\n"));
        assert!(found("etc/machine-id", "0123456789abcdef0123456789abcdef\n"));
        assert!(!found("etc/machine-id", ""));
    }

    #[test]
    fn programs_that_read_keys_are_not_keys() {
        let text = "usage: -----BEGIN OPENSSH PRIVATE KEY-----\n then base64";
        assert!(tarball(&with("usr/bin/ssh-keygen", text)).is_ok());
    }
}
