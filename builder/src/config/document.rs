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
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

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

#[derive(Debug)]
struct Entry {
    path: String,
    key: Range<usize>,
    value: Range<usize>,
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
    let kind = name.split('/').next().unwrap_or_default().trim_end_matches('s');
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

/// Line and column (both from 1, the column in characters) of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Lists every entry below `table` with its dotted path.
fn index(table: &DeTable<'_>, parent: &str, entries: &mut Vec<Entry>) {
    for (key, value) in table {
        let name = key.get_ref();
        let bare = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let is_bare = name.bytes().all(bare) && !name.is_empty();
        let name = if is_bare { name.to_string() } else { format!("{name:?}") };
        let path = if parent.is_empty() { name } else { format!("{parent}.{name}") };
        index_value(value, key.span(), &path, entries);
    }
}

fn index_value(
    value: &Spanned<DeValue<'_>>,
    key: Range<usize>,
    path: &str,
    entries: &mut Vec<Entry>,
) {
    match value.get_ref() {
        DeValue::Table(table) => index(table, path, entries),
        DeValue::Array(array) => {
            for (n, item) in array.iter().enumerate() {
                index_value(item, item.span(), &format!("{path}[{n}]"), entries);
            }
        }
        _ => {}
    }
    entries.push(Entry { path: path.to_owned(), key, value: value.span() });
}

/// Takes out the entry whose key or value stands at `place`, or else the innermost one around it;
/// returns the place of its value.
fn remove(table: &mut DeTable<'_>, place: &Range<usize>) -> Option<Range<usize>> {
    remove_if(table, &|span| span == place)
        .or_else(|| remove_if(table, &|span| span.start <= place.start && place.end <= span.end))
}

type Matches<'a> = &'a dyn Fn(&Range<usize>) -> bool;

fn remove_if(table: &mut DeTable<'_>, hit: Matches<'_>) -> Option<Range<usize>> {
    if let Some(span) = table.iter_mut().find_map(|(_, value)| remove_in(value, hit)) {
        return Some(span);
    }
    let (key, span) = table
        .iter()
        .find(|(key, value)| hit(&key.span()) || hit(&value.span()))
        .map(|(key, value)| (key.clone(), value.span()))?;
    table.remove(&key);
    Some(span)
}

fn remove_in(value: &mut Spanned<DeValue<'_>>, hit: Matches<'_>) -> Option<Range<usize>> {
    match value.get_mut() {
        DeValue::Table(table) => remove_if(table, hit),
        DeValue::Array(array) => {
            if let Some(span) = array.iter_mut().find_map(|item| remove_in(item, hit)) {
                return Some(span);
            }
            let span = array.iter().map(Spanned::span).find(hit)?;
            let all = std::mem::replace(array, DeArray::new());
            *array = all.into_iter().filter(|item| item.span() != span).collect();
            Some(span)
        }
        _ => None,
    }
}
