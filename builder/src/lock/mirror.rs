//! Where this machine's package mirrors are. The lock and the images name mirrors (`debian`);
//! their addresses come from `--mirror`, from the image, or from the host's own apt sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;

use crate::config::{Problems, suggest};

/// The mirrors an image can have: the archive of its distribution, and that one's security archive.
const NAMES: [&str; 4] = ["debian", "debian-security", "ubuntu", "ubuntu-security"];

/// Addresses by mirror name, none with a `/` at its end.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    given: BTreeMap<String, String>,
    host: Vec<HostSource>,
}

/// One `deb` line of the host: an address and a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostSource {
    uri: String,
    suite: String,
}

impl Mirrors {
    /// `given` are `name=url` pairs that win over all else; `apt_folder` is the host's
    /// `/etc/apt`, looked through for the rest.
    pub fn new(
        given: impl IntoIterator<Item = (String, String)>,
        apt_folder: &Path,
    ) -> Result<Self> {
        let given = given.into_iter().map(|(name, uri)| Ok((known(name)?, normal(&uri)?)));
        Ok(Self { given: given.collect::<Result<_>>()?, host: host_sources(apt_folder)? })
    }

    /// The address of mirror `name`; `own` is the one its image names, if not the host's.
    pub fn uri(&self, name: &str, own: Option<&str>) -> Result<String> {
        if let Some(uri) = self.given.get(name) {
            return Ok(uri.clone());
        }
        if let Some(uri) = own {
            return normal(uri);
        }
        let found = self.host.iter().find(|source| source.serves(name));
        let Some(source) = found else {
            bail!(
                "this host's apt sources have no mirror `{name}`; give one: --mirror {name}=URL, \
                 or --mirror {name}=FOLDER"
            );
        };
        Ok(source.uri.clone())
    }
}

impl HostSource {
    /// Whether this is the archive of `name`: `debian` is a distribution's main archive,
    /// `debian-security` its security archive, whichever release the host follows.
    fn serves(&self, name: &str) -> bool {
        let distribution = name.strip_suffix("-security").unwrap_or(name);
        let last = self.uri.rsplit('/').next().unwrap_or_default();
        let security = self.suite.ends_with("-security") || self.suite.ends_with("/updates");
        let folder_fits = last == distribution || last == format!("{distribution}-security");
        folder_fits && security == name.ends_with("-security")
    }
}

/// A mirror by a name that nothing asks for would go unused without a word.
fn known(name: String) -> Result<String, Problems> {
    if NAMES.contains(&name.as_str()) {
        return Ok(name);
    }
    let rule = format!("--mirror {name}=…: no image has a mirror `{name}`");
    Err(Problems::usage(rule, suggest(&name, NAMES)))
}

/// No `/` at the end; a folder becomes an absolute `file:` URL.
fn normal(uri: &str) -> Result<String> {
    let uri = uri.trim_end_matches('/');
    if uri.contains(char::is_whitespace) {
        bail!("mirror `{uri}`: apt's sources cannot hold an address with spaces");
    }
    if uri.contains("://") {
        return Ok(uri.to_owned());
    }
    let path = std::path::absolute(uri).with_context(|| format!("`{uri}` is no mirror"))?;
    if !path.is_dir() {
        bail!("mirror `{uri}` is neither a URL nor a folder");
    }
    Ok(format!("file://{}", path.display()))
}

/// The host's sources, in both of apt's formats; a host without apt has none.
fn host_sources(folder: &Path) -> Result<Vec<HostSource>> {
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = fs::read_dir(folder.join("sources.list.d")) {
        let mut more: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
        more.sort();
        files.extend(more);
    }
    let mut sources = Vec::new();
    for file in files.iter().filter(|f| f.is_file()) {
        let text = || fs::read_to_string(file);
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => one_line(&text()?, &mut sources),
            Some("sources") => deb822(&text()?, &mut sources),
            _ => {} // disabled or backup files, which apt ignores too
        }
    }
    Ok(sources)
}

/// `deb [options] URI SUITE COMPONENT…`, one per line.
fn one_line(text: &str, sources: &mut Vec<HostSource>) {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((_options, rest)) => rest,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            push(uri, suite, words, sources);
        }
    }
}

/// Paragraphs of `Key: value` with `Types`, `URIs`, `Suites`, possibly `Enabled: no`.
fn deb822(text: &str, sources: &mut Vec<HostSource>) {
    let text = text.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n");
    for paragraph in text.split("\n\n") {
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut current = String::new();
        for line in paragraph.lines() {
            if let Some((key, value)) =
                line.split_once(':').filter(|_| !line.starts_with([' ', '\t']))
            {
                current = key.to_ascii_lowercase();
                fields.insert(current.clone(), value.trim().to_owned());
            } else if let Some(value) = fields.get_mut(&current) {
                value.push(' ');
                value.push_str(line.trim());
            }
        }
        let words = |key: &str| fields.get(key).into_iter().flat_map(|v| v.split_whitespace());
        let enabled = words("enabled").next().is_none_or(|v| v != "no");
        if !enabled || !words("types").any(|t| t == "deb") {
            continue;
        }
        for uri in words("uris") {
            words("suites").for_each(|suite| push(uri, suite, words("components"), sources));
        }
    }
}

