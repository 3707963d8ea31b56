//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, invalid, text_value};

/// A size in bytes, written with a binary unit: `8 GiB`, `512MiB`, `64 KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

/// Units a [`Size`] may be written in, largest first.
pub(super) const UNITS: [(&str, u64); 4] =
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
