//! Newtypes for the values people write: each can only be made from text that keeps its rule,
//! and each says which rule a refused text broke.

mod cidr;
mod digest;
mod size;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use cidr::Cidr;
pub use digest::Digest;
pub use size::Size;

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
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
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
use text_value;

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
    use super::size::UNITS;
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

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
            let size = Size::from_bytes(n * UNITS[unit].1);
            prop_assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
        }

        #[test]
        fn digests_survive_print_and_parse(bytes: [u8; 32]) {
            let digest = Digest::from_bytes(bytes);
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
