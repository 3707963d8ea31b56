//! Resolves what an image asks for into exact packages, with the host's apt in a root of its
//! own: an empty dpkg status, our sources, our key ring, nothing of the host's settings but its
//! proxy. Nothing is installed and no .deb is fetched here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fs_err as fs;
use node::command::Run;

use super::mirror::Mirrors;
pub use super::request::{SetRequest, Source};
use super::until::run_until;
use super::{BaseSet, Package};
use crate::store::Store;

/// An index of 10 MB on a slow line; a mirror that never answers is given up long before, by
/// the timeout of the connection.
const UPDATE_DEADLINE: Duration = Duration::from_mins(5);
/// Pure computation on indexes already here.
const SOLVE_DEADLINE: Duration = Duration::from_mins(1);
/// How far a name may be from an existing one to be suggested.
const SUGGEST_WITHIN: f64 = 0.8;

/// A private apt root under a work folder of the cache.
struct Apt<'a> {
    request: &'a SetRequest,
    addresses: Vec<(String, String)>,
    root: &'a Path,
}

/// Asks the mirrors what `request` means today.
pub fn resolve(store: &Store, request: &SetRequest, mirrors: &Mirrors) -> Result<BaseSet> {
    let work = store.temp_dir("apt")?;
    let apt = Apt { request, addresses: request.addresses(mirrors)?, root: work.path() };
    apt.prepare()?;
    apt.update()?;
    let packages = apt.solve()?;
    Ok(BaseSet { name: request.name.clone(), request: request.digest(), packages })
}

