//! What Proxmox writes into the cloud-init drive of a Linux VM. Own code, so that the project's other
//! writer of the same drive is compared with something.

use std::fmt::Write as _;

use super::Config;
use super::drive;
use crate::form::percent_decode;
use crate::table::TABLE;

/// The files of the drive; a fourth, `vendor-data`, is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SeedFiles {
    /// Name, keys, users.
    pub user_data: String,
    /// Network, version 1.
    pub network_config: String,
    /// The instance-id.
    pub meta_data: String,
}

impl SeedFiles {
    /// The drive of a VM; `host` is the host's name servers and search domain, used where the VM has none.
    pub fn of(vmid: u32, config: &Config, host: (&[&str], Option<&str>)) -> Self {
        let user_data = user_data(vmid, config);
        let network_config = network(config, host);
        let mut hash = sha1_smol::Sha1::from(&user_data);
        hash.update(network_config.as_bytes());
        let meta_data = format!("instance-id: {}\n", hash.digest());
        Self { user_data, network_config, meta_data }
    }

    /// The id that decides whether cloud-init starts anew.
    pub fn instance_id(&self) -> &str {
        self.meta_data.trim_start_matches("instance-id: ").trim_end()
    }
}

fn user_data(vmid: u32, config: &Config) -> String {
    let get = |key: &str| config.get(key).map(String::as_str).filter(|text| !text.is_empty());
    let name = get("name").map_or_else(|| format!("VM{vmid}"), str::to_owned);
    let short = name.split('.').next().unwrap_or(&name);
    let domain = get("searchdomain");
    let fqdn = match domain {
        _ if name.contains('.') => name.clone(),
        Some(domain) => format!("{name}.{domain}"),
        None => name.clone(),
    };
    let user = get("ciuser");
    let mut text =
        format!("#cloud-config\nhostname: {short}\nmanage_etc_hosts: true\nfqdn: {fqdn}\n");
    if let Some(user) = user {
        let _ = writeln!(text, "user: {user}");
    }
    if user == Some("root") {
        text.push_str("disable_root: False\n");
    }
    if let Some(password) = get("cipassword") {
        let _ = writeln!(text, "password: {password}");
    }
    if let Some(keys) = get("sshkeys") {
        text.push_str("ssh_authorized_keys:\n");
        for key in percent_decode(keys, false).lines().filter(|line| !line.trim().is_empty()) {
            let _ = writeln!(text, "  - {key}");
        }
    }
    text.push_str("chpasswd:\n  expire: False\n");
    if user != Some("root") {
        text.push_str("users:\n  - default\n");
    }
    if get("ciupgrade") != Some("0") {
        text.push_str("package_upgrade: true\n");
    }
    text
}

fn network(config: &Config, host: (&[&str], Option<&str>)) -> String {
    let mut text = "version: 1\nconfig:\n".to_owned();
    for (key, value) in config.iter().filter(|(key, _)| drive::is_net(key)) {
        let number = key.trim_start_matches("net");
        let Some(ip) = config.get(&format!("ipconfig{number}")) else { continue };
        let mac = TABLE.split("net", value).remove("macaddr").unwrap_or_default();
        card(&mut text, number, &mac.to_lowercase(), ip);
    }
    text.push_str("    - type: nameserver\n");
    let own = |key: &str| config.get(key).map(|text| crate::table::split_list(text));
    let servers = own("nameserver").unwrap_or_else(|| host.0.to_vec());
    let search = own("searchdomain").unwrap_or_else(|| host.1.into_iter().collect());
    for (name, values) in [("address", servers), ("search", search)] {
        if !values.is_empty() {
            let _ = writeln!(text, "      {name}:");
        }
        for value in values {
            let _ = writeln!(text, "      - '{value}'");
        }
    }
    text
}

fn card(text: &mut String, number: &str, mac: &str, ip: &str) {
    let _ = write!(
        text,
        "    - type: physical\n      name: eth{number}\n      mac_address: '{mac}'\n      subnets:\n"
    );
    let mut keys = TABLE.split("ipconfig", ip);
    // Without an address of either kind all is left to DHCP, a gateway too.
    if !keys.contains_key("ip") && !keys.contains_key("ip6") {
        keys = TABLE.split("ipconfig", "ip=dhcp,ip6=dhcp");
    }
    let get = |key: &str| keys.get(key).map(String::as_str);
    match get("ip") {
        Some("dhcp") => text.push_str("      - type: dhcp4\n"),
        Some("manual") | None => {}
        Some(cidr) => {
            let (address, prefix) = cidr.split_once('/').unwrap_or((cidr, "32"));
            let bits = prefix.parse().unwrap_or(32);
            let mask = std::net::Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - bits).unwrap_or(0));
            let _ = write!(
                text,
                "      - type: static\n        address: '{address}'\n        netmask: '{mask}'\n"
            );
        }
    }
    if let Some(gateway) = get("gw") {
        let _ = writeln!(text, "        gateway: '{gateway}'");
    }
    match get("ip6") {
        Some("dhcp") => text.push_str("      - type: dhcp6\n"),
        Some("auto") => text.push_str("      - type: ipv6_slaac\n"),
        Some("manual") | None => {}
        Some(cidr) => {
            let _ = write!(text, "      - type: static6\n        address: '{cidr}'\n");
        }
    }
    if let Some(gateway) = get("gw6") {
        let _ = writeln!(text, "        gateway: '{gateway}'");
    }
}