/// Distributions have a component `main`; archives of others, such as Docker's, may end in `/debian` too.
fn push<'a>(
    uri: &str,
    suite: &str,
    components: impl Iterator<Item = &'a str>,
    sources: &mut Vec<HostSource>,
) {
    let components: Vec<_> = components.collect();
    if components.is_empty() || components.contains(&"main") {
        let source = |uri| HostSource { uri, suite: suite.to_owned() };
        sources.extend(behind(uri).into_iter().map(source));
    }
}

/// The addresses behind one of apt's: `mirror+file:` names a file of them, one a line, as Debian's cloud
/// images have it. apt itself complains of one that is not there.
fn behind(uri: &str) -> Vec<String> {
    let plain = |uri: &str| uri.trim_end_matches('/').to_owned();
    let Some(list) = uri.strip_prefix("mirror+file:") else { return vec![plain(uri)] };
    let text = fs::read_to_string(format!("/{}", list.trim_start_matches('/')));
    let text = text.unwrap_or_default();
    let first = |line: &str| line.split('#').next()?.split_whitespace().next().map(plain);
    text.lines().filter_map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
# deb http://old.test/debian buster main
deb-src http://src.test/debian trixie main
deb [arch=amd64 signed-by=/k.gpg] http://one.test/debian/ bookworm main # main
deb http://sec.test/debian-security bookworm-security main
";
    const SOURCES: &str = "\
# a comment
Types: deb deb-src
URIs: http://two.test/ubuntu
Suites: noble noble-updates
 noble-backports
Components: main

Enabled: no
Types: deb
URIs: http://off.test/ubuntu
Suites: noble-security

Types: deb
URIs: http://usec.test/ubuntu/
Suites: noble-security
";

    #[test]
    fn the_hosts_mirrors_are_found_in_both_formats() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sources.list"), LIST).unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join("sources.list.d/u.sources"), SOURCES).unwrap();
        fs::write(dir.path().join("sources.list.d/u.sources.off"), "nonsense").unwrap();
        let mirrors = Mirrors::new([], dir.path()).unwrap();
        let cases = [
            ("debian", "http://one.test/debian"),
            ("debian-security", "http://sec.test/debian-security"),
            ("ubuntu", "http://two.test/ubuntu"),
            ("ubuntu-security", "http://usec.test/ubuntu"),
        ];
        for (name, uri) in cases {
            assert_eq!(mirrors.uri(name, None).unwrap(), uri);
        }
        let text = mirrors.uri("arch", None).unwrap_err().to_string();
        assert!(text.contains("--mirror arch=URL"), "{text}");
    }

    #[test]
    fn a_list_of_mirrors_is_followed_and_an_archive_of_others_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("debian.list");
        fs::write(
            &list,
            "# ours\nhttps://first.test/debian\tpriority:1\nhttps://next.test/debian\n",
        )
        .unwrap();
        let docker = "deb https://docker.test/linux/debian trixie stable\n";
        let own = format!("deb mirror+file://{} trixie main\n", list.display());
        fs::write(dir.path().join("sources.list"), format!("{docker}{own}")).unwrap();
        let mirrors = Mirrors::new([], dir.path()).unwrap();
        assert_eq!(mirrors.uri("debian", None).unwrap(), "https://first.test/debian");
    }

    #[test]
    fn a_mirror_that_no_image_has_is_refused_with_the_name_that_was_meant() {
        let slip = [("debain".to_owned(), "http://x.test/debian".to_owned())];
        let text = Mirrors::new(slip, Path::new("no/such")).unwrap_err().to_string();
        assert!(text.contains("`debain`\n  hint: did you mean `debian`?"), "{text}");
    }

    #[test]
    fn what_is_given_wins_over_the_image_and_that_over_the_host() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sources.list"), LIST).unwrap();
        let own = Some("http://own.test/debian/");
        let mirrors = Mirrors::new([], dir.path()).unwrap();
        assert_eq!(mirrors.uri("debian", own).unwrap(), "http://own.test/debian");
        let folder = ("debian".to_owned(), dir.path().display().to_string());
        let mirrors = Mirrors::new([folder], dir.path()).unwrap();
        let expected = format!("file://{}", dir.path().display());
        assert_eq!(mirrors.uri("debian", own).unwrap(), expected);
        let wrong = Mirrors::new([("debian".to_owned(), "no/such".to_owned())], dir.path());
        assert!(wrong.unwrap_err().to_string().contains("neither a URL nor a folder"));
    }
}
