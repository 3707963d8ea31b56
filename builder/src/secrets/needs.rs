//! `cluster/secrets.toml`: which Secrets the bundle needs. It names them and holds no value.

use std::collections::BTreeMap;
use std::path::Path;

use node::values::Hostname;
use schemars::JsonSchema;
use serde::Deserialize;

use super::random_text;
use super::vault::{Content, Values};
use crate::config::{Problem, Problems};

/// Where it lies in a project; one without it needs no Secret.
pub const FILE: &str = "cluster/secrets.toml";
/// Fewer random characters would be guessed; more than this no program of the bundle takes.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=128;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cluster/secrets.toml", rename = "Needs")]
pub struct Needs {
    /// Every Secret.
    #[serde(default)]
    pub secret: Vec<Need>,
}

/// One Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// Its namespace.
    #[schemars(with = "String")]
    pub namespace: Hostname,
    /// Its name.
    #[schemars(with = "String")]
    pub name: Hostname,
    /// What it is for, in a sentence.
    #[serde(rename = "for")]
    pub purpose: String,
    /// Its type, such as `kubernetes.io/basic-auth`.
    #[serde(rename = "type", default = "opaque")]
    pub kind: String,
    /// Only needed when one of these releases is applied; always, if there are none.
    #[serde(default)]
    pub when: Vec<String>,
    /// Where the value of each key comes from.
    pub keys: BTreeMap<String, Origin>,
}

/// Where a value comes from: exactly one of the four.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Made at random with this many letters and digits.
    #[serde(default)]
    pub generate: Option<usize>,
    /// No secret: always this.
    #[serde(default)]
    pub value: Option<String>,
    /// The operator enters it; this says what.
    #[serde(default)]
    pub enter: Option<String>,
    /// That of another Secret, `NAMESPACE/NAME KEY`: two programs that must agree.
    #[serde(default)]
    pub same: Option<String>,
    /// It may be absent.
    #[serde(default)]
    pub optional: bool,
}

fn opaque() -> String {
    "Opaque".to_owned()
}

/// A value that has to be entered.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// `NAMESPACE/NAME`.
    pub secret: String,
    /// Its key.
    pub key: String,
    /// What belongs there.
    pub what: String,
}

impl Needs {
    /// Reads the file of the project at `root`.
    ///
    /// # Errors
    /// [`Problems`], every one of the file.
    pub fn load(root: &Path) -> Result<Self, Problems> {
        match fs_err::read_to_string(root.join(FILE)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(Problem::of_file(FILE, e.to_string()).into()),
            Ok(text) => Self::parse(&text),
        }
    }

    /// Reads and checks the text.
    ///
    /// # Errors
    /// [`Problems`], every one of the text.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        let needs: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = &text[..at];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            Problem { line, column, ..Problem::of_file(FILE, error.message()) }
        })?;
        let mut problems = Problems::default();
        for (number, need) in needs.secret.iter().enumerate() {
            let place = format!("secret[{number}]");
            problems.extend(need.rules().into_iter().map(|(key, rule)| Problem {
                key: format!("{place}.{key}"),
                ..Problem::of_file(FILE, rule)
            }));
            let twice = needs.secret[..number].iter().any(|other| other.id() == need.id());
            problems.extend(needs.astray(need).map(|(key, other)| Problem {
                key: format!("{place}.keys.{key}.same"),
                value: Some(other.clone()),
                ..Problem::of_file(FILE, "must be `NAMESPACE/NAME KEY` of a Secret in this file")
            }));
            problems.extend(twice.then(|| Problem {
                key: place.clone(),
                value: Some(need.id()),
                ..Problem::of_file(FILE, "is there twice")
            }));
        }
        if problems.is_empty() { Ok(needs) } else { Err(problems) }
    }

    /// The keys of `need` that are to be the same as one that is not there.
    fn astray<'a>(&'a self, need: &'a Need) -> impl Iterator<Item = (&'a String, &'a String)> {
        let known = |other: &str| {
            let place = other.split_once(' ');
            place.is_some_and(|(id, key)| {
                self.secret.iter().any(|need| need.id() == id && need.keys.contains_key(key))
            })
        };
        let same = |(key, origin): (&'a String, &'a Origin)| Some((key, origin.same.as_ref()?));
        need.keys.iter().filter_map(same).filter(move |(_, other)| !known(other))
    }

    /// Makes what can be made and is not there; what has a value keeps it. Says what was made.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn fill(&self, content: &mut Content) -> anyhow::Result<Vec<String>> {
        let mut made = Vec::new();
        for need in &self.secret {
            let values = content.secret.entry(need.id()).or_default();
            for (key, origin) in &need.keys {
                let Some(length) = origin.generate else { continue };
                if !values.contains_key(key) {
                    values.insert(key.clone(), random_text(length)?);
                    made.push(format!("{} {key}", need.id()));
                }
            }
        }
        content.secret.retain(|_, values| !values.is_empty());
        Ok(made)
    }

    /// What still has to be entered, for the releases that are on.
    pub fn missing(&self, content: &Content, on: impl Fn(&str) -> bool) -> Vec<Missing> {
        let mut missing = Vec::new();
        for need in self.secret.iter().filter(|need| need.wanted(&on)) {
            let values = content.secret.get(&need.id());
            for (key, origin) in &need.keys {
                let there = values.and_then(|v| v.get(key)).is_some_and(|v| !v.is_empty());
                let elsewhere = origin.value.is_some() || origin.same.is_some();
                if !there && !origin.optional && !elsewhere {
                    let what = origin.enter.clone().unwrap_or_else(|| "a random text".to_owned());
                    missing.push(Missing { secret: need.id(), key: key.clone(), what });
                }
            }
        }
        missing
    }

    /// Entries of the encrypted file that nothing needs: misspelt, or left from an app that went.
    pub fn unknown(&self, content: &Content) -> Vec<String> {
        let known = |id: &str, key: &str| {
            self.secret.iter().any(|need| need.id() == id && need.keys.contains_key(key))
        };
        let entries = content.secret.iter();
        entries
            .flat_map(|(id, values)| values.keys().map(move |key| (id, key)))
            .filter(|(id, key)| !known(id, key))
            .map(|(id, key)| format!("{id} {key}"))
            .collect()
    }
}

