//! Where the entries of a parsed table stand in its file, and how to take one out.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// One key, or one item of a list.
#[derive(Debug)]
pub struct Entry {
    /// Dotted path, with `[n]` for items of lists.
    pub path: String,
    /// Where the key stands; the value for an item.
    pub key: Range<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
}

/// Line and column (both from 1, the column in characters) of a byte offset.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Lists every entry below `table` with its dotted path.
pub fn index(table: &DeTable<'_>, parent: &str, entries: &mut Vec<Entry>) {
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
pub fn remove(table: &mut DeTable<'_>, place: &Range<usize>) -> Option<Range<usize>> {
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
