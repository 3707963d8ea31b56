//! The named formats of Proxmox: what fits, and the words it refuses with.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

/// Name, whole-text pattern, refusal with `{v}` for the value.
const PATTERNS: [(&str, &str, &str); 15] = [
    ("vmid", r"[1-9][0-9]{2,8}", "value does not look like a valid VM ID"),
    (
        "node",
        r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?",
        "value does not look like a valid node name",
    ),
    ("storage", r"(?i)[a-z][a-z0-9_.-]*[a-z0-9]", "storage ID '{v}' contains illegal characters"),
    ("config-id", r"(?i)[a-z][a-z0-9_-]+", "invalid configuration ID '{v}'"),
    (
        "dns-name",
        r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*",
        "value does not look like a valid DNS name",
    ),
    ("tag", r"(?i)[a-z0-9_][a-z0-9_+.-]*", "invalid characters in tag"),
    ("urlencoded", r"[-%a-zA-Z0-9_.!~*'()]*", "invalid urlencoded string: {v}"),
    ("pool", r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*", "pool name '{v}' contains invalid characters"),
    ("volume", r"(?i)[a-z][a-z0-9_.-]*[a-z0-9]:.+", "unable to parse volume ID '{v}'"),
    (
        "mac",
        r"(?i)[a-f0-9][02468ace](:[a-f0-9]{2}){5}",
        "value does not look like a valid unicast MAC address",
    ),
    ("bridge", r"[-_.\w]+", "invalid bridge ID '{v}'"),
    ("disk-size", r"\d+(\.\d+)?([KMGT](iB)?)?", "value does not look like a valid disk size: {v}"),
    (
        "boot-device",
        r"scsi([0-9]|[12][0-9]|30)|virtio([0-9]|1[0-5])|sata[0-5]|ide[0-3]|net([0-9]|[12][0-9]|3[01])|usb([0-9]|1[0-3])|hostpci([0-9]|1[0-5])",
        "invalid boot device '{v}'",
    ),
    ("bootdisk", r"(ide|sata|scsi|virtio)\d+", "invalid boot disk '{v}'"),
    ("cpuset", r"\d+(-\d+)?(,\d+(-\d+)?)*", "unable to parse cpuset option"),
];

/// Content types of a storage.
pub(crate) const CONTENT: [&str; 8] =
    ["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "none", "import"];
const TASK_STATES: [&str; 4] = ["ok", "error", "warning", "unknown"];
const HOTPLUG: [&str; 6] = ["network", "disk", "cpu", "memory", "usb", "cloudinit"];
/// The types of CPU the project could ever ask for; Proxmox knows some sixty more.
const CPU_TYPES: [&str; 9] = [
    "host",
    "max",
    "kvm64",
    "qemu64",
    "x86-64-v2",
    "x86-64-v2-AES",
    "x86-64-v3",
    "x86-64-v4",
    "EPYC",
];
const CPU_FLAGS: [&str; 13] = [
    "aes",
    "amd-no-ssb",
    "amd-ssbd",
    "hv-evmcs",
    "hv-tlbflush",
    "ibpb",
    "md-clear",
    "nested-virt",
    "pcid",
    "pdpe1gb",
    "spec-ctrl",
    "ssbd",
    "virt-ssbd",
];

static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    PATTERNS
        .iter()
        .map(|(_, pattern, _)| match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(regex) => regex,
            Err(error) => panic!("{error}"),
        })
        .collect()
});

/// Splits a list the way Proxmox does: on NUL if there is one, else on commas, semicolons, white space.
pub(crate) fn split_list(text: &str) -> Vec<&str> {
    if text.contains('\0') {
        return text.split('\0').filter(|item| !item.is_empty()).collect();
    }
    text.split([',', ';', ' ', '\t', '\n', '\r']).filter(|item| !item.is_empty()).collect()
}

