//! What starts the kernel: GRUB's core image for BIOS, and an EFI system partition with the
//! distribution's own signed shim and GRUB, so that Secure Boot works. Both only look for the root
//! file system by its label and read `/boot/grub/grub.cfg` there.

use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;
use node::command::Run;
use node::values::Digest;

use super::key::Key;
use super::tools::Tools;
use crate::config::Image;
use crate::disk::ext4::LABEL;

/// Version of this stage's code.
const VERSION: u32 = 1;
/// Size of the EFI system partition: shim and GRUB are 4 MB; FAT16 starts at 4085 clusters.
pub const ESP_BYTES: u64 = 16 << 20;
/// FAT volume id: any constant will do, it must only never change.
const VOLUME_ID: &str = "4e4f4445";
/// Modules of the BIOS core image: enough to find the root file system, show a serial console and
/// run its grub.cfg; nothing is loaded from disk later.
const MODULES: [&str; 14] = [
    "biosdisk",
    "part_gpt",
    "ext2",
    "normal",
    "linux",
    "configfile",
    "search",
    "search_label",
    "serial",
    "terminal",
    "echo",
    "test",
    "gzio",
    "minicmd",
];

/// Configuration built into the core image and put on the ESP.
fn finder() -> String {
    format!("search --no-floppy --label {LABEL} --set root\nset prefix=($root)/boot/grub\n")
}

/// Key of the loader's files.
///
/// # Errors
/// Never in practice (see [`Key::json`]).
pub fn key(tools: &Digest, signed: &Digest, image: &Image) -> Result<Digest> {
    let key = Key::of("loader", VERSION)
        .digest("tools", tools)
        .digest("signed", signed)
        .with("finder", finder());
    let epoch = image.source_date_epoch.to_string();
    Ok(key.json("modules", &MODULES)?.json("esp", &image.esp)?.with("epoch", epoch).finish())
}

/// Makes `core.img`, `boot.img` and `esp.img` in `dest`; shim and GRUB for UEFI come from `signed`.
///
/// # Errors
/// A program or file of the tools tree is missing or fails.
pub fn make(tools: &Tools, signed: &Tools, image: &Image, dest: &Path) -> Result<()> {
    let early = dest.join("early.cfg");
    fs::write(&early, finder())?;
    let pc = tools.file("usr/lib/grub/i386-pc");
    let mut mkimage = tools.command("usr/bin/grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-p", "/boot/grub", "-d"]).arg(&pc).arg("-c").arg(&early);
    mkimage.arg("-o").arg(dest.join("core.img")).args(MODULES).run()?;
    fs::copy(pc.join("boot.img"), dest.join("boot.img"))?;
    make_esp(tools, signed, image, dest)?;
    fs::remove_file(&early)?;
    Ok(())
}

fn make_esp(tools: &Tools, signed: &Tools, image: &Image, dest: &Path) -> Result<()> {
    let esp = dest.join("esp.img");
    fs::File::create(&esp)?.set_len(ESP_BYTES)?;
    let mut mkfs = tools.command("usr/sbin/mkfs.fat");
    mkfs.args(["--invariant", "-F", "16", "-s", "4", "-i", VOLUME_ID, "-n", "ESP"]);
    mkfs.arg(&esp).run().context("failed to format the EFI system partition")?;

    let config = dest.join("grub.cfg");
    fs::write(&config, format!("{}configfile $prefix/grub.cfg\n", finder()))?;
    let vendor = format!("::/EFI/{}", image.esp.vendor_dir);
    mtools(tools, image, "mmd", &esp).args(["::/EFI", "::/EFI/BOOT", &vendor]).run()?;
    let files = [
        (signed.file(&image.esp.shim), "::/EFI/BOOT/BOOTX64.EFI".to_owned()),
        (signed.file(&image.esp.grub), "::/EFI/BOOT/grubx64.efi".to_owned()),
        (config.clone(), format!("{vendor}/grub.cfg")),
    ];
    for (from, to) in files {
        mtools(tools, image, "mcopy", &esp).arg(from).arg(&to).run()?;
    }
    fs::remove_file(&config)?;
    Ok(())
}

/// An mtools program on the ESP. Time stamps come from `SOURCE_DATE_EPOCH`.
fn mtools(tools: &Tools, image: &Image, program: &str, esp: &Path) -> std::process::Command {
    let mut command = tools.command(&format!("usr/bin/{program}"));
    command.env("SOURCE_DATE_EPOCH", image.source_date_epoch.to_string());
    command.env("MTOOLS_SKIP_CHECK", "1").arg("-i").arg(esp);
    command
}
