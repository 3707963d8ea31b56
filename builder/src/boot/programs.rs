//! The programs that a boot uses.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};

/// Makes a fresh command for one program.
pub type Program = Arc<dyn Fn() -> Command + Send + Sync>;

/// The programs a boot uses; each can be run in a way of the caller's own.
#[derive(Clone)]
pub struct Tools {
    /// `qemu-system-x86_64`
    pub qemu: Program,
    /// `qemu-img`
    pub qemu_img: Program,
    /// `xorriso`
    pub xorriso: Program,
    /// The program whose hidden subcommand `relay HOST:PORT` is [`super::relay::relay`].
    pub relay: PathBuf,
    /// UEFI code and an empty variable store, both 4 MiB builds.
    pub ovmf: (PathBuf, PathBuf),
}

impl Tools {
    /// Everything from `PATH` and where Debian's packages put it.
    ///
    /// # Errors
    /// The path of the running program is not known.
    pub fn from_path() -> Result<Self> {
        let relay = std::env::current_exe().context("failed to find this program's own file")?;
        let program = |name: &'static str| -> Program { Arc::new(move || Command::new(name)) };
        Ok(Self {
            qemu: program("qemu-system-x86_64"),
            qemu_img: program("qemu-img"),
            xorriso: program("xorriso"),
            relay,
            ovmf: (
                PathBuf::from("/usr/share/OVMF/OVMF_CODE_4M.fd"),
                PathBuf::from("/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ),
        })
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("relay", &self.relay).finish_non_exhaustive()
    }
}
