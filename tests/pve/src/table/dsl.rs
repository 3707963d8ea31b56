//! The lines of `calls.toml` that describe a parameter.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use regex::Regex;

/// What a parameter must be.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `0` or `1`; inside strings of keys also on, yes, true and their opposites.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Num,
    /// Any text.
    Str,
    /// One of these.
    Enum(Vec<String>),
    /// A string of keys and values, by the set of that name.
    Props(String),
}

/// One parameter, or one key of a string of keys.
#[derive(Debug, Clone)]
pub struct Param {
    /// `scsi[0-30]` stands expanded.
    pub name: String,
    /// May be left out.
    pub optional: bool,
    /// What it must be.
    pub kind: Kind,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) len: Option<usize>,
    pub(crate) re: Option<Regex>,
    pub(crate) format: Option<String>,
    pub(crate) list: Option<String>,
    pub(crate) requires: Option<String>,
    pub(crate) default: bool,
    pub(crate) alias: Option<String>,
    pub(crate) keys: Option<String>,
}

/// Reads the lines, includes `+set`s and spells out `name[0-3]`.
pub(super) fn expand(sets: &BTreeMap<String, Vec<String>>, lines: &[String]) -> Result<Vec<Param>> {
    let mut params = Vec::new();
    for line in lines {
        if let Some(set) = line.strip_prefix('+') {
            params.extend(expand(sets, sets.get(set).with_context(|| format!("no set {set}"))?)?);
            continue;
        }
        let param = parse(line).with_context(|| format!("in `{line}`"))?;
        match param.name.split_once('[').map(|(stem, range)| (stem.to_owned(), range.to_owned())) {
            None => params.push(param),
            Some((stem, range)) => {
                let (first, last) =
                    range.trim_end_matches(']').split_once('-').context("no range")?;
                for index in first.parse::<u32>()?..=last.parse()? {
                    params.push(Param { name: format!("{stem}{index}"), ..param.clone() });
                }
            }
        }
    }
    Ok(params)
}

fn parse(line: &str) -> Result<Param> {
    let mut words = line.split_whitespace();
    let name = words.next().context("empty")?;
    let kind = words.next().context("no kind")?;
    let mut param = Param {
        name: name.trim_end_matches('?').to_owned(),
        optional: name.ends_with('?'),
        kind: Kind::Str,
        min: None,
        max: None,
        len: None,
        re: None,
        format: None,
        list: None,
        requires: None,
        default: false,
        alias: None,
        keys: None,
    };
    let mut plain = Vec::new();
    for word in words {
        limit(&mut param, word, &mut plain)?;
    }
    param.kind = match kind {
        "bool" => Kind::Bool,
        "int" => Kind::Int,
        "num" => Kind::Num,
        "str" => Kind::Str,
        "enum" => Kind::Enum(plain),
        "props" => Kind::Props(plain.into_iter().next().context("no set")?),
        other => bail!("unknown kind {other}"),
    };
    Ok(param)
}

fn limit(param: &mut Param, word: &str, plain: &mut Vec<String>) -> Result<()> {
    match word.split_once('=') {
        _ if word == "default" => param.default = true,
        Some(("min", number)) => param.min = Some(number.parse()?),
        Some(("max", number)) => param.max = Some(number.parse()?),
        Some(("len", number)) => param.len = Some(number.parse()?),
        Some(("re", text)) => param.re = Some(Regex::new(&format!("^(?:{text})$"))?),
        Some(("format", name)) => param.format = Some(name.to_owned()),
        Some(("list", name)) => param.list = Some(name.to_owned()),
        Some(("requires", name)) => param.requires = Some(name.to_owned()),
        Some(("alias", name)) => param.alias = Some(name.to_owned()),
        Some(("keys", name)) => param.keys = Some(name.to_owned()),
        _ => plain.push(word.to_owned()),
    }
    Ok(())
}
