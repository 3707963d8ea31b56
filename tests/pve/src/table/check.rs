//! Parameters against the table: the same rules in the same order, and the same words.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

use super::dsl::{Kind, Param};
use super::formats::{self, split_list};
use super::{Call, Table};

/// Parameters as they arrived.
pub type Raw = BTreeMap<String, Value>;
/// Text by parameter, as in the reply's `errors`.
pub type Errors = BTreeMap<String, String>;

/// One value as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// From a form, the path, or a scalar of JSON.
    Text(String),
    /// The same name several times, or an array of JSON.
    List(Vec<String>),
    /// An object of JSON.
    Object,
}

/// Parameters that passed.
#[derive(Debug, Clone, Default)]
pub struct Args(pub BTreeMap<String, String>);

impl Args {
    /// A value, if given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A value the table makes compulsory.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// A boolean; false when left out.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// A number, if given.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The VM of the path.
    pub fn vmid(&self) -> u32 {
        self.text("vmid").parse().unwrap_or_default()
    }
}

static INT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[+-]?\d+$").ok());
static NUM: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$").ok());
const UNKNOWN: &str =
    "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";

impl Table {
    /// Checks all parameters of a call.
    ///
    /// # Errors
    /// One text for each wrong parameter.
    pub fn check(&self, call: &Call, raw: &Raw) -> Result<Args, Errors> {
        let mut errors = Errors::new();
        let mut args = BTreeMap::new();
        for (name, value) in raw {
            let Some(param) = call.params.iter().find(|param| param.name == *name) else {
                errors.insert(name.clone(), UNKNOWN.to_owned());
                continue;
            };
            match self.top(param, value) {
                Ok(text) => drop(args.insert(name.clone(), text)),
                Err(text) => drop(errors.insert(name.clone(), text)),
            }
        }
        let given = |name: &str| raw.contains_key(name);
        presence(&call.params, given, "", &mut errors);
        if errors.is_empty() { Ok(Args(args)) } else { Err(errors) }
    }

    fn top(&self, param: &Param, value: &Value) -> Result<String, String> {
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::List(items) if param.list.is_some() => items.join(","),
            Value::List(_) => {
                return Err(format!(
                    "type check ('{}') failed - got ARRAY",
                    type_name(&param.kind)
                ));
            }
            Value::Object => {
                return Err(format!("type check ('{}') failed - got HASH", type_name(&param.kind)));
            }
        };
        self.scalar(param, &text, false)?;
        Ok(text)
    }

    fn scalar(&self, param: &Param, text: &str, inner: bool) -> Result<(), String> {
        type_check(&param.kind, text, inner)?;
        if let Kind::Enum(values) = &param.kind
            && !values.iter().any(|value| value == text)
        {
            let known = values.join(", ");
            return Err(format!(
                "value '{text}' does not have a value in the enumeration '{known}'"
            ));
        }
        if let Some(len) = param.len.filter(|len| text.chars().count() > *len) {
            return Err(format!("value may only be {len} characters long"));
        }
        self.format(param, text)?;
        if param.re.as_ref().is_some_and(|re| !re.is_match(text)) {
            return Err("value does not match the regex pattern".to_owned());
        }
        let number: f64 = text.parse().unwrap_or_default();
        if let Some(min) = param.min.filter(|min| number < *min) {
            return Err(format!("value must have a minimum value of {min}"));
        }
        if let Some(max) = param.max.filter(|max| number > *max) {
            return Err(format!("value must have a maximum value of {max}"));
        }
        Ok(())
    }

    fn format(&self, param: &Param, text: &str) -> Result<(), String> {
        let failed = |message: String| format!("invalid format - {message}\n");
        if let Some(format) = &param.format {
            formats::check(format, text).map_err(failed)?;
        }
        for item in param
            .list
            .iter()
            .flat_map(|format| split_list(text).into_iter().map(move |item| (format, item)))
        {
            formats::check(item.0, item.1).map_err(failed)?;
        }
        if let Kind::Props(set) = &param.kind {
            self.props(&param.name, set, text)
                .map_err(|message| format!("invalid format - {message}"))?;
        }
        Ok(())
    }

    /// A string of keys; the text ends in a line break.
    fn props(&self, name: &str, set: &str, text: &str) -> Result<(), String> {
        let params = self.sets.get(set).map_or(&[][..], Vec::as_slice);
        let found = split_props(params, text)?;
        let mut errors = Errors::new();
        for (key, value) in &found {
            let path = format!("{name}.{key}");
            match params.iter().find(|param| param.name == *key) {
                None => drop(errors.insert(path, UNKNOWN.to_owned())),
                Some(param) => {
                    if let Err(text) = self.scalar(param, value, true) {
                        errors.insert(path, text);
                    }
                }
            }
        }
        presence(params, |key| found.contains_key(key), &format!("{name}."), &mut errors);
        if errors.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> =
            errors.iter().map(|(path, text)| format!("{path}: {text}\n")).collect();
        Err(format!("format error\n{}", lines.concat()))
    }

    /// Splits a checked string of keys; aliases stand under their real names.
    pub fn split(&self, set: &str, text: &str) -> BTreeMap<String, String> {
        self.sets.get(set).and_then(|params| split_props(params, text).ok()).unwrap_or_default()
    }
}

