//! What a role's image holds, with `extends` resolved and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use node::config::Role;
use node::values::{Hostname, Size};
use serde::Serialize;

use super::common::{TextRule, table, text, texts, trees};
use super::document::{At, Document, TextTable};
use super::problem::{Problem, Problems, suggest};
use super::raw_profile::{Origin, RawK3s, RawProfile, RawUpgrades, RawVm};
use super::syntax;

/// A profile with everything it extends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// Name of its file, and the first part of its images' ids.
    pub name: Hostname,
    /// Name of the image it stands on.
    pub image: String,
    /// Server or agent.
    pub role: Role,
    /// Settings of K3s.
    pub k3s: K3sSettings,
    /// Size of the VM.
    pub vm: Vm,
    /// Automatic updates.
    pub upgrades: Upgrades,
    /// Packages beyond the image's, and their reasons.
    pub packages: BTreeMap<String, String>,
    /// Overlay trees below `images/`, over those of the image.
    pub tree: Vec<String>,
}

/// Settings of K3s that differ by profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct K3sSettings {
    /// Labels the Node registers with.
    pub labels: BTreeMap<String, String>,
    /// Taints it registers with, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Arguments of the kubelet, without dashes.
    pub kubelet: BTreeMap<String, String>,
}

/// Size of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Virtual CPUs.
    pub cores: u32,
    /// Memory.
    pub memory: Size,
    /// Disk.
    pub disk: Size,
    /// Processor the guest sees.
    pub cpu: String,
}

/// What unattended-upgrades may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upgrades {
    /// `security`, `updates`.
    pub origins: Vec<String>,
    /// Whether a node restarts itself.
    pub reboot: bool,
}

/// A profile's file as read.
pub type Source = (Document, RawProfile);

/// A file's part in a resolved profile: the profile itself first, then what it extends.
type Layers<'a> = Vec<&'a Source>;

/// Memory K3s asks for at the least, by its documentation's requirements.
pub const fn memory_min(role: Role) -> Size {
    match role {
        Role::Server => Size::from_bytes(2 << 30),
        Role::Agent => Size::from_bytes(512 << 20),
    }
}

/// Runs on every processor since 2011, so that a VM starts on any host, and is what container
/// images of today are built for.
pub const CPU: &str = "x86-64-v2-AES";

/// The base, K3s with its images unpacked, one set of newer container images and a week of logs.
pub const DISK_MIN: Size = Size::from_bytes(8 << 30);

/// Checks every profile that has a role; the others are there to be extended.
pub fn check_all(
    root: &Path,
    sources: &BTreeMap<String, Option<Source>>,
    images: &BTreeSet<&str>,
    problems: &mut Problems,
) -> BTreeMap<String, Profile> {
    let extended: BTreeSet<_> = sources
        .values()
        .flatten()
        .filter_map(|(_, raw)| raw.extends.as_ref())
        .map(|at| at.get().as_str())
        .collect();
    let mut profiles = BTreeMap::new();
    for (name, source) in sources {
        let Some(source) = source else { continue };
        let base = extended.contains(name.as_str()) && source.1.role.is_none();
        let Some(layers) = layers(name, source, sources, problems) else { continue };
        let check = Check { root, layers, problems };
        if let Some(profile) = check.profile(name, base, images).filter(|_| !base) {
            profiles.insert(name.clone(), profile);
        }
    }
    profiles
}

