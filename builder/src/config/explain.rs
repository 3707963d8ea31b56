//! serde's and toml's messages in the words of this tool.

use super::problem::{nearest, suggest};

/// A rule, and a fix where serde's message names what it knows.
#[derive(Debug, PartialEq, Eq)]
pub struct Explained {
    /// Continues `KEY = VALUE`.
    pub rule: String,
    /// Nearest known name, or all of them.
    pub hint: Option<String>,
    /// The key that was meant by an unknown one.
    pub meant: Option<String>,
}

/// What serde calls a type (its `expected …`), and what a person calls it.
const TYPES: [(&str, &str); 9] = [
    ("a string", "a string in quotes"),
    ("a boolean", "`true` or `false`"),
    ("a sequence", "a list in `[` `]`"),
    ("a map", "a table"),
    ("u8", "a whole number from 0 to 255"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("i64", "a whole number"),
    ("string or table", "a string in quotes"),
    ("a string or table", "a string in quotes"),
];

/// Turns the message of a failed deserialization into a rule and a hint.
///
/// serde gives no structure here; the three shapes below are those of its derive, and a message
/// of any other shape (a newtype's own rule) is passed on as it is.
pub fn explain(message: &str) -> Explained {
    let message = message.trim_end();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return choice(rest, "is not a known key here");
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut explained = choice(rest, "");
        let names: Vec<_> = quoted(rest).skip(1).map(|n| format!("\"{n}\"")).collect();
        explained.rule = format!("must be one of {}", names.join(", "));
        return explained;
    }
    let wrong = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    if let Some((_, expected)) = message.rsplit_once(", expected ").filter(|_| wrong) {
        let known = TYPES.iter().find(|(name, _)| *name == expected);
        return rule(format!("must be {}", known.map_or(expected, |(_, words)| words)));
    }
    match message {
        "invalid IPv4 address syntax" => rule("must be an IPv4 address, such as `192.168.2.20`"),
        "wanted string or table" => rule("must be a string in quotes"),
        other => rule(other),
    }
}

fn rule(text: impl Into<String>) -> Explained {
    Explained { rule: text.into(), hint: None, meant: None }
}

/// From "`found`, expected one of `a`, `b`": the nearest of the expected names as hint.
fn choice(rest: &str, rule: &str) -> Explained {
    let mut names = quoted(rest);
    let found = names.next().unwrap_or_default();
    let known: Vec<_> = names.collect();
    Explained {
        rule: rule.to_owned(),
        hint: suggest(found, known.iter().copied()),
        meant: nearest(found, known.iter().copied()).map(str::to_owned),
    }
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shape_of_message_has_its_words() {
        let cases = [
            (
                "unknown field `memroy`, expected one of `cores`, `memory`",
                "is not a known key here",
                Some("did you mean `memory`?"),
            ),
            (
                "unknown field `x`, expected `server`",
                "is not a known key here",
                Some("known are `server`"),
            ),
            (
                "unknown variant `serve`, expected `server` or `agent`",
                "must be one of \"server\", \"agent\"",
                Some("did you mean `server`?"),
            ),
            ("invalid type: integer `4`, expected a string", "must be a string in quotes", None),
            (
                "invalid value: integer `-1`, expected u32",
                "must be a whole number from 0 to 4294967295",
                None,
            ),
            ("invalid type: integer `4`, expected a table", "must be a table", None),
            (
                "invalid IPv4 address syntax",
                "must be an IPv4 address, such as `192.168.2.20`",
                None,
            ),
            ("must be more than zero", "must be more than zero", None),
        ];
        for (message, rule, hint) in cases {
            let explained = explain(message);
            assert_eq!((explained.rule.as_str(), explained.hint.as_deref()), (rule, hint));
        }
    }
}
