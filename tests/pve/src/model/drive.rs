//! The strings of drives and network cards in a VM's configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::table::TABLE;

/// Keys in the order Proxmox writes them: the file, then by name.
pub(crate) type Keys = BTreeMap<String, String>;

/// Whether a setting is a drive.
pub(crate) fn is_drive(key: &str) -> bool {
    let stem = key.trim_end_matches(|letter: char| letter.is_ascii_digit());
    ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate"].contains(&stem)
        && stem != key
        && key != "scsihw"
}

/// Whether a setting is a network card.
pub(crate) fn is_net(key: &str) -> bool {
    key.strip_prefix("net").is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The set of keys of a drive.
fn set(key: &str) -> String {
    key.trim_end_matches(|letter: char| letter.is_ascii_digit()).to_owned()
}

/// Takes a drive apart.
pub(crate) fn parse(key: &str, text: &str) -> Keys {
    TABLE.split(&set(key), text)
}

/// Puts a drive together.
pub(crate) fn print(keys: &Keys) -> String {
    let mut text = keys.get("file").cloned().unwrap_or_default();
    for (key, value) in keys.iter().filter(|(key, _)| *key != "file") {
        let _ = write!(text, ",{key}={value}");
    }
    text
}

/// The storage and the name of a volume.
pub(crate) fn volume(file: &str) -> Option<(&str, &str)> {
    file.split_once(':').filter(|_| !file.starts_with('/'))
}

/// Whether a file stands for a new cloud-init drive.
pub(crate) fn is_new_seed(file: &str) -> bool {
    volume(file).is_some_and(|(_, name)| name == "cloudinit")
}

/// Whether a file is a cloud-init drive.
pub(crate) fn is_seed(file: &str) -> bool {
    is_new_seed(file)
        || file.trim_end_matches(".qcow2").trim_end_matches(".raw").ends_with("-cloudinit")
}

/// GiB of a disk to make: `STORE:32`.
pub(crate) fn new_size(file: &str) -> Option<f64> {
    volume(file)?.1.parse().ok()
}

/// `64M`: the largest unit that divides the size.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];
    let fits = |(_, bits): &&(&str, u32)| bytes > 0 && bytes.is_multiple_of(1u64 << bits);
    match units.iter().find(fits) {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

/// `+4G` or `20G` as bytes, with whether it adds.
pub(crate) fn parse_size(text: &str) -> (bool, u64) {
    let (adds, rest) = text.strip_prefix('+').map_or((false, text), |rest| (true, rest));
    let number = rest.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let bits = match &rest[number.len()..] {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => 0,
    };
    (adds, scale(number.parse().unwrap_or_default(), bits))
}

/// A fraction of a unit in bytes.
#[expect(
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes of disks are far below 2^52"
)]
pub(crate) fn scale(number: f64, bits: u32) -> u64 {
    (number * (1u64 << bits) as f64) as u64
}

/// A network card with an address: `virtio=MAC,bridge=vmbr0`.
pub(crate) fn print_net(text: &str, new_mac: impl FnOnce() -> String) -> String {
    let mut keys = TABLE.split("net", text);
    let model = keys.remove("model").unwrap_or_default();
    let mac = keys.remove("macaddr").unwrap_or_else(new_mac);
    let mut text = format!("{model}={mac}");
    for (key, value) in keys {
        let _ = write!(text, ",{key}={value}");
    }
    text
}

/// The bridge and VLAN of a card.
pub(crate) fn bridge(text: &str) -> Option<(String, Option<String>)> {
    let mut keys = TABLE.split("net", text);
    Some((keys.remove("bridge")?, keys.remove("tag")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_and_read() {
        for (bytes, text) in [(540_672, "528K"), (64 << 20, "64M"), (1 << 30, "1G"), (1001, "1001")]
        {
            assert_eq!(size_text(bytes), text);
            assert_eq!(parse_size(text), (false, bytes));
        }
        assert_eq!(parse_size("+1.5G"), (true, 3 << 29));
    }

    #[test]
    fn a_drive_keeps_its_keys_in_order() {
        let keys = parse("efidisk0", "disks:9000/x.raw,size=528K,efitype=4m");
        assert_eq!(print(&keys), "disks:9000/x.raw,efitype=4m,size=528K");
        assert!(
            is_drive("scsi0") && is_drive("efidisk0") && !is_drive("scsihw") && !is_drive("net0")
        );
    }

    #[test]
    fn a_card_without_an_address_gets_one() {
        let text = print_net("virtio,tag=5,bridge=vmbr0", || "BC:24:11:00:00:01".to_owned());
        assert_eq!(text, "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=5");
        assert_eq!(bridge(&text), Some(("vmbr0".to_owned(), Some("5".to_owned()))));
    }
}
