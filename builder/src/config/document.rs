//! One TOML file read so that all its problems are told at once.
//!
//! serde stops at the first wrong type or unknown key. So the parsed table is deserialized again
//! and again, each time without the entry that failed before, until it passes; what was taken out
//! is remembered, so that a value that is wrong is not also called missing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::entries::{Entry, index, position, remove};
use super::explain::explain;
use super::problem::{Problem, Problems};

/// A table of texts.
pub type TextTable = BTreeMap<String, At<String>>;

/// A value and the bytes of its file it stands in.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// The value.
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Its place: bytes of the file.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A file that was read, for saying where in it something stands.
#[derive(Debug)]
pub struct Document {
    /// Name relative to the project folder, with `/`.
    pub name: String,
    text: String,
    entries: Vec<Entry>,
    /// Paths of the entries taken out because of a problem, and of those that were meant.
    removed: Vec<String>,
}

/// The longest value worth repeating in a message.
const VALUE_MAX: usize = 80;

impl Document {
    /// Reads `name` below `root` as a `T`. `None` when it cannot be read or is not TOML at all;
    /// every problem met goes into `problems`.
    pub fn read<T: DeserializeOwned>(
        root: &Path,
        name: &str,
        problems: &mut Problems,
    ) -> Option<(Self, T)> {
        let bytes = match fs_err::read(root.join(name)) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                problems.push(Problem::of_file(name, "is missing").hint(described(name)));
                return None;
            }
            Err(e) => {
                problems.push(Problem::of_file(name, format!("cannot be read: {e}")));
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(name, &text, problems),
            Err(e) => {
                let at = e.utf8_error().valid_up_to();
                let before = String::from_utf8_lossy(&e.as_bytes()[..at]).into_owned();
                let (line, column) = position(&before, before.len());
                let rule = "is not UTF-8, which TOML must be";
                problems.push(Problem { line, column, ..Problem::of_file(name, rule) });
                None
            }
        }
    }

    /// Like [`Document::read`], of a text in memory.
    pub fn parse<T: DeserializeOwned>(
        name: &str,
        text: &str,
        problems: &mut Problems,
    ) -> Option<(Self, T)> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if let Some(error) = errors.first() {
            problems.push(syntax_problem(name, text, error));
            return None;
        }
        let span = root.span();
        let table = root.into_inner();
        let (name, text) = (name.to_owned(), text.to_owned());
        let mut doc = Self { name, text, entries: vec![], removed: vec![] };
        index(&table, "", &mut doc.entries);
        let raw = doc.deserialize(table, &span, problems)?;
        Some((doc, raw))
    }

    fn deserialize<T: DeserializeOwned>(
        &mut self,
        mut table: DeTable<'_>,
        span: &Range<usize>,
        problems: &mut Problems,
    ) -> Option<T> {
        loop {
            let value = Spanned::new(span.clone(), DeValue::Table(table.clone()));
            let error = match T::deserialize(ValueDeserializer::from(value)) {
                Ok(raw) => return Some(raw),
                Err(error) => error,
            };
            let place = error.span().unwrap_or(0..0);
            let explained = explain(error.message());
            problems.push(self.problem(&place, explained.rule).hint(explained.hint));
            // Without an entry to take out, the same error would come for ever.
            let gone = remove(&mut table, &place)?;
            let path = self.entries.iter().find(|e| e.value == gone).map(|e| e.path.clone());
            if let (Some(path), Some(meant)) = (&path, explained.meant) {
                let parent = path.rsplit_once('.').map(|(parent, _)| format!("{parent}."));
                self.removed.push(parent.unwrap_or_default() + &meant);
            }
            self.removed.extend(path);
        }
    }

    /// A problem with the key or the value that stands at `place`.
    pub fn problem(&self, place: &Range<usize>, rule: impl Into<String>) -> Problem {
        let entry = self.entries.iter().find(|e| e.value == *place || e.key == *place);
        let (line, column) = position(&self.text, place.start);
        let value = entry.filter(|e| e.value == *place).and_then(|_| self.text.get(place.clone()));
        Problem {
            file: self.name.clone(),
            line,
            column,
            key: entry.map(|e| e.path.clone()).unwrap_or_default(),
            value: value
                .filter(|v| v.chars().count() <= VALUE_MAX && !v.contains('\n'))
                .filter(|v| !v.starts_with('['))
                .map(str::to_owned),
            rule: rule.into(),
            hint: None,
        }
    }

    /// A problem with the key whose value stands at `value`: points at the key.
    pub fn key_problem(&self, value: &Range<usize>, rule: impl Into<String>) -> Problem {
        let entry = self.entries.iter().find(|e| e.value == *value);
        self.problem(entry.map_or(value, |e| &e.key), rule)
    }

    /// Says that the key at a dotted path must be there; `None` when it, or a table around it,
    /// stands there but was wrong, which has been told already.
    pub fn missing(&self, path: &str) -> Option<Problem> {
        let around = |gone: &String| path.strip_prefix(gone.as_str()).is_some_and(is_below);
        if self.removed.iter().any(around) {
            return None;
        }
        let parent = path.rsplit_once('.').and_then(|(parent, _)| {
            self.entries.iter().find(|e| e.path == parent).map(|e| e.key.start)
        });
        let (line, column) = position(&self.text, parent.unwrap_or(0));
        Some(Problem {
            line,
            column,
            key: path.to_owned(),
            hint: Some(described(&self.name)),
            ..Problem::of_file(&self.name, "is missing")
        })
    }

    /// The value of a key that must be there; pushes a problem when it is not.
    pub fn need<'a, T>(
        &self,
        table: Option<&Range<usize>>,
        key: &str,
        field: Option<&'a At<T>>,
        problems: &mut Problems,
    ) -> Option<&'a At<T>> {
        if field.is_none() {
            let entry = table.and_then(|t| self.entries.iter().find(|e| e.value == *t));
            let path = entry.map_or_else(|| key.to_owned(), |e| format!("{}.{key}", e.path));
            problems.extend(self.missing(&path));
        }
        field
    }
}

