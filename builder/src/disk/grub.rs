//! GRUB's BIOS stages, joined without grub-install: the boot sector is told where the core image
//! lies, and the core image's first sector where its rest lies (GRUB's `boot.S`, `diskboot.S`).

use anyhow::{Result, ensure};

use super::gpt::{CORE_LBA, ESP_LBA, SECTOR};

/// In boot.img: sector number of the core image (u64), drive to read it from, and the jump that
/// guards against buggy floppies (`GRUB_BOOT_MACHINE_*` in GRUB's `include/grub/i386/pc/boot.h`).
const KERNEL_SECTOR: usize = 0x5c;
const BOOT_DRIVE: usize = 0x64;
const DRIVE_CHECK: usize = 0x66;
/// The drive the BIOS booted from.
const ANY_DRIVE: u8 = 0xff;
const NOP: u8 = 0x90;
/// In core.img's first sector: the last block list entry (start u64, length u16, segment u16).
const BLOCKLIST: usize = 0x1f4;
/// Boot code that fits before the partition table.
const BOOT_CODE: usize = 440;

/// The boot code for the MBR and the core image for the BIOS boot partition, from GRUB's
/// `boot.img` and the output of `grub-mkimage`.
///
/// # Errors
/// Files that are not what GRUB 2 makes, or a core image over 1 MiB.
pub fn embed(boot_img: &[u8], core_img: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    ensure!(boot_img.len() == SECTOR as usize, "boot.img is {} bytes, not 512", boot_img.len());
    let room = (ESP_LBA - CORE_LBA) * SECTOR;
    ensure!(core_img.len() as u64 <= room, "core.img of {} bytes is over {room}", core_img.len());
    ensure!(
        core_img.len() > SECTOR as usize,
        "core.img of {} bytes is no core image",
        core_img.len()
    );

    let mut boot = boot_img[..BOOT_CODE].to_vec();
    boot[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&CORE_LBA.to_le_bytes());
    boot[BOOT_DRIVE] = ANY_DRIVE;
    boot[DRIVE_CHECK..DRIVE_CHECK + 2].fill(NOP);

    let mut core = core_img.to_vec();
    core.resize(core.len().next_multiple_of(SECTOR as usize), 0);
    let rest = (core.len() as u64 / SECTOR - 1) as u16;
    core[BLOCKLIST..BLOCKLIST + 8].copy_from_slice(&(CORE_LBA + 1).to_le_bytes());
    core[BLOCKLIST + 8..BLOCKLIST + 10].copy_from_slice(&rest.to_le_bytes());
    Ok((boot, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_point_at_each_other() {
        let (boot, core) = embed(&[0; 512], &[1; 1500]).unwrap();
        assert_eq!(boot.len(), 440);
        assert_eq!(boot[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(core.len(), 1536);
        assert_eq!(core[0x1f4..0x1fc], 2049u64.to_le_bytes());
        assert_eq!(core[0x1fc..0x1fe], 2u16.to_le_bytes());
    }

    #[test]
    fn wrong_files_are_refused() {
        assert!(embed(&[0; 100], &[0; 2000]).is_err());
        assert!(embed(&[0; 512], &[0; 100]).is_err());
        assert!(embed(&[0; 512], &vec![0; (1 << 20) + 1]).is_err());
    }
}
