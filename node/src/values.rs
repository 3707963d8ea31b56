//! Newtypes for the values people write: each can only be made from text that keeps its rule,
//! and each says which rule a refused text broke.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that breaks the rule of the type it was meant for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct Invalid {
    /// The rule in words, fit to stand behind "`VALUE` is not valid: ".
    pub rule: String,
}

fn invalid<T>(rule: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { rule: rule.into() })
}

/// Serde, `Display` and JSON schema by way of text, for a type with `FromStr` and `Display`.
macro_rules! text_value {
    ($type:ident, $schema:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $schema })
            }
        }
    };
}

/// A host name of one DNS label (RFC 1123), lower case: it becomes the Kubernetes node name,
/// which K3s lower-cases, so an upper-case one would not be found again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(String);

impl Hostname {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let inner = |c: char| edge(c) || c == '-';
        match text {
            "" => invalid("must not be empty"),
            t if t.len() > 63 => invalid("must be at most 63 characters"),
            t if !t.chars().all(inner) => {
                invalid("may hold only lower-case letters, digits and `-`")
            }
            t if !t.starts_with(edge) || !t.ends_with(edge) => {
                invalid("must start and end with a letter or digit")
            }
            t => Ok(Self(t.to_owned())),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(Hostname, "one DNS label: lower-case letters, digits and -, at most 63 characters");

/// A DNS domain of at least two labels, such as `home.example.net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

impl Domain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Domain {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > 253 {
            return invalid("must be at most 253 characters");
        }
        if !text.contains('.') {
            return invalid("must have at least two labels, such as `home.example.net`");
        }
        for label in text.split('.') {
            Hostname::from_str(label)
                .map_err(|e| Invalid { rule: format!("label `{label}` {}", e.rule) })?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_value!(Domain, "a DNS domain of at least two labels, such as home.example.net");

/// An IPv4 network with its prefix length; host bits must be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// The network `address` lies in, for a prefix length of 0 to 32.
    ///
    /// # Errors
    /// A prefix above 32.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Result<Self, Invalid> {
        if prefix > 32 {
            return invalid("prefix length must be between 0 and 32");
        }
        Ok(Self { network: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix })
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Whether the two share any address.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// First address of the network.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// Last address of the network (its broadcast address).
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | !mask(self.prefix))
    }

    /// Prefix length, 0 to 32.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

/// Netmask bits of a prefix length of 0 to 32; a shift by 32 would overflow.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Some((address, prefix)) = text.split_once('/') else {
            return invalid("must be an IPv4 network with a prefix, such as `192.168.2.0/24`");
        };
        let Ok(address) = address.parse::<Ipv4Addr>() else {
            return invalid(format!("`{address}` is not an IPv4 address"));
        };
        let Ok(prefix) = prefix.parse::<u8>() else {
            return invalid(format!("prefix length `{prefix}` must be between 0 and 32"));
        };
        let cidr = Self::of(address, prefix)?;
        if cidr.network != address {
            return invalid(format!("has host bits set; the network is `{cidr}`"));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

text_value!(Cidr, "an IPv4 network with prefix, such as 192.168.2.0/24");

/// A size in bytes, written with a binary unit: `8 GiB`, `512MiB`, `64 KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Units a [`Size`] may be written in, largest first.
const UNITS: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl Size {
    /// A size of so many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The size in whole MiB, rounded up: the unit Proxmox takes for memory.
    pub const fn mib_ceil(self) -> u64 {
        self.0.div_ceil(1 << 20)
    }
}

impl FromStr for Size {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return invalid("must be a whole number with KiB, MiB, GiB or TiB, such as `8 GiB`");
        };
        let Ok(number) = number.parse::<u64>() else {
            return invalid("must start with a whole number, such as `8 GiB`");
        };
        match number.checked_mul(*factor) {
            Some(0) => invalid("must be more than zero"),
            Some(bytes) => Ok(Self(bytes)),
            None => invalid("is larger than 16 EiB"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)) {
            Some((name, factor)) => write!(f, "{} {name}", self.0 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}

text_value!(Size, "a whole number with a binary unit, such as 8 GiB");

/// A SHA-256 digest, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest from the raw 32 bytes of SHA-256's output.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// SHA-256 of `data`.
    pub fn of(data: impl AsRef<[u8]>) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(data).into())
    }

