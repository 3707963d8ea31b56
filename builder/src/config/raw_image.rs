//! `images/NAME.toml` as written: nothing checked but types and key names.

use schemars::JsonSchema;
use serde::Deserialize;

use super::document::{At, TextTable};

/// A base operating system: what every image made from it holds before a profile adds anything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "images/NAME.toml", rename = "Image")]
pub struct RawImage {
    /// Distribution, as the `ID` of its os-release says.
    #[schemars(required)]
    pub distribution: Option<At<Distribution>>,
    /// Version, as `VERSION_ID` of its os-release says: `13`, `24.04`.
    #[schemars(required)]
    pub version: Option<At<String>>,
    /// The release to bootstrap: `trixie`, `noble`.
    #[schemars(required)]
    pub suite: Option<At<String>>,
    /// Components of the archive that packages may come from.
    #[schemars(required)]
    pub components: Option<At<Vec<At<String>>>>,
    /// Every suite of the main archive that packages may come from, the release itself first.
    #[schemars(required)]
    pub suites: Option<At<Vec<At<String>>>>,
    /// Suite of the security archive; left out where a distribution has none of its own.
    pub security_suite: Option<At<String>>,
    /// Where nodes get updates from between two rebuilds; without it they have no package source.
    pub sources: Option<At<RawSources>>,
    /// Keyring on the build host that the archive is verified with.
    #[schemars(required)]
    pub keyring: Option<At<String>>,
    /// The kernel's package.
    #[schemars(required)]
    pub kernel: Option<At<String>>,
    /// Latest time stamp of any file in the image, in seconds since 1970. Must not be before the
    /// newest package, or compiled Python files would look stale.
    #[schemars(required)]
    pub source_date_epoch: Option<At<i64>>,
    /// The image whose tools tree makes the disk, where that is not to be this one's own. The boot
    /// programs always come from this image's own tools.
    pub disk_tools: Option<At<String>>,
    /// Folders below `images/` whose files are copied over the packages, later ones winning.
    pub tree: Option<At<Vec<At<String>>>>,
    /// Packages to install, each with the reason it is there, in a sentence.
    #[schemars(required)]
    pub packages: Option<At<TextTable>>,
    /// Packages of the tools tree: what builds disks, pinned like the image itself.
    #[schemars(required)]
    pub tools: Option<At<TextTable>>,
    /// systemd units that must never start, each with the reason.
    pub mask: Option<At<TextTable>>,
    /// Files of packages to leave out.
    pub files: Option<At<RawFiles>>,
    /// What goes onto the EFI system partition.
    #[schemars(required)]
    pub esp: Option<At<RawEsp>>,
}

/// Distributions that images can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
}

/// Files of packages to leave out: dpkg's `path-exclude` and `path-include`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Files")]
pub struct RawFiles {
    /// Patterns of absolute paths that are not unpacked.
    pub exclude: Option<At<Vec<At<String>>>>,
    /// Patterns unpacked all the same.
    pub include: Option<At<Vec<At<String>>>>,
}

/// Addresses of the archives that nodes ask for updates.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Sources")]
pub struct RawSources {
    /// The main archive, with the suites of `suites`.
    #[schemars(required)]
    pub archive: Option<At<String>>,
    /// The security archive; needed where there is a `security_suite`.
    pub security: Option<At<String>>,
}

/// The signed boot programs, as paths in the tools tree.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(rename = "Esp")]
pub struct RawEsp {
    /// The distribution's shim, signed by Microsoft.
    #[schemars(required)]
    pub shim: Option<At<String>>,
    /// The distribution's GRUB, signed by the distribution.
    #[schemars(required)]
    pub grub: Option<At<String>>,
    /// The folder below `EFI/` where that GRUB looks for its `grub.cfg`.
    #[schemars(required)]
    pub vendor_dir: Option<At<String>>,
}
