//! A base operating system, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::common::{text, texts, trees, with_reasons};
use super::document::{At, Document};
use super::problem::{Problems, suggest};
use super::raw_image::{Distribution, RawEsp, RawImage, RawSources};
use super::syntax;

/// A base operating system as `images/NAME.toml` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Name of its file.
    pub name: String,
    /// `debian` or `ubuntu`: the `ID` of its os-release.
    pub distribution: String,
    /// `VERSION_ID` of its os-release.
    pub version: String,
    /// The release to bootstrap.
    pub suite: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Suites of the main archive, the release first.
    pub suites: Vec<String>,
    /// Suite of the security archive.
    pub security_suite: Option<String>,
    /// Where nodes get updates from.
    pub sources: Option<Sources>,
    /// The archive's keyring on the build host.
    pub keyring: String,
    /// The kernel's package.
    pub kernel: String,
    /// Packages and their reasons.
    pub packages: BTreeMap<String, String>,
    /// dpkg `path-exclude` patterns.
    pub exclude: Vec<String>,
    /// dpkg `path-include` patterns.
    pub include: Vec<String>,
    /// Units to mask and their reasons.
    pub mask: BTreeMap<String, String>,
    /// The signed boot programs.
    pub esp: Esp,
    /// Name of the image whose tools tree makes the disk; mostly this one.
    pub disk_tools: String,
    /// Packages of the tools tree and their reasons.
    pub tools: BTreeMap<String, String>,
    /// Latest time stamp in the image, seconds since 1970.
    pub source_date_epoch: i64,
    /// Overlay trees below `images/`.
    pub tree: Vec<String>,
}

/// Addresses of the archives that nodes ask for updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sources {
    /// The main archive.
    pub archive: String,
    /// The security archive.
    pub security: Option<String>,
}

/// The signed boot programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Esp {
    /// Shim's path in the tools tree.
    pub shim: String,
    /// GRUB's path in the tools tree.
    pub grub: String,
    /// Folder below `EFI/` where GRUB looks for its configuration.
    pub vendor_dir: String,
}

/// Time stamps before this (2020-01-01) are a slip: no supported release is that old.
const EPOCH_MIN: i64 = 1_577_836_800;

/// Checks one image file; `names` are those of all image files.
pub fn check(
    root: &Path,
    (name, names): (&str, &BTreeSet<String>),
    (doc, raw): (&Document, &RawImage),
    problems: &mut Problems,
) -> Option<Image> {
    let distribution = doc.need(None, "distribution", raw.distribution.as_ref(), problems);
    let components = doc.need(None, "components", raw.components.as_ref(), problems);
    let suites = doc.need(None, "suites", raw.suites.as_ref(), problems);
    let packages = doc.need(None, "packages", raw.packages.as_ref(), problems);
    let tools = doc.need(None, "tools", raw.tools.as_ref(), problems);
    let version = word(doc, "version", raw.version.as_ref(), syntax::word, problems);
    let suite = word(doc, "suite", raw.suite.as_ref(), syntax::word, problems);
    let keyring = word(doc, "keyring", raw.keyring.as_ref(), syntax::absolute_path, problems);
    let kernel = word(doc, "kernel", raw.kernel.as_ref(), syntax::package, problems);
    let (esp, epoch) = (esp(doc, raw.esp.as_ref(), problems), epoch(doc, raw, problems));
    let (exclude, include) = files(doc, raw, problems);
    let image = Image {
        name: name.to_owned(),
        disk_tools: disk_tools(doc, raw, names, problems).unwrap_or_else(|| name.to_owned()),
        components: texts(doc, components, syntax::word, problems),
        suites: texts(doc, suites, syntax::word, problems),
        security_suite: security_suite(doc, raw, problems),
        sources: raw.sources.as_ref().and_then(|at| sources(doc, raw, at, problems)),
        packages: with_reasons(doc, packages, syntax::package, problems),
        tools: with_reasons(doc, tools, syntax::package, problems),
        mask: with_reasons(doc, raw.mask.as_ref(), syntax::unit, problems),
        tree: trees(root, doc, raw.tree.as_ref(), problems),
        exclude,
        include,
        esp: esp?,
        source_date_epoch: epoch?,
        distribution: distribution_name(*distribution?.get()).to_owned(),
        version: version?,
        suite: suite?,
        keyring: keyring?,
        kernel: kernel?,
    };
    Some(image)
}

