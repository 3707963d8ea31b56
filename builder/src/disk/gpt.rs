//! The GUID partition table of an image: a protective MBR that carries GRUB's first stage, the
//! BIOS boot partition, the EFI system partition, and the root file system, which comes last so
//! that it can grow (trap B2).
//!
//! Layout and checksums follow UEFI 2.10, section 5.3.

use anyhow::{Result, ensure};
use uuid::Uuid;

use super::content::Content;

/// Bytes of a logical block; QEMU's and Proxmox' disks have 512.
pub const SECTOR: u64 = 512;
/// Partitions start on MiB borders: aligned for every SSD's pages.
const ALIGN: u64 = (1 << 20) / SECTOR;
/// Where GRUB's core image lies: the BIOS boot partition fills the second MiB.
pub const CORE_LBA: u64 = ALIGN;
/// Where the EFI system partition starts.
pub const ESP_LBA: u64 = 2 * ALIGN;
/// Entries in the table and bytes of each: the values every reader accepts.
const ENTRIES: u64 = 128;
const ENTRY_BYTES: u64 = 128;
/// Sectors of one copy of the entries.
const TABLE_SECTORS: u64 = ENTRIES * ENTRY_BYTES / SECTOR;
/// First sector a partition may use: after MBR, header and entries.
const FIRST_USABLE: u64 = 2 + TABLE_SECTORS;

/// Partition types (UEFI 2.10 table 5.7; GRUB manual "BIOS installation"; systemd's discoverable
/// partitions specification for the root of x86-64).
const BIOS_BOOT: Uuid = Uuid::from_u128(0x2168_6148_6449_6e6f_744e_6565_6445_4649);
const ESP: Uuid = Uuid::from_u128(0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b);
const ROOT_X86_64: Uuid = Uuid::from_u128(0x4f68_bce3_e8cd_4db1_96e7_fbca_f984_b709);

/// Identifiers of a disk, all derived from its image key so that equal inputs give equal bytes.
#[derive(Debug, Clone, Copy)]
pub struct DiskIds {
    /// The disk's own GUID.
    pub disk: Uuid,
    /// The partitions' GUIDs: BIOS boot, EFI system, root.
    pub partitions: [Uuid; 3],
}

/// Where the root partition lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPartition {
    /// Offset from the start of the disk, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

struct Entry {
    kind: Uuid,
    id: Uuid,
    first: u64,
    last: u64,
    name: &'static str,
}

/// Disk size in bytes that holds a root partition of `root` bytes behind an ESP of `esp` bytes.
pub fn disk_size(esp: u64, root: u64) -> u64 {
    let end = root_lba(esp) + root.div_ceil(SECTOR).next_multiple_of(ALIGN);
    (end + ALIGN) * SECTOR
}

/// Where the root partition starts behind an ESP of `esp` bytes, in bytes.
pub fn root_offset(esp: u64) -> u64 {
    root_lba(esp) * SECTOR
}

fn root_lba(esp: u64) -> u64 {
    (ESP_LBA + esp.div_ceil(SECTOR)).next_multiple_of(ALIGN)
}

/// Puts the partition table (both copies) and the MBR with `boot_code` (at most 440 bytes) onto
/// a disk of `size` bytes, and says where the root partition lies.
///
/// # Errors
/// The disk cannot hold the partitions, or something lies in the table's place.
pub fn put(
    disk: &mut Content,
    size: u64,
    esp: u64,
    ids: &DiskIds,
    boot_code: &[u8],
) -> Result<RootPartition> {
    let sectors = size / SECTOR;
    let first = root_lba(esp);
    let last = (sectors - TABLE_SECTORS - 1) / ALIGN * ALIGN - 1;
    ensure!(last > first, "a disk of {size} bytes has no room for a root partition");
    let [bios, efi, root] = ids.partitions;
    let entries = encode_entries(&[
        Entry { kind: BIOS_BOOT, id: bios, first: CORE_LBA, last: ESP_LBA - 1, name: "bios" },
        Entry {
            kind: ESP,
            id: efi,
            first: ESP_LBA,
            last: ESP_LBA + esp.div_ceil(SECTOR) - 1,
            name: "esp",
        },
        Entry { kind: ROOT_X86_64, id: root, first, last, name: "root" },
    ]);
    let end = sectors - 1;
    let backup = end - TABLE_SECTORS;
    let first_header = header(1, end, 2, sectors, ids.disk, &entries);
    let last_header = header(end, 1, backup, sectors, ids.disk, &entries);
    disk.put(0, protective_mbr(sectors, boot_code)?)?;
    disk.put(SECTOR, first_header)?;
    disk.put(2 * SECTOR, entries.clone())?;
    disk.put(backup * SECTOR, entries)?;
    disk.put(end * SECTOR, last_header)?;
    Ok(RootPartition { offset: first * SECTOR, length: (last - first + 1) * SECTOR })
}

fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut table = Vec::with_capacity((ENTRIES * ENTRY_BYTES) as usize);
    for entry in entries {
        table.extend(entry.kind.to_bytes_le());
        table.extend(entry.id.to_bytes_le());
        table.extend(entry.first.to_le_bytes());
        table.extend(entry.last.to_le_bytes());
        table.extend(0u64.to_le_bytes()); // attributes
        let mut name: Vec<u8> = entry.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        name.resize(72, 0);
        table.extend(name);
    }
    table.resize((ENTRIES * ENTRY_BYTES) as usize, 0);
    table
}

fn header(own: u64, other: u64, table: u64, sectors: u64, disk: Uuid, entries: &[u8]) -> Vec<u8> {
    let mut h = Vec::with_capacity(SECTOR as usize);
    h.extend(b"EFI PART");
    h.extend(0x0001_0000u32.to_le_bytes()); // revision 1.0
    h.extend(92u32.to_le_bytes()); // header size
    h.extend([0; 8]); // checksum (below), reserved
    h.extend(own.to_le_bytes());
    h.extend(other.to_le_bytes());
    h.extend(FIRST_USABLE.to_le_bytes());
    h.extend((sectors - TABLE_SECTORS - 2).to_le_bytes());
    h.extend(disk.to_bytes_le());
    h.extend(table.to_le_bytes());
    h.extend((ENTRIES as u32).to_le_bytes());
    h.extend((ENTRY_BYTES as u32).to_le_bytes());
    h.extend(crc32fast::hash(entries).to_le_bytes());
    let checksum = crc32fast::hash(&h);
    h[16..20].copy_from_slice(&checksum.to_le_bytes());
    h.resize(SECTOR as usize, 0);
    h
}

fn protective_mbr(sectors: u64, boot_code: &[u8]) -> Result<Vec<u8>> {
    ensure!(boot_code.len() <= 440, "boot code of {} bytes is over 440", boot_code.len());
    let mut mbr = boot_code.to_vec();
    mbr.resize(446, 0); // boot code, then disk signature 0
    mbr.extend([0x00, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff]); // one entry over the whole disk
    mbr.extend(1u32.to_le_bytes());
    mbr.extend(u32::try_from(sectors - 1).unwrap_or(u32::MAX).to_le_bytes());
    mbr.resize(510, 0);
    mbr.extend([0x55, 0xaa]);
    Ok(mbr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> DiskIds {
        let id = |n: u128| Uuid::from_u128(0x1000 + n);
        DiskIds { disk: id(0), partitions: [id(1), id(2), id(3)] }
    }

    #[test]
    fn both_headers_carry_right_checksums_and_point_at_each_other() {
        let mut disk = Content::default();
        let (esp, wanted) = (16 << 20, 100 << 20);
        let size = disk_size(esp, wanted);
        let root = put(&mut disk, size, esp, &ids(), &[0x90; 440]).unwrap();
        assert_eq!(root.offset % (1 << 20), 0);
        assert_eq!(root.length, wanted);
        assert!(root.offset + root.length <= size - 33 * SECTOR);
        let end = size / SECTOR - 1;
        let mut reader = disk.reader();
        let mut read = |lba| {
            let mut sector = vec![0; SECTOR as usize];
            reader.read(lba * SECTOR, &mut sector).unwrap();
            sector
        };
        assert_eq!(&read(0)[510..], [0x55, 0xaa]);
        for (own, other) in [(1, end), (end, 1)] {
            let mut sector = read(own);
            let stored = u32::from_le_bytes(sector[16..20].try_into().unwrap());
            sector[16..20].fill(0);
            assert_eq!(crc32fast::hash(&sector[..92]), stored);
            assert_eq!(u64::from_le_bytes(sector[32..40].try_into().unwrap()), other);
        }
    }

    #[test]
    fn a_disk_without_room_is_refused() {
        assert!(put(&mut Content::default(), 18 << 20, 16 << 20, &ids(), &[]).is_err());
    }
}