    /// The first `n` hex digits (at most 64).
    pub fn short(&self, n: usize) -> String {
        let mut text = self.to_string();
        text.truncate(n);
        text
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return invalid("must be a SHA-256: 64 lower-case hex digits");
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

text_value!(Digest, "a SHA-256: 64 lower-case hex digits");

/// A Proxmox VM id: 100 to 999 999 999, the range Proxmox itself allows.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, schemars::JsonSchema,
)]
pub struct VmId(#[schemars(range(min = 100, max = 999_999_999))] u32);

impl VmId {
    /// The id as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for VmId {
    type Error = Invalid;
    fn try_from(number: i64) -> Result<Self, Invalid> {
        match u32::try_from(number) {
            Ok(id @ 100..=999_999_999) => Ok(Self(id)),
            _ => invalid("must be between 100 and 999999999, the range of Proxmox"),
        }
    }
}

impl<'de> Deserialize<'de> for VmId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::try_from(i64::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_rule_names_itself() {
        let rule = |r: Result<String, Invalid>| r.unwrap_err().rule;
        let host = |t: &str| rule(t.parse::<Hostname>().map(|h| h.to_string()));
        assert_eq!(host(""), "must not be empty");
        assert_eq!(host("K3s"), "may hold only lower-case letters, digits and `-`");
        assert_eq!(host("-a"), "must start and end with a letter or digit");
        assert_eq!(host(&"a".repeat(64)), "must be at most 63 characters");
        let cidr = |t: &str| rule(t.parse::<Cidr>().map(|c| c.to_string()));
        assert_eq!(cidr("192.168.2.20/24"), "has host bits set; the network is `192.168.2.0/24`");
        assert_eq!(cidr("192.168.2.0/33"), "prefix length must be between 0 and 32");
        assert!(cidr("192.168.2.0").starts_with("must be an IPv4 network"));
        let size = |t: &str| rule(t.parse::<Size>().map(|s| s.to_string()));
        assert!(size("8GB").starts_with("must be a whole number with KiB"));
        assert_eq!(size("0 GiB"), "must be more than zero");
        assert_eq!(size("99999999999 TiB"), "is larger than 16 EiB");
        let domain = |t: &str| rule(t.parse::<Domain>().map(|d| d.to_string()));
        assert_eq!(domain("a..b"), "label `` must not be empty");
    }

    #[test]
    fn vm_id_range_is_that_of_proxmox() {
        assert!(VmId::try_from(99).is_err());
        assert_eq!(VmId::try_from(100).unwrap().get(), 100);
        assert!(VmId::try_from(1_000_000_000).is_err());
    }

    proptest! {
        #[test]
        fn sizes_survive_print_and_parse(n in 1u64..1 << 20, unit in 0usize..4) {
            let size = Size(n * UNITS[unit].1);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn digests_survive_print_and_parse(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }

        #[test]
        fn a_network_holds_exactly_its_addresses(bits: u32, prefix in 0u8..=32) {
            let cidr = Cidr::of(Ipv4Addr::from_bits(bits), prefix).unwrap();
            prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
            prop_assert!(cidr.contains(Ipv4Addr::from_bits(bits)));
            prop_assert!(cidr.contains(cidr.broadcast()));
            let after = cidr.broadcast().to_bits().checked_add(1);
            if let Some(after) = after {
                prop_assert!(!cidr.contains(Ipv4Addr::from_bits(after)));
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".{0,80}") {
            let _ = (text.parse::<Hostname>(), text.parse::<Cidr>(), text.parse::<Size>());
            let _ = (text.parse::<Digest>(), text.parse::<Domain>());
        }
    }
}