fn security_suite(doc: &Document, raw: &RawImage, problems: &mut Problems) -> Option<String> {
    raw.security_suite.as_ref().map(|at| text(doc, at, syntax::word, problems))
}

/// Both archives of the node; one that a suite belongs to must have its address.
fn sources(
    doc: &Document,
    raw: &RawImage,
    at: &At<RawSources>,
    problems: &mut Problems,
) -> Option<Sources> {
    let table = Some(&at.span());
    let archive = doc.need(table, "archive", at.get().archive.as_ref(), problems);
    let security = at.get().security.as_ref();
    let security = match raw.security_suite {
        Some(_) => doc.need(table, "security", security, problems),
        None => security,
    };
    let security = security.map(|at| text(doc, at, syntax::archive, problems));
    Some(Sources { archive: text(doc, archive?, syntax::archive, problems), security })
}

/// What dpkg leaves out, and what it takes all the same.
fn files(doc: &Document, raw: &RawImage, problems: &mut Problems) -> (Vec<String>, Vec<String>) {
    let Some(files) = raw.files.as_ref().map(At::get) else { return (vec![], vec![]) };
    let mut list = |raw| texts(doc, raw, syntax::absolute_path, problems);
    (list(files.exclude.as_ref()), list(files.include.as_ref()))
}

fn disk_tools(
    doc: &Document,
    raw: &RawImage,
    names: &BTreeSet<String>,
    problems: &mut Problems,
) -> Option<String> {
    let at = raw.disk_tools.as_ref()?;
    if !names.contains(at.get()) {
        let problem = doc.problem(&at.span(), "names an image that does not exist");
        problems.push(problem.hint(suggest(at.get(), names.iter().map(String::as_str))));
    }
    Some(at.get().clone())
}

/// A required text at the top of the file, held against a rule.
fn word(
    doc: &Document,
    key: &str,
    field: Option<&At<String>>,
    rule: fn(&str) -> syntax::Rule,
    problems: &mut Problems,
) -> Option<String> {
    let at = doc.need(None, key, field, problems)?;
    Some(text(doc, at, rule, problems))
}

fn esp(doc: &Document, raw: Option<&At<RawEsp>>, problems: &mut Problems) -> Option<Esp> {
    let at = doc.need(None, "esp", raw, problems)?;
    let table = at.span();
    let mut path = |key: &str, field: Option<&At<String>>| {
        let at = doc.need(Some(&table), key, field, problems)?;
        Some(text(doc, at, syntax::relative_path, problems))
    };
    let shim = path("shim", at.get().shim.as_ref());
    let grub = path("grub", at.get().grub.as_ref());
    let vendor_dir = path("vendor_dir", at.get().vendor_dir.as_ref());
    Some(Esp { shim: shim?, grub: grub?, vendor_dir: vendor_dir? })
}

fn epoch(doc: &Document, raw: &RawImage, problems: &mut Problems) -> Option<i64> {
    let field = raw.source_date_epoch.as_ref();
    let at = doc.need(None, "source_date_epoch", field, problems)?;
    if *at.get() < EPOCH_MIN {
        let rule = "must be in seconds since 1970, and after the start of 2020";
        problems.push(doc.problem(&at.span(), rule));
    }
    Some(*at.get())
}

const fn distribution_name(distribution: Distribution) -> &'static str {
    match distribution {
        Distribution::Debian => "debian",
        Distribution::Ubuntu => "ubuntu",
    }
}
