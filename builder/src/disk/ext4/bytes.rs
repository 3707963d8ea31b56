//! Numbers as they stand on the disk.

/// A field of a structure: its offset, its width in bytes, its value.
pub type Field = (usize, usize, u64);

/// Writes each field in little endian.
pub fn write(structure: &mut [u8], fields: &[Field]) {
    for (at, width, value) in fields {
        structure[*at..at + width].copy_from_slice(&value.to_le_bytes()[..*width]);
    }
}

/// Bits 0 to 15.
pub fn low16(value: u64) -> u64 {
    value & 0xffff
}

/// Bits 16 to 31.
pub fn high16(value: u64) -> u64 {
    value >> 16 & 0xffff
}

/// Bits 0 to 31.
pub fn low32(value: u64) -> u64 {
    value & 0xffff_ffff
}

/// Bits 32 to 63.
pub fn high32(value: u64) -> u64 {
    value >> 32
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_little_endian_and_no_wider_than_they_say() {
        let mut bytes = [9; 6];
        super::write(&mut bytes, &[(1, 2, 0x1_0203), (4, 1, 7)]);
        assert_eq!(bytes, [9, 3, 2, 9, 7, 9]);
    }
}
