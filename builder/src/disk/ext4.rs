//! The root file system, made by `mke2fs -d -` straight into its partition from a stream of tars:
//! no root, no mount, the same bytes on every host.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use node::command::Run;
use uuid::Uuid;

use super::gpt::RootPartition;

/// mke2fs reads its defaults from a file that differs between distributions (bookworm's and
/// trixie's gave different images), so the image's own is given. `metadata_csum_seed` and
/// `orphan_file` are left out: older e2fsprogs and GRUB could not read the result.
pub const MKE2FS_CONF: &str = "[defaults]
\tbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
\tdefault_mntopts = acl,user_xattr
\tenable_periodic_fsck = 0
\tblocksize = 4096
\tinode_size = 256
\tinode_ratio = 16384
[fs_types]
\text4 = {
\t\tfeatures = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
\t}
";

/// Label of the root file system; the kernel finds it by UUID, GRUB by this.
pub const LABEL: &str = "node-root";

/// What makes two file systems of the same content equal byte for byte.
#[derive(Debug, Clone, Copy)]
pub struct Ext4Ids {
    /// UUID of the file system.
    pub uuid: Uuid,
    /// Seed of the directory hashes.
    pub hash_seed: Uuid,
    /// Seconds since 1970 for every time stamp mke2fs makes itself.
    pub epoch: i64,
}

/// Makes the file system in `disk` at `root`; `feed` writes the tar stream it is filled from.
/// `mke2fs` is the prepared command of the tools tree, `conf` a file with [`MKE2FS_CONF`].
///
/// # Errors
/// mke2fs fails (its last words are in the error), or `feed` does.
pub fn make(
    mut mke2fs: Command,
    conf: &Path,
    disk: &Path,
    root: RootPartition,
    ids: &Ext4Ids,
    feed: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let extended = format!(
        "offset={},hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,\
         assume_storage_prezeroed=1,nodiscard",
        root.offset, ids.hash_seed
    );
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1", "-L", LABEL]);
    mke2fs.args(["-U", &ids.uuid.to_string(), "-E", &extended, "-d", "-"]);
    mke2fs.arg(disk).arg(format!("{}k", root.length / 1024));
    mke2fs.env("E2FSPROGS_FAKE_TIME", ids.epoch.to_string()).env("MKE2FS_CONFIG", conf);
    mke2fs.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());

    let line = mke2fs.line();
    let mut child = mke2fs.spawn().with_context(|| format!("failed to start `{line}`"))?;
    let Some(mut stdin) = child.stdin.take() else { bail!("mke2fs has no standard input") };
    // Closed before waiting: mke2fs reads to the end of the stream.
    let fed = feed(&mut stdin);
    drop(stdin);
    let output = child.wait_with_output().context("failed to wait for mke2fs")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    // When mke2fs dies, `feed` sees a broken pipe: mke2fs' own words say more.
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, stderr.trim());
    }
    fed
}
