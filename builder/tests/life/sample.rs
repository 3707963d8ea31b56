//! Which cases run: all with `E2E=full`, else as many as the gate has time for, chosen by the commit's
//! hash, so that every commit looks somewhere else and each can be repeated. As `tests/src/sample.rs`
//! does it, which is of a crate that needs this one.

use std::collections::BTreeSet;
use std::process::Command;

use node::values::Digest;

/// Whether every case runs.
pub fn is_full() -> bool {
    std::env::var_os("E2E").is_some_and(|v| v == "full")
}

/// `count` of the numbers below `total`.
pub fn chosen(name: &str, total: usize, count: usize) -> Vec<usize> {
    if is_full() || total <= count {
        return (0..total).collect();
    }
    let commit = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("git tells the commit, which chooses the cases");
    let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    let mut picked = BTreeSet::new();
    for round in 0_u32.. {
        if picked.len() >= count {
            break;
        }
        let text = Digest::of(format!("{commit} {name} {round}")).to_string();
        picked.insert(usize::from_str_radix(&text[..8], 16).unwrap_or_default() % total);
    }
    picked.into_iter().collect()
}