impl Need {
    /// `NAMESPACE/NAME`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether a release that is on needs it.
    pub fn wanted(&self, on: impl Fn(&str) -> bool) -> bool {
        self.when.is_empty() || self.when.iter().any(|release| on(release))
    }

    /// The whole data of the Secret.
    pub fn data(&self, content: &Content) -> Values {
        let stored = |id: &str, key: &str| content.secret.get(id)?.get(key).cloned();
        let value = |(key, origin): (&String, &Origin)| {
            let found = match (&origin.value, &origin.same) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(other)) => other.split_once(' ').and_then(|(id, key)| stored(id, key)),
                (None, None) => stored(&self.id(), key),
            };
            Some((key.clone(), found?))
        };
        self.keys.iter().filter_map(value).collect()
    }

    fn rules(&self) -> Vec<(String, String)> {
        let mut broken = Vec::new();
        if self.purpose.trim().is_empty() {
            broken.push(("for".into(), "must say in a sentence what the Secret is for".into()));
        }
        if self.keys.is_empty() {
            broken.push(("keys".into(), "must name at least one key".into()));
        }
        for (key, origin) in &self.keys {
            if let Some(rule) = origin.rule() {
                broken.push((format!("keys.{key}"), rule));
            }
        }
        broken
    }
}

impl Origin {
    fn rule(&self) -> Option<String> {
        let texts = [&self.value, &self.enter, &self.same];
        let ways = texts.iter().filter(|way| way.is_some()).count();
        if ways + usize::from(self.generate.is_some()) != 1 {
            return Some("must have exactly one of `generate`, `value`, `enter` and `same`".into());
        }
        let length = self.generate?;
        let (least, most) = (LENGTHS.start(), LENGTHS.end());
        (!LENGTHS.contains(&length))
            .then(|| format!("generate = {length} must be from {least} to {most} characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[[secret]]
namespace = "data"
name = "postgres"
for = "the superuser of PostgreSQL"
keys.username = { value = "postgres" }
keys.password = { generate = 32 }

[[secret]]
namespace = "monitoring"
name = "alertmanager"
for = "where alerts go"
when = ["kube-prometheus-stack"]
keys.ntfy = { enter = "the URL of a topic" }
keys.slack = { enter = "a webhook", optional = true }
keys.database = { same = "data/postgres password" }
"#;

    #[test]
    fn what_can_be_made_is_made_once_and_the_rest_is_asked_for() {
        let needs = Needs::parse(TEXT).unwrap();
        let mut content = Content::new();
        assert_eq!(needs.fill(&mut content).unwrap(), ["data/postgres password"]);
        let first = content.clone();
        assert_eq!(needs.fill(&mut content).unwrap(), Vec::<String>::new());
        assert_eq!(content, first);
        let missing = needs.missing(&content, |_| true);
        assert_eq!(missing.len(), 1);
        assert_eq!(
            (missing[0].secret.as_str(), missing[0].key.as_str()),
            ("monitoring/alertmanager", "ntfy")
        );
        assert!(needs.missing(&content, |_| false).is_empty());
        let data = needs.secret[0].data(&content);
        assert_eq!(data["username"], "postgres");
        assert_eq!(data["password"].len(), 32);
        let other = needs.secret[1].data(&content);
        assert_eq!(other, [("database".to_owned(), data["password"].clone())].into());
    }

    #[test]
    fn what_nothing_needs_is_named() {
        let mut content = Content::new();
        content.secret.insert("data/postgres".into(), [("passwort".into(), "x".into())].into());
        content.secret.insert("old/app".into(), [("key".into(), "x".into())].into());
        let unknown = Needs::parse(TEXT).unwrap().unknown(&content);
        assert_eq!(unknown, ["data/postgres passwort", "old/app key"]);
    }

    #[test]
    fn every_broken_rule_is_told_with_its_place() {
        let text = r#"
[[secret]]
namespace = "data"
name = "postgres"
for = " "
keys.a = { generate = 4 }
keys.b = { }
keys.c = { same = "data/redis password" }
[[secret]]
namespace = "data"
name = "postgres"
for = "again"
keys = {}
"#;
        let said = Needs::parse(text).unwrap_err().to_string();
        for want in [
            "secret[0].for must say in a sentence",
            "secret[0].keys.a generate = 4 must be from 16 to 128",
            "secret[0].keys.b must have exactly one of",
            "secret[0].keys.c.same = data/redis password must be",
            "secret[1].keys must name at least one key",
            "secret[1] = data/postgres is there twice",
        ] {
            assert!(said.contains(want), "{want}: {said}");
        }
        let said = Needs::parse("[[secret]]\nnamespaces = 1\n").unwrap_err().to_string();
        assert!(said.contains("cluster/secrets.toml:2:1:"), "{said}");
    }
}
