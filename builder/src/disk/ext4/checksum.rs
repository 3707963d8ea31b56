//! Checksums of metadata (kernel docs, `checksums.rst`): CRC-32C without the usual inversion, of
//! which each structure continues one that starts with the UUID of the file system.

use uuid::Uuid;

/// A checksum so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(u32);

/// Before any byte.
pub const START: Seed = Seed(!0);

impl Seed {
    /// What every checksum but the superblock's starts with.
    pub fn of(uuid: &Uuid) -> Self {
        START.with(uuid.as_bytes())
    }

    /// What the checksums of inode `number` and of its blocks start with. Our inodes are all of
    /// generation 0.
    pub fn inode(self, number: u32) -> Self {
        self.with(&number.to_le_bytes()).with(&0u32.to_le_bytes())
    }

    /// After these bytes too.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        // The crate inverts at the start and at the end.
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// Its value.
    pub fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4: 32 bytes of zeros give 0x8a9136aa with inversion.
    #[test]
    fn it_is_castagnolis_without_inversion() {
        assert_eq!(!START.with(&[0; 32]).value(), 0x8a91_36aa);
        assert_eq!(START.with(&[0; 20]).with(&[0; 12]), START.with(&[0; 32]));
    }
}