impl Apt<'_> {
    fn prepare(&self) -> Result<()> {
        let folders = [
            "etc/preferences.d",
            "etc/auth.conf.d",
            "state/lists/partial",
            "cache/archives/partial",
            "log",
        ];
        for folder in folders {
            fs::create_dir_all(self.root.join(folder))?;
        }
        fs::write(self.root.join("status"), "")?;
        fs::write(self.root.join("etc/sources.list"), self.sources_list()?)?;
        fs::write(self.root.join("apt.conf"), self.settings())?;
        Ok(())
    }

    fn sources_list(&self) -> Result<String> {
        let keyring = std::path::absolute(&self.request.keyring)?;
        if !keyring.is_file() {
            let (keyring, origin) = (keyring.display(), &self.request.origin);
            bail!(
                "{origin}: there is no key ring {keyring}; install debian-archive-keyring (or ubuntu-keyring)"
            );
        }
        let mut text = String::new();
        for (source, (_, uri)) in self.request.sources.iter().zip(&self.addresses) {
            for suite in &source.suites {
                let components = source.components.join(" ");
                let options = format!("signed-by={} arch={}", keyring.display(), self.request.arch);
                writeln!(text, "deb [{options}] {uri} {suite} {components}")?;
            }
        }
        Ok(text)
    }

    /// Read by apt before anything else; `parts` and `main` keep the host's files out.
    fn settings(&self) -> String {
        let (root, arch) = (self.root.display(), &self.request.arch);
        let mut text = format!(
            r#"Dir "{root}";
Dir::Etc "{root}/etc";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::sourcelist "{root}/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Log "{root}/log";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::ForceHash "SHA256";
"#
        );
        text.push_str(&host_proxy());
        text
    }

    fn run(&self, program: &str, args: &[String], deadline: Duration) -> Result<Output> {
        let mut command = Command::new(program);
        command.args(args).env("APT_CONFIG", self.root.join("apt.conf")).env("LC_ALL", "C.UTF-8");
        run_until(&mut command, self.root, deadline)
    }

    fn update(&self) -> Result<()> {
        let output = self.run("apt-get", &["update".into(), "-q".into()], UPDATE_DEADLINE)?;
        if output.status.success() {
            return Ok(());
        }
        let mirrors: Vec<_> =
            self.addresses.iter().map(|(name, uri)| format!("{name} = {uri}")).collect();
        bail!(
            "failed to read the package index for `{}` from its mirrors ({}): {}; \
             --mirror NAME=URL names another mirror",
            self.request.name,
            mirrors.join(", "),
            complaints(&output)
        );
    }

    fn solve(&self) -> Result<Vec<Package>> {
        let mut args: Vec<String> =
            ["install", "--print-uris", "-qq", "-y", "--no-install-recommends"]
                .map(Into::into)
                .into();
        if self.request.essential {
            // What mmdebstrap's minbase takes.
            args.extend(["?essential", "?priority(required)", "apt"].map(Into::into));
        }
        args.extend(self.request.packages.iter().cloned());
        let output = self.run("apt-get", &args, SOLVE_DEADLINE)?;
        if !output.status.success() {
            bail!("{}", self.unsolved(&output)?);
        }
        let text = String::from_utf8(output.stdout).context("apt's answer is not UTF-8")?;
        let mut packages: Vec<_> =
            text.lines().map(|line| self.package(line)).collect::<Result<_>>()?;
        packages.sort();
        Ok(packages)
    }

    /// One line of `--print-uris`: `'URI' FILE SIZE SHA256:HEX`.
    fn package(&self, line: &str) -> Result<Package> {
        let parsed = (|| {
            let (uri, rest) = line.strip_prefix('\'')?.split_once("' ")?;
            let mut words = rest.split_whitespace();
            let (file, size, hash) = (words.next()?, words.next()?, words.next()?);
            let (mirror, path) = self.locate(uri)?;
            let mut parts = file.strip_suffix(".deb")?.splitn(3, '_');
            let (name, version, arch) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Package {
                name: name.to_owned(),
                arch: arch.to_owned(),
                version: percent_decode(version)?,
                mirror: mirror.to_owned(),
                path,
                size: size.parse().ok()?,
                sha256: hash.strip_prefix("SHA256:")?.parse().ok()?,
            })
        })();
        parsed.with_context(|| format!("failed to understand apt's answer `{line}`"))
    }

    /// Which mirror a URI is on, and the path below it. The longest fitting address wins, and
    /// of equal ones (Ubuntu's archives may share one) the first, the main archive: what its
    /// security archive has it has too, but not the reverse.
    fn locate(&self, uri: &str) -> Option<(&str, String)> {
        let uri = plain(uri)?;
        let under =
            |base: &str| Some(uri.strip_prefix(&plain(base)?)?.strip_prefix('/')?.to_owned());
        self.addresses
            .iter()
            .filter_map(|(name, base)| Some((base.len(), name.as_str(), under(base)?)))
            .rev()
            .max_by_key(|(length, ..)| *length)
            .map(|(_, name, path)| (name, path))
    }

    /// Why there is no answer: each unknown package with the name that may have been meant.
    fn unsolved(&self, output: &Output) -> Result<String> {
        let SetRequest { origin, name, .. } = self.request;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let unknown: BTreeSet<_> = stderr.lines().filter_map(unknown_package).collect();
        if unknown.is_empty() {
            let said = complaints(output);
            return Ok(format!(
                "{origin}: the packages of `{name}` cannot be put together: {said}"
            ));
        }
        let names = self.run("apt-cache", &["pkgnames".into()], SOLVE_DEADLINE)?;
        let names = String::from_utf8_lossy(&names.stdout).into_owned();
        let suites: Vec<_> = self.request.sources.iter().flat_map(|s| s.suites.clone()).collect();
        let mut lines = Vec::new();
        for package in unknown {
            let hint = nearest(&package, names.lines());
            let hint = hint.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            let suites = suites.join(", ");
            lines.push(format!("{origin}: there is no package `{package}` in {suites}{hint}"));
        }
        Ok(lines.join("\n"))
    }
}

/// `E: Unable to locate package X` and `E: Package 'X' has no installation candidate`.
fn unknown_package(line: &str) -> Option<String> {
    let text = line.strip_prefix("E: ")?;
    let name = match text.strip_prefix("Unable to locate package ") {
        Some(name) => name,
        None => text.strip_prefix("Package ")?.strip_suffix(" has no installation candidate")?,
    };
    Some(name.trim_matches('\'').to_owned())
}

fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::normalized_damerau_levenshtein(wrong, name), name))
        .filter(|(near, _)| *near >= SUGGEST_WITHIN)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
        .map(|(_, name)| name)
}

