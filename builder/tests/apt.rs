//! The files about updates, read by the real apt, and the one about time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken preparation ends the test")]

mod rendered;

use std::process::Command;

use builder::config::Sources;
use rendered::rendered;

const SOURCES: &str = "etc/apt/sources.list.d/node.sources";
const UPGRADES: &str = "etc/apt/apt.conf.d/50unattended-upgrades";

/// The files that apt would fetch first for a sources file, without fetching any.
fn fetched(text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs_err::write(dir.path().join("node.sources"), text).unwrap();
    let parts = format!("Dir::Etc::SourceParts={}", dir.path().display());
    let output = Command::new("apt-get")
        .args(["-o", &parts, "-o", "Dir::Etc::SourceList=/dev/null", "update", "--print-uris"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    // What it fetches after that differs between versions of apt.
    let uris = text.lines().filter_map(|l| l.split('\'').nth(1));
    let mut uris: Vec<_> = uris.filter(|uri| uri.ends_with("/InRelease")).collect();
    uris.sort_unstable();
    uris.into_iter().map(str::to_owned).collect()
}

#[test]
fn apt_reads_the_sources_and_has_none_where_none_are_given() {
    let none = rendered("worker", SOURCES, |facts| facts.image.sources = None);
    assert_eq!(fetched(&none), [""; 0]);
    let text = rendered("worker", SOURCES, |facts| {
        facts.image.sources = Some(Sources {
            archive: "https://mirror.example.net/debian".into(),
            security: Some("https://mirror.example.net/debian-security".into()),
        });
    });
    let want = [
        "https://mirror.example.net/debian-security/dists/trixie-security/InRelease",
        "https://mirror.example.net/debian/dists/trixie-updates/InRelease",
        "https://mirror.example.net/debian/dists/trixie/InRelease",
    ];
    assert_eq!(fetched(&text), want, "{text}");
    let signed = "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
    assert_eq!(text.matches(signed).count(), 2, "{text}");
}

/// Values of a key as apt's own parser sees them.
fn values(text: &str, key: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(file.path(), text).unwrap();
    let output = Command::new("apt-config")
        .env("APT_CONFIG", file.path())
        .args(["-o", "Dir::Etc::Parts=/nonexistent", "dump", "--format", "%v%n", key])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

#[test]
fn upgrades_are_those_of_the_profile_and_never_kernel_or_k3s() {
    let security = "origin=Debian,codename=trixie-security,label=Debian-Security";
    let text = rendered("worker", UPGRADES, |_| ());
    assert_eq!(values(&text, "Unattended-Upgrade::Origins-Pattern"), [security]);
    let held = values(&text, "Unattended-Upgrade::Package-Blacklist");
    assert!(["linux-", "k3s"].iter().all(|name| held.iter().any(|h| h == name)), "{held:?}");
    assert_eq!(values(&text, "Unattended-Upgrade::Automatic-Reboot"), ["false"]);
    let text = rendered("worker", UPGRADES, |facts| {
        facts.profile.upgrades.origins = vec!["security".into(), "updates".into()];
        facts.profile.upgrades.reboot = true;
    });
    let updates = "origin=Debian,codename=trixie-updates";
    assert_eq!(values(&text, "Unattended-Upgrade::Origins-Pattern"), [security, updates]);
    assert_eq!(values(&text, "Unattended-Upgrade::Automatic-Reboot"), ["true"]);
}

#[test]
fn time_servers_are_those_given_or_the_distributions() {
    let path = "usr/lib/systemd/timesyncd.conf.d/10-node.conf";
    let keys = |servers: &[&str]| {
        let text = rendered("worker", path, |facts| {
            facts.cluster.network.ntp = servers.iter().map(|s| (*s).to_owned()).collect();
        });
        let lines = text.lines().map(str::trim).filter(|l| !l.starts_with('#') && !l.is_empty());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(keys(&[]), ["[Time]"]);
    let given = keys(&["192.168.2.1", "time.example.net"]);
    assert_eq!(given, ["[Time]", "NTP=192.168.2.1 time.example.net", "FallbackNTP="]);
}