/// Where to read what a file holds: its folder is the kind, in the plural for most.
fn described(name: &str) -> String {
    let kind = match name.rsplit('/').next() {
        Some("bundle.toml") => "bundle",
        Some("release.toml") => "release",
        _ => name.split('/').next().unwrap_or_default().trim_end_matches('s'),
    };
    format!("`builder schema {kind}` says what it holds")
}

/// Whether what follows a removed path is its end or something inside it.
fn is_below(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['.', '['])
}

fn syntax_problem(name: &str, text: &str, error: &toml::de::Error) -> Problem {
    let (line, column) = position(text, error.span().map_or(0, |s| s.start));
    let found = error.span().and_then(|span| text.get(span)).filter(|t| !t.trim().is_empty());
    let found = found.map(|t| format!(": `{t}`")).filter(|t| t.len() <= VALUE_MAX);
    let message = error.message().replace('\n', ", ");
    let rule = format!("is not TOML: {message}{}", found.unwrap_or_default());
    Problem { line, column, ..Problem::of_file(name, rule) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "a table")]
    #[expect(dead_code, reason = "only the problems of reading it matter")]
    struct Raw {
        size: Option<At<u32>>,
        names: Option<At<Vec<At<String>>>>,
        vm: Option<At<Vm>>,
        node: Option<At<Vec<At<Vm>>>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, expecting = "a table")]
    #[expect(dead_code, reason = "only the problems of reading it matter")]
    struct Vm {
        cores: Option<At<u32>>,
        memory: Option<At<String>>,
        extra: Option<At<TextTable>>,
    }

    /// The problems of a text, each as `line:column key = value`.
    fn told(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        let _ = Document::parse::<Raw>("x.toml", text, &mut problems);
        let place = |p: &Problem| {
            let value = p.value.as_ref().map(|v| format!(" = {v}")).unwrap_or_default();
            format!("{}:{} {}{value}", p.line, p.column, p.key)
        };
        problems.sorted().list().iter().map(place).collect()
    }

    #[test]
    fn a_problem_stands_where_it_was_written_however_it_was_written() {
        let cases: [(&str, &[&str]); 10] = [
            ("size = 1\n[vm]\ncores = 2", &[]),
            (
                "size = 'x'\n\n  names = [1, 'a', 2]",
                &["1:8 size = 'x'", "3:12 names[0] = 1", "3:20 names[2] = 2"],
            ),
            ("vm = { cores = 'é', memory = 3 }", &["1:16 vm.cores = 'é'", "1:30 vm.memory = 3"]),
            ("vm.cores = 'x'\nvm.memory = 3", &["1:12 vm.cores = 'x'", "2:13 vm.memory = 3"]),
            ("[vm.extra]\na = 1\n'b c' = 2", &["2:5 vm.extra.a = 1", "3:9 vm.extra.\"b c\" = 2"]),
            ("[vm]\nextra.a = 1\nb = 2", &["2:11 vm.extra.a = 1", "3:1 vm.b"]),
            (
                "[[node]]\ncores = 1\n[[node]]\nx = 1\ncores = 'y'",
                &["4:1 node[1].x", "5:9 node[1].cores = 'y'"],
            ),
            ("node = [3, { y = 1 }]", &["1:9 node[0] = 3", "1:14 node[1].y"]),
            ("'é' = 1\nvm = 2", &["1:1 \"é\"", "2:6 vm = 2"]),
            ("size = 1\nsize = 2", &["2:1 "]),
        ];
        for (text, expected) in cases {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_or_meant_is_not_missing() {
        let mut problems = Problems::default();
        let text = "[vm]\ncroes = 2\nmemory = 3\n[[node]]\ncores = 'x'";
        let (doc, raw) = Document::parse::<Raw>("x.toml", text, &mut problems).unwrap();
        let (vm, nodes) = (raw.vm.unwrap(), raw.node.unwrap());
        assert!(doc.missing("vm.cores").is_none(), "`croes` was meant to be it");
        assert!(doc.missing("vm.memory").is_none());
        assert!(
            doc.need(Some(&nodes.get()[0].span()), "cores", None::<&At<u32>>, &mut problems)
                .is_none()
        );
        let before = problems.list().len();
        assert_eq!(before, 3, "{problems}");
        assert!(
            doc.need(Some(&vm.span()), "extra", vm.get().extra.as_ref(), &mut problems).is_none()
        );
        assert_eq!(problems.list()[before].key, "vm.extra");
        assert_eq!(problems.list()[before].line, 1);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_told(text in "([\\[\\]{}=\"'#.,a-e0-9\\n é-]|size|names|vm|cores){0,40}") {
            let mut problems = Problems::default();
            let read = Document::parse::<Raw>("x.toml", &text, &mut problems);
            prop_assert!(read.is_some() || !problems.is_empty());
        }
    }
}