/// apt's own error lines, shortened to one line of text.
fn complaints(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> =
        stderr.lines().filter_map(|l| l.strip_prefix("E: ").or(l.strip_prefix("W: "))).collect();
    if !errors.is_empty() {
        return errors.join("; ");
    }
    let text = [stderr.trim(), String::from_utf8_lossy(&output.stdout).trim()].join(" ");
    if text.trim().is_empty() { output.status.to_string() } else { text.trim().to_owned() }
}

/// The host's proxy settings for apt, in apt's own format; none where it has none or no apt.
fn host_proxy() -> String {
    let text = Command::new("apt-config").arg("dump").stdout_text().unwrap_or_default();
    let proxy =
        |l: &&str| l.starts_with("Acquire::http::Proxy") || l.starts_with("Acquire::https::Proxy");
    text.lines().filter(proxy).fold(String::new(), |all, line| all + line + "\n")
}

/// An address in one spelling: apt writes `file:/x` for `file:///x`, and encodes some characters.
fn plain(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("file://").or_else(|| uri.strip_prefix("file:"));
    percent_decode(rest.unwrap_or(uri))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::request;
    use super::*;
    use node::values::Digest;
    use proptest::prelude::*;

    #[test]
    fn an_answer_line_becomes_a_package_of_its_mirror() {
        let request = request();
        let base = "http://m.test/debian";
        let addresses = [("debian", base), ("same", base), ("sec", "http://m.test/debian/sec")]
            .map(|(n, u)| (n.to_owned(), u.to_owned()))
            .into();
        let apt = Apt { request: &request, addresses, root: Path::new("/") };
        let hex = Digest::of("x");
        let line = format!(
            "'http://m.test/debian/sec/pool/b/bsdutils_2.41%7erc1_amd64.deb' \
             bsdutils_1%3a2.41~rc1_amd64.deb 110208 SHA256:{hex}"
        );
        let package = apt.package(&line).unwrap();
        assert_eq!((package.mirror.as_str(), package.version.as_str()), ("sec", "1:2.41~rc1"));
        assert_eq!(package.path, "pool/b/bsdutils_2.41~rc1_amd64.deb");
        assert_eq!(package.file_name(), "bsdutils_1%3a2.41~rc1_amd64.deb");
        assert_eq!(
            apt.locate("http://m.test/debian/pool/x"),
            Some(("debian", "pool/x".to_owned()))
        );
        for bad in ["", "'x' y", "'http://other.test/a_1_all.deb' a_1_all.deb 1 SHA256:00"] {
            assert!(apt.package(bad).unwrap_err().to_string().contains("apt's answer"));
        }
    }

    #[test]
    fn an_unknown_package_is_named_and_the_nearest_suggested() {
        let line = "E: Unable to locate package qemu-guest-agnet";
        assert_eq!(unknown_package(line).as_deref(), Some("qemu-guest-agnet"));
        let line = "E: Package 'default-mta' has no installation candidate";
        assert_eq!(unknown_package(line).as_deref(), Some("default-mta"));
        let names = ["curl", "qemu-guest-agent", "zstd"];
        assert_eq!(nearest("qemu-guest-agnet", names.into_iter()), Some("qemu-guest-agent"));
        assert_eq!(nearest("entirely-else", names.into_iter()), None);
    }

    #[test]
    fn a_mirror_that_refuses_is_named_with_the_cause() {
        // A port nothing listens on any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path())).unwrap();
        let mut request = request();
        request.keyring = dir.path().join("k.gpg");
        fs::write(&request.keyring, "").unwrap();
        let uri = format!("http://127.0.0.1:{port}/debian");
        let mirrors = Mirrors::new([("debian".to_owned(), uri.clone())], dir.path()).unwrap();
        let text = resolve(&store, &request, &mirrors).unwrap_err().to_string();
        assert!(text.contains(&format!("debian = {uri}")), "{text}");
        assert!(text.contains("onnection refused"), "{text}");
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in "[ -~]{0,40}") {
            let encoded = text.bytes().fold(String::new(), |mut all, byte| {
                let _ = write!(all, "%{byte:02x}");
                all
            });
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }
    }
}
