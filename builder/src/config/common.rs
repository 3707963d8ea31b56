//! Checks that images and profiles share.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::document::{At, Document, TextTable};
use super::problem::{Problems, suggest};
use super::syntax::{self, Rule};

/// A rule for a text.
pub type TextRule = fn(&str) -> Rule;

/// Holds one text against a rule; the problem points at its value.
pub fn value_rule(doc: &Document, at: &Range<usize>, rule: Rule, problems: &mut Problems) {
    if let Err(rule) = rule {
        problems.push(doc.problem(at, rule));
    }
}

/// Holds one text against a rule and returns it.
pub fn text(doc: &Document, at: &At<String>, rule: TextRule, problems: &mut Problems) -> String {
    value_rule(doc, &at.span(), rule(at.get()), problems);
    at.get().clone()
}

/// Holds each text of a list against a rule; no list is an empty list.
pub fn texts(
    doc: &Document,
    list: Option<&At<Vec<At<String>>>>,
    rule: TextRule,
    problems: &mut Problems,
) -> Vec<String> {
    list.map_or(&[][..], |list| list.get()).iter().map(|at| text(doc, at, rule, problems)).collect()
}

/// Holds the keys and the values of a table each against a rule; no table is an empty table.
pub fn table(
    doc: &Document,
    table: Option<&At<TextTable>>,
    (key_rule, rule): (TextRule, TextRule),
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for (key, value) in table.iter().flat_map(|t| t.get()) {
        if let Err(rule) = key_rule(key) {
            problems.push(doc.key_problem(&value.span(), rule));
        }
        checked.insert(key.clone(), text(doc, value, rule, problems));
    }
    checked
}

/// Packages (or units) with the reasons they are there for.
pub fn with_reasons(
    doc: &Document,
    raw: Option<&At<TextTable>>,
    name: TextRule,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    table(doc, raw, (name, syntax::reason), problems)
}

/// Folders below `images/` that must exist and hold something.
pub fn trees(
    root: &Path,
    doc: &Document,
    list: Option<&At<Vec<At<String>>>>,
    problems: &mut Problems,
) -> Vec<String> {
    for at in list.iter().flat_map(|list| list.get()) {
        if let Err(rule) = tree(root, at.get()) {
            let folders = folders(&root.join("images"));
            let others = folders.iter().map(String::as_str).filter(|name| name != at.get());
            problems.push(doc.problem(&at.span(), rule).hint(suggest(at.get(), others)));
        }
    }
    list.iter().flat_map(|list| list.get()).map(|at| at.get().clone()).collect()
}

fn tree(root: &Path, name: &str) -> Rule {
    syntax::relative_path(name)?;
    let folder = root.join("images").join(name);
    match fs_err::read_dir(&folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("names the folder `images/{name}`, which is empty")),
        Err(_) => Err(format!("names the folder `images/{name}`, which does not exist")),
    }
}

/// Names of the folders in `parent`, sorted; none where it cannot be read.
fn folders(parent: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs_err::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
