//! The cloud-init drive, byte for byte as Proxmox VE writes it for a Linux guest (NoCloud): the
//! same lines in the same order, the same instance-id, the same kind of ISO.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::command::Run;

use super::plan::{NodeIdentity, Seed, mac_text};
use super::programs::Tools;

/// Proxmox pads its drive to 4 MiB.
const DRIVE_BYTES: u64 = 4 << 20;

/// The files of a `NoCloud` drive (the fourth, `vendor-data`, is empty).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFiles {
    /// Name, keys and users.
    pub user_data: String,
    /// Network, version 1.
    pub network_config: String,
    /// The instance-id alone.
    pub meta_data: String,
}

impl SeedFiles {
    /// What Proxmox would write for a VM with these settings and `ciupgrade=0`.
    pub fn of(node: &NodeIdentity) -> Self {
        let user_data = user_data(node);
        let network_config = network_config(node);
        let meta_data = format!("instance-id: {}\n", instance_id(&user_data, &network_config));
        Self { user_data, network_config, meta_data }
    }

    /// The id cloud-init will keep in the guest.
    pub fn instance_id(&self) -> &str {
        self.meta_data.trim_start_matches("instance-id: ").trim_end()
    }
}

/// Proxmox' instance-id: SHA-1 over both files, one after the other.
fn instance_id(user_data: &str, network_config: &str) -> String {
    let mut hash = sha1_smol::Sha1::from(user_data);
    hash.update(network_config.as_bytes());
    hash.digest().to_string()
}

fn user_data(node: &NodeIdentity) -> String {
    let name = node.name.as_str();
    let mut text = format!(
        "#cloud-config\nhostname: {name}\nmanage_etc_hosts: true\nfqdn: {name}.{}\n",
        node.domain
    );
    if !node.user.is_empty() {
        let _ = writeln!(text, "user: {}", node.user);
    }
    if node.user == "root" {
        text.push_str("disable_root: False\n");
    }
    if !node.ssh_keys.is_empty() {
        text.push_str("ssh_authorized_keys:\n");
    }
    for key in &node.ssh_keys {
        let _ = writeln!(text, "  - {key}");
    }
    text.push_str("chpasswd:\n  expire: False\n");
    if node.user != "root" {
        text.push_str("users:\n  - default\n");
    }
    text
}

fn network_config(node: &NodeIdentity) -> String {
    let netmask = u32::MAX.checked_shl(32 - u32::from(node.prefix)).unwrap_or(0);
    let mut text = format!(
        "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      \
         mac_address: '{}'\n      subnets:\n      - type: static\n        address: '{}'\n        \
         netmask: '{}'\n        gateway: '{}'\n    - type: nameserver\n",
        mac_text(node.mac),
        node.address,
        std::net::Ipv4Addr::from_bits(netmask),
        node.gateway,
    );
    if !node.nameservers.is_empty() {
        text.push_str("      address:\n");
    }
    for server in &node.nameservers {
        let _ = writeln!(text, "      - '{server}'");
    }
    let _ = writeln!(text, "      search:\n      - '{}'", node.domain);
    text
}