/// The profile and what it extends; `None` when that is not there or extends on its own.
fn layers<'a>(
    name: &str,
    source: &'a Source,
    sources: &'a BTreeMap<String, Option<Source>>,
    problems: &mut Problems,
) -> Option<Layers<'a>> {
    let (doc, raw) = source;
    let Some(at) = &raw.extends else { return Some(vec![source]) };
    let target = at.get();
    let problem = match sources.get(target) {
        _ if target == name => doc.problem(&at.span(), "extends itself"),
        None => {
            let others = sources.keys().map(String::as_str).filter(|n| *n != name);
            let problem = doc.problem(&at.span(), "names a profile that does not exist");
            problem.hint(suggest(target, others))
        }
        Some(None) => return None,
        Some(Some(parent)) => match &parent.1.extends {
            None => return Some(vec![source, parent]),
            Some(next) if next.get() == name => {
                let rule = format!("closes a loop: `{target}` extends `{name}`");
                doc.problem(&at.span(), rule)
            }
            Some(next) => {
                let next = next.get();
                let rule = format!(
                    "extends a profile that itself extends `{next}`: only one level is allowed"
                );
                doc.problem(&at.span(), rule)
                    .hint(format!("extend `{next}`, or move what is shared into it"))
            }
        },
    };
    problems.push(problem);
    None
}

struct Check<'a, 'p> {
    root: &'a Path,
    layers: Layers<'a>,
    problems: &'p mut Problems,
}

/// A field and the file it comes from.
type Found<'a, T> = (&'a Document, &'a At<T>);

impl<'a> Check<'a, '_> {
    /// What the first layer that has the field says.
    fn find<T>(&self, field: impl Fn(&'a RawProfile) -> Option<&'a At<T>>) -> Option<Found<'a, T>> {
        self.layers.iter().find_map(|(doc, raw)| Some((doc, field(raw)?)))
    }

    /// Like `find`, and says so when no layer has the field. A profile that is only there to be
    /// extended may leave out anything.
    fn need<T>(
        &mut self,
        base: bool,
        key: &str,
        field: impl Fn(&'a RawProfile) -> Option<&'a At<T>>,
    ) -> Option<Found<'a, T>> {
        let found = self.find(field);
        if found.is_none() && !base {
            let problem = self.missing(key);
            self.problems.extend(problem);
        }
        found
    }

    /// The problem of a key that no layer has; `None` when one has it, but wrong.
    fn missing(&self, key: &str) -> Option<Problem> {
        let mut missing = self.layers.iter().map(|(doc, _)| doc.missing(key));
        let first = missing.next()?;
        first.filter(|_| missing.all(|p| p.is_some()))
    }

    fn profile(mut self, name: &str, base: bool, images: &BTreeSet<&str>) -> Option<Profile> {
        let role = self.role(base);
        let image = self.image(base, images);
        let vm = self.vm(base, role);
        let k3s = self.k3s();
        let upgrades = self.upgrades();
        let packages = self.join(|raw| raw.packages.as_ref(), (syntax::package, syntax::reason));
        let tree = match self.find(|raw| raw.tree.as_ref()) {
            Some((doc, at)) => trees(self.root, doc, Some(at), self.problems),
            None => vec![],
        };
        let name = name.parse().ok()?;
        Some(Profile { name, image: image?, role: role?, k3s, vm: vm?, upgrades, packages, tree })
    }

    fn role(&mut self, base: bool) -> Option<Role> {
        let found = self.find(|raw| raw.role.as_ref());
        if found.is_none() && !base {
            let hint =
                "write \"server\" or \"agent\"; only a profile that others extend may do without";
            let problem = self.missing("role").map(|p| p.hint(hint.to_owned()));
            self.problems.extend(problem);
        }
        found.map(|(_, at)| *at.get())
    }

    fn image(&mut self, base: bool, images: &BTreeSet<&str>) -> Option<String> {
        let (doc, at) = self.need(base, "image", |raw| raw.image.as_ref())?;
        if !images.contains(at.get().as_str()) {
            let problem = doc.problem(&at.span(), "names an image that does not exist");
            self.problems.push(problem.hint(suggest(at.get(), images.iter().copied())));
        }
        Some(at.get().clone())
    }

    fn vm(&mut self, base: bool, role: Option<Role>) -> Option<Vm> {
        let cores = self.need(base, "vm.cores", |raw| vm(raw)?.cores.as_ref());
        let memory = self.need(base, "vm.memory", |raw| vm(raw)?.memory.as_ref());
        let disk = self.need(base, "vm.disk", |raw| vm(raw)?.disk.as_ref());
        if let Some((doc, at)) = cores {
            check_cores(doc, at, self.problems);
        }
        if let (Some((doc, at)), Some(role)) = (memory, role) {
            check_memory(doc, at, role, self.problems);
        }
        if let Some((doc, at)) = disk {
            check_disk(doc, at, self.problems);
        }
        let cpu = self.find(|raw| vm(raw)?.cpu.as_ref());
        let cpu = cpu.map(|(doc, at)| text(doc, at, syntax::cpu, self.problems));
        Some(Vm {
            cores: *cores?.1.get(),
            memory: *memory?.1.get(),
            disk: *disk?.1.get(),
            cpu: cpu.unwrap_or_else(|| CPU.to_owned()),
        })
    }

    fn k3s(&mut self) -> K3sSettings {
        let taints = match self.find(|raw| k3s(raw)?.taints.as_ref()) {
            Some((doc, at)) => texts(doc, Some(at), syntax::taint, self.problems),
            None => vec![],
        };
        let labels = (syntax::label_key as TextRule, syntax::label_value as TextRule);
        let kubelet = (syntax::kubelet_argument as TextRule, syntax::not_empty as TextRule);
        K3sSettings {
            labels: self.join(|raw| k3s(raw)?.labels.as_ref(), labels),
            taints,
            kubelet: self.join(|raw| k3s(raw)?.kubelet.as_ref(), kubelet),
        }
    }

    fn upgrades(&mut self) -> Upgrades {
        let origins = self.find(|raw| upgrades(raw)?.origins.as_ref());
        let reboot = self.find(|raw| upgrades(raw)?.reboot.as_ref());
        let name = |origin: &At<Origin>| match origin.get() {
            Origin::Security => "security".to_owned(),
            Origin::Updates => "updates".to_owned(),
        };
        Upgrades {
            origins: origins.map_or_else(
                || vec!["security".to_owned()],
                |(_, list)| list.get().iter().map(name).collect(),
            ),
            reboot: reboot.is_some_and(|(_, at)| *at.get()),
        }
    }

    /// A table joined key by key, the profile's own entries winning.
    fn join(
        &mut self,
        field: impl Fn(&'a RawProfile) -> Option<&'a At<TextTable>>,
        rules: (TextRule, TextRule),
    ) -> BTreeMap<String, String> {
        let mut joined = BTreeMap::new();
        for (doc, raw) in self.layers.iter().rev() {
            joined.extend(table(doc, field(raw), rules, self.problems));
        }
        joined
    }
}

