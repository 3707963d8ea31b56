//! What is wrong with the configuration: every problem with its place, the value found, the rule
//! it breaks and, where we know one, the fix.

use std::fmt;

use serde::Serialize;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// File, relative to the project folder; empty for a problem of the command line.
    pub file: String,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// Column in characters, from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// Dotted path of the key, such as `vm.memory` or `node[2].address`; may be empty.
    pub key: String,
    /// The value as written, where one was found and it fits on a line.
    pub value: Option<String>,
    /// The rule in words that continue `KEY = VALUE`, such as "must be a whole number".
    pub rule: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of a whole file or folder.
    pub fn of_file(file: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            key: String::new(),
            value: None,
            rule: rule.into(),
            hint: None,
        }
    }

    /// The same with a hint; `None` leaves it as it is.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into().or(self.hint);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => {}
            (file, 0) => write!(f, "{file}: ")?,
            (file, line) => write!(f, "{file}:{line}:{}: ", self.column)?,
        }
        match (self.key.as_str(), &self.value) {
            ("", None) => {}
            ("", Some(value)) => write!(f, "{value} ")?,
            (key, None) => write!(f, "{key} ")?,
            (key, Some(value)) => write!(f, "{key} = {value} ")?,
        }
        f.write_str(&self.rule)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Every problem found, sorted by file and line: an error that `main` turns into exit code 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// A single problem of what was typed on the command line.
    pub fn usage(rule: impl Into<String>, hint: Option<String>) -> Self {
        Problem::of_file("", rule).hint(hint).into()
    }

    /// Adds a problem.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// The problems, in the order they are printed.
    pub fn list(&self) -> &[Problem] {
        &self.0
    }

    /// Whether what was typed is wrong, and not a file.
    pub fn is_usage(&self) -> bool {
        self.0.iter().all(|p| p.file.is_empty())
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sorted by place; a problem that two profiles share by `extends` stands once.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0.sort();
        self.0.dedup();
        self
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        self.0.extend(problems);
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        if self.0.len() > 1 {
            write!(f, "\n{} problems", self.0.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// The nearest of `known`, if one is near enough for `text` to be a slip of it.
pub fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this similarity a suggestion is more often noise than help.
    const NEAR: f64 = 0.8;
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(text, name), name))
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A hint with the nearest of `known`, or else with all of them.
pub fn suggest<'a>(text: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    let slip = nearest(text, known.clone()).map(|name| format!("did you mean `{name}`?"));
    slip.or_else(|| {
        let names: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| format!("known are {}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_gets_the_name_and_a_stranger_the_list() {
        let known = ["master", "worker", "dev"];
        assert_eq!(suggest("wroker", known).unwrap(), "did you mean `worker`?");
        assert_eq!(suggest("xyz", known).unwrap(), "known are `master`, `worker`, `dev`");
        assert_eq!(suggest("xyz", []), None);
    }

    #[test]
    fn a_problem_prints_only_what_it_has() {
        let mut p = Problem::of_file("a.toml", "is missing");
        assert_eq!(p.to_string(), "a.toml: is missing");
        (p.line, p.column, p.key, p.value) = (3, 7, "vm.cores".into(), Some("0".into()));
        p.rule = "must be at least 1".into();
        assert_eq!(
            p.hint("write 1".to_owned()).to_string(),
            "a.toml:3:7: vm.cores = 0 must be at least 1\n  hint: write 1"
        );
    }
}