/// Checks a value against a named format.
///
/// # Errors
/// Proxmox' words, without the end of line.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    match name {
        "volume-or-path" => volume_or_path(value),
        "volume-or-absolute" if value.starts_with('/') => Ok(()),
        "volume-or-absolute" => check("volume", value),
        "ipv4" => wants(value.parse::<Ipv4Addr>().is_ok(), || {
            "value does not look like a valid ipv4 address".to_owned()
        }),
        "ipv6" => wants(value.parse::<Ipv6Addr>().is_ok(), || {
            "value does not look like a valid ipv6 address".to_owned()
        }),
        "ipv4-config" => wants(["dhcp", "manual"].contains(&value) || cidr4(value), || {
            "value does not look like a valid ipv4 network configuration".to_owned()
        }),
        "ipv6-config" => wants(["auto", "dhcp", "manual"].contains(&value) || cidr6(value), || {
            "value does not look like a valid ipv6 network configuration".to_owned()
        }),
        "address" => wants(
            value.parse::<std::net::IpAddr>().is_ok() || check("dns-name", value).is_ok(),
            || format!("value does not look like a valid address: {value}"),
        ),
        "content" => wants(CONTENT.contains(&value), || format!("invalid content type '{value}'")),
        "task-status" => {
            wants(TASK_STATES.contains(&value), || format!("invalid status '{value}'"))
        }
        "hotplug" => hotplug(value),
        "startup" => wants(startup(value), || "unable to parse startup options".to_owned()),
        "cpu" => cpu(value),
        "storage" if value.len() < 2 => {
            Err(format!("storage ID '{value}' cannot be shorter than 2 characters"))
        }
        "pool" if value.matches('/').count() > 2 => {
            Err(format!("pool name '{value}' nested too deeply (max levels = 3)"))
        }
        _ => pattern(name, value),
    }
}

fn pattern(name: &str, value: &str) -> Result<(), String> {
    let Some(row) = PATTERNS.iter().position(|(known, ..)| *known == name) else {
        return Err(format!("the table names the unknown format {name}"));
    };
    wants(COMPILED[row].is_match(value), || PATTERNS[row].2.replace("{v}", value))
}

fn wants(good: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(message()) }
}

fn volume_or_path(value: &str) -> Result<(), String> {
    static NEW_DISK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^([^/:\s]+:)?\d+(\.\d+)?$").ok());
    let new_disk = NEW_DISK.as_ref().is_some_and(|regex| regex.is_match(value));
    if ["none", "cdrom"].contains(&value) || value.starts_with('/') || new_disk {
        return Ok(());
    }
    check("volume", value)
}

fn cidr4(value: &str) -> bool {
    value.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<Ipv4Addr>().is_ok()
            && prefix.parse::<u8>().is_ok_and(|bits| (8..=32).contains(&bits))
    })
}

fn cidr6(value: &str) -> bool {
    value.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<Ipv6Addr>().is_ok()
            && prefix.parse::<u8>().is_ok_and(|bits| (8..=128).contains(&bits))
    })
}

fn hotplug(value: &str) -> Result<(), String> {
    if ["0", "1"].contains(&value) {
        return Ok(());
    }
    match split_list(value).into_iter().find(|item| !HOTPLUG.contains(item)) {
        Some(item) => Err(format!("invalid hotplug feature '{item}'")),
        None => Ok(()),
    }
}

fn startup(value: &str) -> bool {
    value.split(',').all(|part| {
        let number = part.split_once('=').map_or(part, |(key, rest)| {
            if ["order", "up", "down"].contains(&key) { rest } else { "" }
        });
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn cpu(value: &str) -> Result<(), String> {
    for part in value.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            None | Some(("cputype", _)) => cpu_type(part.trim_start_matches("cputype="))?,
            Some(("flags", flags)) => {
                let known = |flag: &str| CPU_FLAGS.contains(&flag.trim_start_matches(['+', '-']));
                wants(flags.split(';').all(known), || {
                    format!("VM-specific CPU flags must be a subset of: {}", CPU_FLAGS.join(", "))
                })?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn cpu_type(name: &str) -> Result<(), String> {
    if let Some(custom) = name.strip_prefix("custom-") {
        return Err(format!("Custom cputype '{custom}' not found"));
    }
    wants(CPU_TYPES.contains(&name), || {
        format!("Built-in cputype '{name}' is not defined (missing 'custom-' prefix?)")
    })
}
