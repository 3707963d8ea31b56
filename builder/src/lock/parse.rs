//! Reads the text of a lock, and reports all its problems with line and column.

use std::collections::BTreeMap;

use node::values::Digest;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::config;

use super::{Artifact, BaseSet, Lock, Package, SCHEMA};

/// One problem of the file.
#[derive(Debug)]
pub(super) struct Problem {
    line: usize,
    column: usize,
    text: String,
}

impl Problem {
    /// As a problem of the file with this name.
    pub(super) fn of(self, file: &str) -> config::Problem {
        let (line, column) = (self.line, self.column);
        config::Problem { line, column, ..config::Problem::of_file(file, self.text) }
    }
}

/// Read before the rest: a newer file should be refused as newer, not for a key it brings.
#[derive(Deserialize)]
struct OnlySchema {
    schema: Spanned<u64>,
}

/// The file as written: every input of every image. `builder lock` writes it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "builder.lock", rename = "Lock")]
pub struct RawLock {
    /// Version of the file's shape.
    #[serde(rename = "schema")]
    _schema: u64,
    /// Released files such as the K3s binary.
    #[serde(default)]
    #[schemars(with = "Vec<Artifact>")]
    artifact: Vec<Spanned<Artifact>>,
    /// Exact sets of distribution packages.
    #[serde(default)]
    #[schemars(with = "Vec<RawBase>")]
    base: Vec<Spanned<RawBase>>,
}

/// The exact packages of one base system or tools tree.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BaseSet")]
struct RawBase {
    /// Its name, such as `debian-13`.
    name: String,
    /// Digest of what was asked for: another one means that the lock is older than the image.
    request: Digest,
    /// Sorted by name, then architecture.
    #[schemars(with = "Vec<Package>")]
    packages: Vec<Spanned<Package>>,
}

/// The file being read, and what was found wrong with it.
struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

pub(super) fn parse(text: &str) -> Result<Lock, Vec<Problem>> {
    let mut reader = Reader { text, problems: Vec::new() };
    let lock = reader.lock();
    match lock {
        Some(lock) if reader.problems.is_empty() => Ok(lock),
        _ => Err(reader.problems),
    }
}

impl Reader<'_> {
    fn lock(&mut self) -> Option<Lock> {
        let schema = self.toml::<OnlySchema>()?.schema;
        if *schema.get_ref() != SCHEMA {
            let found = schema.get_ref();
            self.problem(schema.span().start, format!("schema {found} is not the one this builder reads ({SCHEMA}); use the builder that wrote the file"));
            return None;
        }
        let raw = self.toml::<RawLock>()?;
        let mut lock = Lock::default();
        for artifact in raw.artifact {
            self.artifact(artifact, &mut lock.artifacts);
        }
        for base in raw.base {
            self.base(base, &mut lock.bases);
        }
        Some(lock)
    }

    fn toml<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        match toml::from_str(self.text) {
            Ok(value) => Some(value),
            Err(e) => {
                let at = e.span().map_or(0, |span| span.start);
                self.problem(at, e.message().to_owned());
                None
            }
        }
    }

    fn artifact(&mut self, raw: Spanned<Artifact>, into: &mut BTreeMap<String, Artifact>) {
        let at = raw.span().start;
        let artifact = raw.into_inner();
        let name = &artifact.name;
        if artifact.url.is_none() && !artifact.standin {
            self.problem(at, format!("artifact `{name}` has neither `url` nor `standin = true`"));
        }
        if artifact.version.is_empty() || name.is_empty() {
            self.problem(at, format!("artifact `{name}` must have a name and a version"));
        }
        if into.contains_key(name) {
            self.problem(at, format!("artifact `{name}` stands here twice; remove one"));
        }
        into.insert(name.clone(), artifact);
    }

    fn base(&mut self, raw: Spanned<RawBase>, into: &mut BTreeMap<String, BaseSet>) {
        let at = raw.span().start;
        let RawBase { name, request, packages } = raw.into_inner();
        if into.contains_key(&name) {
            self.problem(at, format!("base `{name}` stands here twice; remove one"));
        }
        let mut seen = BTreeMap::new();
        for package in packages {
            let at = package.span().start;
            let package = package.into_inner();
            self.package(at, &package);
            let key = (package.name.clone(), package.arch.clone());
            if let Some(old) = seen.insert(key, package) {
                let text = format!(
                    "package `{}:{}` of base `{name}` stands here twice",
                    old.name, old.arch
                );
                self.problem(at, text);
            }
        }
        let packages = seen.into_values().collect();
        into.insert(name.clone(), BaseSet { name, request, packages });
    }

    /// These words become file names and URLs, so what could lead out of a folder is refused.
    fn package(&mut self, at: usize, package: &Package) {
        let word = |text: &str| {
            !text.is_empty()
                && !text.starts_with(['-', '.'])
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.~:_".contains(c))
        };
        let fields = [
            ("name", &package.name),
            ("arch", &package.arch),
            ("version", &package.version),
            ("mirror", &package.mirror),
        ];
        for (field, value) in fields {
            if !word(value) {
                self.problem(at, format!("{field} = \"{value}\": may hold only letters, digits and `+-.~:_`, and not start with `-` or `.`"));
            }
        }
        if !package.path.split('/').all(word) {
            self.problem(
                at,
                format!("path = \"{}\": must be a plain path below the mirror", package.path),
            );
        }
    }

    fn problem(&mut self, at: usize, text: String) {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        self.problems.push(Problem { line, column, text });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use crate::lock::Lock;
    use std::path::Path;

    fn refused(text: &str) -> String {
        Lock::parse(Path::new("builder.lock"), text).unwrap_err().to_string()
    }

    #[test]
    fn each_broken_lock_is_refused_with_line_and_rule() {
        let good = sample().to_text().unwrap();
        let twice = format!("{good}\n[[base]]\n{}", good.split("[[base]]\n").nth(1).unwrap());
        let bash = good.lines().find(|l| l.contains("bash")).unwrap();
        let cases = [
            ("schema", good.replace("schema = 1", "schema = 2\nnew = 1")),
            ("no schema", good.replace("schema = 1", "")),
            ("unknown key", good.replace("size = 3", "size = 3\nsice = 4")),
            ("wrong type", good.replace("size = 3", "size = \"3\"")),
            ("bad digest", good.replace("sha256 = \"", "sha256 = \"x")),
            ("no url", good.replace("url = ", "# url = ")),
            ("base twice", twice),
            ("package twice", good.replace(bash, &format!("{bash}\n{bash}"))),
            ("climbing path", good.replace("pool/main/bash.deb", "pool/../../etc")),
            ("climbing name", good.replace("\"bash\"", "\"../bash\"")),
            ("cut short", good[..good.len() / 2].to_owned()),
        ];
        let report: Vec<_> =
            cases.iter().map(|(name, text)| format!("{name}:\n{}", refused(text))).collect();
        insta::assert_snapshot!(report.join("\n\n"));
    }
}
