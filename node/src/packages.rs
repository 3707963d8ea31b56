//! The packages of an image, baked beside firstboot's configuration, and what a node's dpkg says
//! later: the difference is what makes a node `modified` (D14).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

/// Where the baked list lies, relative to the root.
pub const PATH: &str = "usr/lib/firstboot/packages";

/// dpkg's own record, relative to the root.
pub const STATUS: &str = "var/lib/dpkg/status";

/// Label (`true`) and annotation (the differences) of a Node whose packages are not its image's
/// any more; neither is there on one that is as built.
pub const MODIFIED: &str = "node.homelab/modified";

/// Versions by package name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Packages {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(pairs: T) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl Packages {
    /// Reads the baked list: `NAME VERSION` in each line.
    ///
    /// # Errors
    /// A line is not two words.
    pub fn of_list(text: &str) -> Result<Self> {
        let pair = |(number, line): (usize, &str)| {
            let (name, version) = line.split_once(' ').with_context(|| {
                format!("line {} is not a name and a version: `{line}`", number + 1)
            })?;
            Ok((name.to_owned(), version.to_owned()))
        };
        text.lines().enumerate().map(pair).collect::<Result<_>>().map(Self)
    }

    /// The baked list.
    pub fn list(&self) -> String {
        self.iter().flat_map(|(name, version)| [name, " ", version, "\n"]).collect()
    }

    /// Every installed package of a dpkg status file.
    pub fn of_status(status: &str) -> Self {
        let blocks = status.split("\n\n").filter(|b| field(b, "Status").ends_with(" ok installed"));
        blocks.map(|b| (field(b, "Package").to_owned(), field(b, "Version").to_owned())).collect()
    }

    /// Name and version of each, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// What `now` has other than these: `NAME OLD -> NEW`, `+ NAME NEW`, `- NAME OLD`.
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(now.0.keys()).collect();
        let change = |name: &String| match (self.0.get(name), now.0.get(name)) {
            (Some(old), Some(new)) if old != new => Some(format!("{name} {old} -> {new}")),
            (None, Some(new)) => Some(format!("+ {name} {new}")),
            (Some(old), None) => Some(format!("- {name} {old}")),
            _ => None,
        };
        names.into_iter().filter_map(change).collect()
    }
}

/// A field of a block, empty when it is not there.
fn field<'a>(block: &'a str, key: &str) -> &'a str {
    block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(": ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS_TEXT: &str = "Package: a\nStatus: install ok installed\nVersion: 1:2.0-1\n\n\
        Package: b\nStatus: deinstall ok config-files\nVersion: 2\n\n\
        Package: c\nStatus: hold ok installed\nVersion: 3\n";

    #[test]
    fn only_installed_packages_count_and_a_held_one_is_installed() {
        let packages = Packages::of_status(STATUS_TEXT);
        assert_eq!(packages.list(), "a 1:2.0-1\nc 3\n");
        assert_eq!(Packages::of_list(&packages.list()).unwrap(), packages);
        assert_eq!(packages.changes(&packages), [""; 0]);
    }

    #[test]
    fn a_difference_says_which_way() {
        let old = Packages::of_list("a 1\nb 1\nc 1\n").unwrap();
        let new = Packages::of_list("a 1\nb 2\nd 1\n").unwrap();
        assert_eq!(old.changes(&new), ["b 1 -> 2", "- c 1", "+ d 1"]);
        let text = Packages::of_list("a 1\nb\n").unwrap_err().to_string();
        assert_eq!(text, "line 2 is not a name and a version: `b`");
    }
}
