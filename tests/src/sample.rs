//! Which cases of a long table run: all with `E2E=full`, else as many as the gate has time for,
//! chosen by the commit's hash, so that every commit looks somewhere else and each can be repeated.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::Result;
use node::command::Run;
use node::values::Digest;

/// Set to `full` it runs every case.
pub const VARIABLE: &str = "E2E";

/// Whether every case runs.
pub fn is_full() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|v| v == "full")
}

/// `count` of the numbers below `total`, by the commit and `name`; all of them in a full run.
/// Prints which.
///
/// # Errors
/// The commit cannot be asked.
#[expect(clippy::print_stdout, reason = "the choice belongs into the test's output")]
pub fn chosen(name: &str, total: usize, count: usize) -> Result<Vec<usize>> {
    if is_full() {
        println!("{name}: all {total} cases");
        return Ok((0..total).collect());
    }
    let commit = commit()?;
    let picked = pick(&commit, name, total, count);
    println!("{name}: cases {picked:?} of {total}, by commit {}", &commit[..12.min(commit.len())]);
    Ok(picked)
}

/// The commit under test.
fn commit() -> Result<String> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(crate::lab::repository());
    Ok(git.stdout_text()?.trim().to_owned())
}

/// A function of its arguments alone.
fn pick(commit: &str, name: &str, total: usize, count: usize) -> Vec<usize> {
    let mut picked = BTreeSet::new();
    for round in 0_u32.. {
        if picked.len() >= count.min(total) {
            break;
        }
        let text = Digest::of(format!("{commit} {name} {round}")).to_string();
        let number = usize::from_str_radix(&text[..8], 16).unwrap_or_default();
        picked.insert(number % total);
    }
    picked.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_depends_on_commit_and_name_and_is_never_too_long() {
        let choices: BTreeSet<_> = (0..20).map(|i| pick(&format!("{i}"), "a", 15, 4)).collect();
        assert!(choices.len() > 10, "other commits look elsewhere");
        assert_eq!(pick("x", "a", 15, 4), pick("x", "a", 15, 4));
        assert_eq!(pick("x", "a", 3, 9), [0, 1, 2]);
        assert!(choices.iter().all(|c| c.len() == 4 && c.iter().all(|n| *n < 15)));
    }
}