fn presence(params: &[Param], given: impl Fn(&str) -> bool, prefix: &str, errors: &mut Errors) {
    for param in params.iter().filter(|param| param.alias.is_none()) {
        let here = given(&param.name);
        if !here && !param.optional {
            errors.insert(format!("{prefix}{}", param.name), MISSING.to_owned());
        }
        if let Some(other) = param.requires.as_ref().filter(|other| here && !given(other)) {
            let text = format!("missing property required by '{prefix}{}'", param.name);
            errors.insert(format!("{prefix}{other}"), text);
        }
    }
}

fn split_props(params: &[Param], text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut put = |key: &str, value: &str| match found.insert(key.to_owned(), value.to_owned()) {
        None => Ok(()),
        Some(_) => Err(format!("duplicate key in comma-separated list property: {key}\n")),
    };
    let default = params.iter().find(|param| param.default);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                let known = params.iter().find(|param| param.name == key);
                match (known.and_then(|param| param.alias.as_deref()), model_of(default, key)) {
                    (Some(real), _) => put(real, value)?,
                    (None, Some(address)) => {
                        put(&default.map(|param| param.name.clone()).unwrap_or_default(), key)?;
                        put(address, value)?;
                    }
                    _ => put(key, value)?,
                }
            }
            Some(_) => return Err("missing key in comma-separated list property\n".to_owned()),
            None => match default {
                Some(param) => put(&param.name, part)?,
                None => {
                    return Err(
                        "value without key, but schema does not define a default key\n".to_owned()
                    );
                }
            },
        }
    }
    Ok(found)
}

/// The other key that a value of the default key stands for: `virtio=MAC` is a model and its address.
fn model_of<'a>(default: Option<&'a Param>, key: &str) -> Option<&'a str> {
    let param = default?;
    let Kind::Enum(values) = &param.kind else { return None };
    param.keys.as_deref().filter(|_| values.iter().any(|value| value == key))
}

fn type_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "boolean",
        Kind::Int => "integer",
        Kind::Num => "number",
        Kind::Str | Kind::Enum(_) | Kind::Props(_) => "string",
    }
}

fn type_check(kind: &Kind, text: &str, inner: bool) -> Result<(), String> {
    const WORDS: [&str; 6] = ["on", "yes", "true", "off", "no", "false"];
    let fits =
        |regex: &LazyLock<Option<Regex>>| regex.as_ref().is_some_and(|regex| regex.is_match(text));
    let good = match kind {
        Kind::Bool => ["0", "1"].contains(&text) || inner && WORDS.contains(&text),
        Kind::Int => fits(&INT),
        Kind::Num => fits(&NUM),
        _ => true,
    };
    if good {
        Ok(())
    } else {
        Err(format!("type check ('{}') failed - got '{text}'", type_name(kind)))
    }
}