/// Makes the drive in `work` and returns its path; none for [`Seed::Missing`].
///
/// # Errors
/// The files cannot be written, or xorriso fails.
pub fn make(seed: Seed, files: &SeedFiles, tools: &Tools, work: &Path) -> Result<Option<PathBuf>> {
    if seed == Seed::Missing {
        return Ok(None);
    }
    let folder = work.join("cidata");
    fs_err::create_dir(&folder)?;
    // A tab where YAML allows none: cloud-init finds the drive and cannot read it.
    let broken = "#cloud-config\nhostname:\n\t- [\n";
    let user_data = if seed == Seed::Broken { broken } else { &files.user_data };
    fs_err::write(folder.join("user-data"), user_data)?;
    fs_err::write(folder.join("network-config"), &files.network_config)?;
    fs_err::write(folder.join("meta-data"), &files.meta_data)?;
    fs_err::write(folder.join("vendor-data"), "")?;
    let iso = work.join("seed.iso");
    (tools.xorriso)()
        .args(["-as", "mkisofs", "-quiet", "-iso-level", "3", "-J", "-R", "-V", "cidata", "-o"])
        .arg(&iso)
        .arg(&folder)
        .run()
        .context("failed to make the cloud-init drive (package xorriso)")?;
    let file = fs_err::OpenOptions::new().write(true).open(&iso)?;
    file.set_len(DRIVE_BYTES.max(file.metadata()?.len()))?;
    Ok(Some(iso))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::plan::tests::sample;

    /// Output of Proxmox' own module; outside the repository, so its absence is no failure.
    const GOLDEN: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/proxmox/cloudinit/golden.json");

    #[test]
    fn the_files_of_a_node_stand_as_recorded() {
        let files = SeedFiles::of(&sample().node);
        insta::assert_snapshot!(format!(
            "{}---\n{}---\n{}",
            files.user_data, files.network_config, files.meta_data
        ));
    }

    type Change = fn(&mut NodeIdentity);

    #[test]
    fn each_setting_changes_its_line_and_the_instance_id() {
        let base = SeedFiles::of(&sample().node);
        let table: [(Change, &str); 5] = [
            (|n| n.name = "other".parse().unwrap(), "hostname: other\n"),
            (|n| n.user = "root".into(), "disable_root: False\n"),
            (|n| n.address = [192, 168, 2, 99].into(), "address: '192.168.2.99'\n"),
            (|n| n.prefix = 22, "netmask: '255.255.252.0'\n"),
            (|n| n.ssh_keys.push("ssh-ed25519 BBBB".into()), "  - ssh-ed25519 BBBB\n"),
        ];
        for (change, line) in table {
            let mut node = sample().node;
            change(&mut node);
            let files = SeedFiles::of(&node);
            assert!(format!("{}{}", files.user_data, files.network_config).contains(line));
            assert_ne!(files.instance_id(), base.instance_id(), "{line}");
        }
    }

    fn golden() -> Option<Vec<serde_json::Value>> {
        let text = fs_err::read_to_string(GOLDEN).ok();
        if text.is_none() {
            eprintln!("skipped: the recorded output of Proxmox is not on this machine");
        }
        text.map(|t| serde_json::from_str(&t).unwrap())
    }

    fn file<'a>(case: &'a serde_json::Value, name: &str) -> &'a str {
        case["nocloud"]["files"][name].as_str().unwrap()
    }

    #[test]
    fn proxmox_makes_the_same_instance_id_in_every_recorded_case() {
        for case in golden().into_iter().flatten() {
            let id = instance_id(file(&case, "user-data"), file(&case, "network-config"));
            assert_eq!(
                file(&case, "meta-data"),
                format!("instance-id: {id}\n"),
                "{}",
                case["name"]
            );
        }
    }

    #[test]
    fn proxmox_writes_the_same_bytes_for_a_node_with_a_fixed_address() {
        for case in golden().into_iter().flatten().filter(|c| c["name"] == "static4-dns") {
            let keys = file(&case, "user-data").lines().filter_map(|l| l.strip_prefix("  - ssh"));
            let node = NodeIdentity {
                name: "k3s-agent-1".parse().unwrap(),
                address: [192, 0, 2, 21].into(),
                prefix: 24,
                gateway: [192, 0, 2, 1].into(),
                nameservers: vec![[192, 0, 2, 53].into(), [192, 0, 2, 54].into()],
                domain: "cluster.example.org".parse().unwrap(),
                user: "ops".into(),
                ssh_keys: keys.map(|k| format!("ssh{k}")).collect(),
                mac: [0xbc, 0x24, 0x11, 0xaa, 0xbb, 0x01],
            };
            let files = SeedFiles::of(&node);
            assert_eq!(files.user_data, file(&case, "user-data"));
            assert_eq!(files.network_config, file(&case, "network-config"));
            assert_eq!(files.meta_data, file(&case, "meta-data"));
        }
    }
}
