//! What a package set is asked to be: the question that stands behind each set of the lock.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use node::values::Digest;

use super::mirror::Mirrors;

/// What one package set is made of: the question whose answer is a [`BaseSet`].
#[derive(Debug, Clone)]
pub struct SetRequest {
    /// Name of the set in the lock.
    pub name: String,
    /// The file that asks, for messages, such as `images/debian-13.toml`.
    pub origin: String,
    /// Package archives; the first should be the distribution's main one.
    pub sources: Vec<Source>,
    /// Key ring file that must have signed every archive.
    pub keyring: PathBuf,
    /// Packages asked for by name.
    pub packages: Vec<String>,
    /// Whether the set is a base system: then all essential and required packages and apt
    /// belong to it. A tools tree is only the closure of its packages.
    pub essential: bool,
    /// Debian architecture, such as `amd64`.
    pub arch: String,
}

/// One archive: a mirror's name and what to take from it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Mirror name, such as `debian-security`.
    pub mirror: String,
    /// The address its image gives, if any; else the host's own mirror is used.
    pub uri: Option<String>,
    /// Suites, such as `trixie` and `trixie-updates`.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
}

impl SetRequest {
    /// Digest of the question: of all that decides the answer but the mirrors' addresses and
    /// their content. The order in which packages are written does not matter.
    pub fn digest(&self) -> Digest {
        let mut text = format!("request 1\narch {}\nessential {}\n", self.arch, self.essential);
        for s in &self.sources {
            let (suites, components) = (s.suites.join(" "), s.components.join(" "));
            let _ = writeln!(text, "source {} | {suites} | {components}", s.mirror);
        }
        for package in self.packages.iter().collect::<BTreeSet<_>>() {
            let _ = writeln!(text, "package {package}");
        }
        Digest::of(text)
    }

    /// Each of our mirrors with its address on this machine.
    pub fn addresses(&self, mirrors: &Mirrors) -> Result<Vec<(String, String)>> {
        let address =
            |s: &Source| Ok((s.mirror.clone(), mirrors.uri(&s.mirror, s.uri.as_deref())?));
        self.sources.iter().map(address).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::lock) fn request() -> SetRequest {
        SetRequest {
            name: "debian-13".into(),
            origin: "images/debian-13.toml".into(),
            sources: vec![Source {
                mirror: "debian".into(),
                uri: None,
                suites: vec!["trixie".into()],
                components: vec!["main".into()],
            }],
            keyring: "/usr/share/keyrings/debian-archive-keyring.gpg".into(),
            packages: vec!["curl".into(), "zstd".into()],
            essential: true,
            arch: "amd64".into(),
        }
    }

    #[test]
    fn the_digest_is_of_the_question_not_of_its_spelling_or_the_address() {
        let base = request().digest();
        let same: [fn(&mut SetRequest); 4] = [
            |r| r.packages.reverse(),
            |r| r.packages.push("curl".into()),
            |r| r.sources[0].uri = Some("http://x.test/debian".into()),
            |r| r.origin = "elsewhere.toml".into(),
        ];
        let other: [fn(&mut SetRequest); 6] = [
            |r| r.packages.push("nano".into()),
            |r| r.sources[0].suites.push("trixie-updates".into()),
            |r| r.sources[0].components.push("contrib".into()),
            |r| r.sources[0].mirror = "ubuntu".into(),
            |r| r.essential = false,
            |r| r.arch = "arm64".into(),
        ];
        let changed = |change: fn(&mut SetRequest)| {
            let mut r = request();
            change(&mut r);
            r.digest()
        };
        assert!(same.into_iter().all(|c| changed(c) == base));
        assert!(other.into_iter().all(|c| changed(c) != base));
    }
}
