//! A bootable disk from tars, without root, loop devices or mounts: partition table, BIOS boot
//! code and root file system are laid out here and written in one pass, the EFI system partition
//! by the tools tree's own programs.

pub mod archive;
pub mod content;
pub mod ext4;
pub mod extents;
pub mod gpt;
pub mod grub;
pub mod qcow2;
pub mod tree;
