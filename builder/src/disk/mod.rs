//! A bootable disk from tars, without root, loop devices or mounts: partition table and BIOS boot
//! code are written here, the file systems by the tools tree's own programs.

pub mod ext4;
pub mod extents;
pub mod gpt;
pub mod grub;
pub mod qcow2;
pub mod tarcat;
