//! The firewall as images hold it: read by the real nft, and tried with real packets between two
//! network namespaces. Needs nft, ip and python3; no root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken preparation ends the test")]

mod rendered;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rendered::rendered;

/// Rounds of the packet test, in `firewall.py`: who asks from where.
const SOURCES: [(&str, &str); 6] = [
    ("node", "192.168.2.21"),
    ("server", "192.168.2.20"),
    ("lan", "192.168.2.77"),
    ("vpn", "100.64.1.9"),
    ("pod", "10.42.3.4"),
    ("foreign", "203.0.113.5"),
];

fn rules(profile: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), rendered(profile, "etc/nftables.conf", |_| ())).unwrap();
    file
}

#[test]
fn nft_takes_the_rules_of_every_profile() {
    for profile in ["master", "worker", "dev"] {
        let file = rules(profile);
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "nft", "--check", "--file"]).arg(file.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{profile}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn packets_reach_what_they_may_and_nothing_else() {
    let all = "22 80 2379 2380 2381 6443 7472 7946 9100 10250 10257 10259";
    let worker = BTreeMap::from([
        ("node", "22 7472 7946 9100 10250 u7946 u8472"),
        ("server", "22 7472 7946 9100 10250 u7946 u8472"),
        ("lan", "22 10250"),
        ("vpn", "22 10250"),
        ("pod", "7472 9100 10250"),
        ("foreign", ""),
    ]);
    let master = BTreeMap::from([
        ("node", "22 2381 6443 7472 7946 9100 10250 10257 10259 u7946 u8472"),
        ("server", "22 2379 2380 2381 6443 7472 7946 9100 10250 10257 10259 u7946 u8472"),
        ("lan", "22 6443 10250"),
        ("vpn", "22 6443 10250"),
        ("pod", "2381 6443 7472 9100 10250 10257 10259"),
        ("foreign", ""),
    ]);
    for (profile, want) in [("worker", worker), ("master", master)] {
        let seen = try_packets(rules(profile).path(), all);
        for (name, address) in SOURCES {
            assert_eq!(seen[address], want[name], "{profile}, from {name} ({address})");
        }
        assert_eq!(seen["kept"], "yes", "a table that is not ours must survive a reload");
        assert_eq!(seen["without"], format!("{all} u7946 u8472 u9999"), "the test itself is blind");
    }
}

/// Runs `firewall.py`; what it found by source address.
fn try_packets(rules: &Path, ports: &str) -> BTreeMap<String, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/firewall.py");
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120", "unshare", "--map-root-user", "--net", "python3"]);
    command.arg(script).arg(rules).arg(ports).args(SOURCES.map(|(_, address)| address));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
