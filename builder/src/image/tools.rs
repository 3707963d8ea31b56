//! The tools tree (D5): the host programs that make the image's bytes, unpacked from locked
//! packages and run by their own dynamic linker, so that every host runs the same ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use node::command::{Run, tied};
use node::values::Digest;

use super::key::Key;
use crate::lock::BaseSet;
use crate::store::Store;

/// Version of this stage's code.
const VERSION: u32 = 1;
/// The dynamic linker and the libraries, as Debian and Ubuntu place them on amd64.
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const GCONV: &str = "usr/lib/x86_64-linux-gnu/gconv";

/// Key of the unpacked tree: the exact packages.
pub fn key(set: &BaseSet) -> Digest {
    let key = Key::of("tools", VERSION);
    set.packages.iter().fold(key, |k, p| k.digest(&p.name, &p.sha256)).finish()
}

/// Unpacks every package of `set` (all must be in the store) below `dest/root`. Their scripts do
/// not run: the programs need their files only.
///
/// # Errors
/// `dpkg-deb` is missing or refuses a package.
pub fn unpack(store: &Store, set: &BaseSet, dest: &Path) -> Result<()> {
    let root = dest.join("root");
    fs_err::create_dir_all(&root)?;
    for package in &set.packages {
        tied("KILL", "dpkg-deb")
            .arg("--extract")
            .arg(store.object(&package.sha256))
            .arg(&root)
            .run()?;
    }
    Ok(())
}

/// The unpacked tree.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// The tree in the stage output `stage`.
    pub fn new(stage: &Path) -> Self {
        Self { root: stage.join("root") }
    }

    /// A file of the tree, by its path below `/`.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A program of the tree, by its path below `/`, ready for its arguments.
    pub fn command(&self, program: &str) -> Command {
        let mut command = tied("KILL", self.root.join(LOADER));
        command.arg("--library-path").arg(self.root.join(LIBRARIES)).arg(self.root.join(program));
        // Character set modules of the host's C library would not fit this one. UTF-8, for
        // names that are.
        command.env("GCONV_PATH", self.root.join(GCONV)).env("TZ", "UTC").env("LC_ALL", "C.UTF-8");
        command
    }
}