fn vm(raw: &RawProfile) -> Option<&RawVm> {
    raw.vm.as_ref().map(At::get)
}

fn k3s(raw: &RawProfile) -> Option<&RawK3s> {
    raw.k3s.as_ref().map(At::get)
}

fn upgrades(raw: &RawProfile) -> Option<&RawUpgrades> {
    raw.upgrades.as_ref().map(At::get)
}

/// At least one virtual CPU.
pub fn check_cores(doc: &Document, at: &At<u32>, problems: &mut Problems) {
    if *at.get() == 0 {
        problems.push(doc.problem(&at.span(), "must be at least 1"));
    }
}

/// At least what K3s asks for in that role.
pub fn check_memory(doc: &Document, at: &At<Size>, role: Role, problems: &mut Problems) {
    let min = memory_min(role);
    if *at.get() < min {
        let why = format!("must be at least {min}, which K3s asks for as {}", role.as_str());
        problems.push(doc.problem(&at.span(), why));
    }
}

/// At least [`DISK_MIN`].
pub fn check_disk(doc: &Document, at: &At<Size>, problems: &mut Problems) {
    if *at.get() < DISK_MIN {
        let rule = format!("must be at least {DISK_MIN}, to hold the system, K3s and its images");
        problems.push(doc.problem(&at.span(), rule));
    }
}
