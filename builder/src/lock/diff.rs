//! What changed between two package sets, for people.

use std::collections::BTreeMap;
use std::fmt;

use super::{BaseSet, Package};

/// The difference of two sets. Packages of the same version but other bytes count as changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Only in the new set.
    pub added: Vec<Package>,
    /// Only in the old set.
    pub removed: Vec<Package>,
    /// In both with other content: old, new.
    pub changed: Vec<(Package, Package)>,
}

impl Diff {
    /// From `old` to `new`.
    pub fn new(old: &BaseSet, new: &BaseSet) -> Self {
        let mut before: BTreeMap<_, _> =
            old.packages.iter().map(|p| ((&p.name, &p.arch), p)).collect();
        let mut diff = Self::default();
        for package in &new.packages {
            match before.remove(&(&package.name, &package.arch)) {
                None => diff.added.push(package.clone()),
                Some(old) if old.sha256 != package.sha256 => {
                    diff.changed.push((old.clone(), package.clone()));
                }
                Some(_) => {}
            }
        }
        diff.removed = before.into_values().cloned().collect();
        diff
    }

    /// Whether the sets hold the same files.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl fmt::Display for Diff {
    /// One line per package: `+` added, `-` removed, `~` changed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in &self.added {
            writeln!(f, "  + {} {}", p.name, p.version)?;
        }
        for p in &self.removed {
            writeln!(f, "  - {} {}", p.name, p.version)?;
        }
        for (old, new) in &self.changed {
            let note = if old.version == new.version { " (same version, other bytes)" } else { "" };
            writeln!(f, "  ~ {} {} -> {}{note}", new.name, old.version, new.version)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use node::values::Digest;

    #[test]
    fn added_removed_and_changed_are_told_apart() {
        let old = sample().bases["debian-13"].clone();
        assert!(Diff::new(&old, &old).is_empty());
        let mut new = old.clone();
        new.packages[0].name = "dash".into();
        new.packages[1].sha256 = Digest::of("rebuilt");
        let text = Diff::new(&old, &new).to_string();
        let version = "1:2.41~x+deb13u5";
        assert_eq!(
            text,
            format!(
                "  + dash 5.2\n  - bash 5.2\n  ~ libc6 {version} -> {version} (same version, other bytes)\n"
            )
        );
        new.packages[1].version = "9".into();
        assert!(Diff::new(&old, &new).to_string().contains("~ libc6 1:2.41~x+deb13u5 -> 9\n"));
    }
}
