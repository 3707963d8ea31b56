//! IPv4 networks.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{Invalid, invalid, text_value};

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
