//! What a build will make, decided before anything is made: the inputs, the key of every stage,
//! and the image-id they give.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use node::config::{NodeFact, Role};
use node::image_id::ImageId;
use node::values::Digest;

use super::facts::Facts;
use super::key::Key;
use super::overlay::Trees;
use super::{base, k3s, loader, scan, tools};
use crate::bundle::{Bundle, Chart};
use crate::config::{Cluster, Image, Profile, Project};
use crate::lock::apt::{SetRequest, Source};
use crate::lock::{Artifact, BaseSet, Lock};
use crate::store::hash_file;

/// Version of the last stage's code: overlay and disk.
const VERSION: u32 = 4;
/// The one architecture images are built for.
const ARCH: &str = "amd64";
/// Names of the artifacts every image needs and may hold, in `builder.lock`.
pub const K3S: &str = "k3s";
/// Container images for K3s; an image without them pulls from the network.
pub const IMAGES: &str = "k3s-airgap-images";

/// Helm, which applies the bundle; an image without it cannot apply one.
pub const HELM: &str = "helm";

/// Keys of all stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Unpacked tools.
    pub tools: Digest,
    /// Unpacked packages with the signed boot loaders; often the tools again.
    pub signed: Digest,
    /// Base root file system.
    pub base: Digest,
    /// K3s' unpacked data directory.
    pub k3s: Digest,
    /// Boot loader files.
    pub loader: Digest,
    /// The image itself.
    pub image: Digest,
}

/// A build decided.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of what is built.
    pub id: ImageId,
    /// Keys of its stages.
    pub keys: Keys,
    /// The operating system.
    pub image: Image,
    /// The profile.
    pub profile: Profile,
    /// The cluster.
    pub cluster: Cluster,
    /// What templates see.
    pub facts: Facts,
    /// Exact packages of the base.
    pub base: BaseSet,
    /// Exact packages of the tools tree.
    pub tools: BaseSet,
    /// Exact packages the signed boot loaders come from; the tools tree's own for most images.
    pub signed: BaseSet,
    /// Packages asked for by name, the kernel among them.
    pub names: Vec<String>,
    /// K3s.
    pub k3s: Artifact,
    /// Its container images.
    pub images: Option<Artifact>,
    /// Helm.
    pub helm: Option<Artifact>,
    /// What runs in the cluster; servers carry it.
    pub bundle: Option<Bundle>,
    /// The locked charts of the bundle that are to be had.
    pub charts: Vec<Artifact>,
    /// The overlay's files.
    pub trees: Trees,
    /// The static firstboot program and its digest.
    pub firstboot: (PathBuf, Digest),
}

/// The package sets a profile's image needs in the lock.
#[derive(Debug)]
pub struct Requests {
    /// The base system.
    pub base: SetRequest,
    /// Programs that make the disk.
    pub tools: SetRequest,
    /// The distribution's signed boot loaders. An image whose own programs are too old to make its
    /// disk (`disk_tools`) takes only these from its own distribution.
    pub signed: SetRequest,
}

impl Requests {
    /// Those of `profile`.
    ///
    /// # Errors
    /// The profile's image does not exist.
    pub fn of(project: &Project, profile: &Profile) -> Result<Self> {
        let image = image_of(project, profile)?;
        let extra =
            if profile.packages.is_empty() { String::new() } else { format!("+{}", profile.name) };
        let tools = |image: &Image| {
            let packages = image.tools.keys().cloned().collect();
            request(image, format!("{}-tools", image.name), packages, false)
        };
        let disk = project.images.get(&image.disk_tools).unwrap_or(image);
        let name = format!("{}{extra}", image.name);
        Ok(Self {
            base: request(image, name, package_names(image, profile), true),
            tools: tools(disk),
            signed: tools(image),
        })
    }

    /// All of them, each once.
    pub fn all(self) -> Vec<SetRequest> {
        let mut all = vec![self.base, self.tools];
        if self.signed.name != all[1].name {
            all.push(self.signed);
        }
        all
    }
}

fn request(image: &Image, name: String, packages: Vec<String>, essential: bool) -> SetRequest {
    let source = |mirror: String, suites: Vec<String>| Source {
        mirror,
        uri: None,
        suites,
        components: image.components.clone(),
    };
    let mut sources = vec![source(image.distribution.clone(), image.suites.clone())];
    let security = image.security_suite.iter();
    sources.extend(
        security.map(|s| source(format!("{}-security", image.distribution), vec![s.clone()])),
    );
    SetRequest {
        name,
        origin: format!("images/{}.toml", image.name),
        sources,
        keyring: PathBuf::from(&image.keyring),
        packages,
        essential,
        arch: ARCH.to_owned(),
    }
}

fn image_of<'a>(project: &'a Project, profile: &Profile) -> Result<&'a Image> {
    let missing = || {
        format!("profile `{}` names image `{}`, which is not there", profile.name, profile.image)
    };
    project.image_of(profile).with_context(missing)
}

fn package_names(image: &Image, profile: &Profile) -> Vec<String> {
    let mut names: Vec<String> =
        image.packages.keys().chain(profile.packages.keys()).cloned().collect();
    names.push(image.kernel.clone());
    names.sort();
    names.dedup();
    names
}

impl Plan {
    /// The released files that go in.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        std::iter::once(&self.k3s).chain(&self.images).chain(&self.helm).chain(&self.charts)
    }

    /// Decides the build of `profile` from the project and `lock`.
    ///
    /// # Errors
    /// The lock lacks something or is older than the profile, or an input cannot be read.
    pub fn new(
        project: &Project,
        profile: &Profile,
        lock: &Lock,
        firstboot: &Path,
    ) -> Result<Self> {
        let image = image_of(project, profile)?;
        let requests = Requests::of(project, profile)?;
        let base = lock.base(&requests.base)?.clone();
        let tools = lock.base(&requests.tools)?.clone();
        let signed = lock.base(&requests.signed)?.clone();
        let k3s = lock.artifact(K3S)?.clone();
        let images = lock.artifacts.get(IMAGES).cloned();
        let helm = lock.artifacts.get(HELM).cloned();
        let trees = Trees::read(&project.root, &tree_names(image, profile))?;
        let (digest, _) = hash_file(firstboot)?;
        let mut facts = facts(project, profile)?;
        facts.k3s_version.clone_from(&k3s.version);
        let bundle = bundle(project, &facts, lock)?;
        let charts = charts(bundle.as_ref(), lock);
        let locked = [Some(&k3s), images.as_ref(), helm.as_ref()].into_iter().flatten();
        facts.standin = locked.chain(&charts).any(|a| a.standin)
            || bundle.as_ref().is_some_and(|b| b.left_out().next().is_some());
        let mut keys = stage_keys(image, &base, [&tools, &signed], (&k3s, helm.as_ref()))?;
        let content = bundle.as_ref().map(Bundle::digest).transpose()?;
        let own = [trees.digest(), digest].into_iter().chain(content).collect::<Vec<_>>();
        keys.image = image_key(&keys, [images.as_ref(), helm.as_ref()], &facts, &own)?;
        Ok(Self {
            id: ImageId::new(profile.name.clone(), &keys.image, facts.standin),
            keys,
            image: image.clone(),
            profile: profile.clone(),
            cluster: project.cluster.clone(),
            facts,
            base,
            tools,
            signed,
            names: requests.base.packages,
            k3s,
            images,
            helm,
            bundle,
            charts,
            trees,
            firstboot: (firstboot.to_owned(), digest),
        })
    }
}

/// What templates see of `profile`, but for the version of K3s, which the lock has.
///
/// # Errors
/// The profile's image does not exist.
pub fn facts(project: &Project, profile: &Profile) -> Result<Facts> {
    let image = image_of(project, profile)?;
    Ok(Facts::new(image, profile, &project.cluster, nodes(project)))
}

/// The bundle, for a server: agents have no right to apply it.
fn bundle(project: &Project, facts: &Facts, lock: &Lock) -> Result<Option<Bundle>> {
    match facts.profile.role {
        Role::Server => Ok(Bundle::load(&project.root, facts, lock)?),
        Role::Agent => Ok(None),
    }
}

/// The lock's archives that the bundle needs.
fn charts(bundle: Option<&Bundle>, lock: &Lock) -> Vec<Artifact> {
    let names = bundle.into_iter().flat_map(|b| &b.charts);
    let locked = names.filter(|(_, chart)| matches!(chart, Chart::Locked { left_out: false, .. }));
    locked.filter_map(|(name, _)| lock.artifacts.get(name).cloned()).collect()
}

fn tree_names(image: &Image, profile: &Profile) -> Vec<String> {
    let role = std::iter::once(profile.role.as_str().to_owned());
    image.tree.iter().cloned().chain(role).chain(profile.tree.iter().cloned()).collect()
}

fn nodes(project: &Project) -> Vec<NodeFact> {
    let fact = |n: &crate::config::NodeSpec| {
        let role = project.profiles.get(&n.profile)?.role;
        Some(NodeFact { name: n.name.clone(), address: n.address, role })
    };
    project.cluster.nodes.iter().filter_map(fact).collect()
}

fn stage_keys(
    image: &Image,
    base: &BaseSet,
    tools: [&BaseSet; 2],
    (k3s, helm): (&Artifact, Option<&Artifact>),
) -> Result<Keys> {
    let [tools, signed] = tools.map(tools::key);
    Ok(Keys {
        tools,
        signed,
        base: base::key(base, image)?,
        k3s: k3s::key(k3s, helm),
        loader: loader::key(&tools, &signed, image)?,
        image: tools, // known last: see image_key
    })
}

fn image_key(
    keys: &Keys,
    optional: [Option<&Artifact>; 2],
    facts: &Facts,
    own: &[Digest],
) -> Result<Digest> {
    let key = Key::of("image", VERSION).digest("tools", &keys.tools).digest("base", &keys.base);
    let key = key.digest("k3s", &keys.k3s).digest("loader", &keys.loader);
    let optional = optional.map(|a| a.map(|a| (&a.name, a.sha256)));
    let key = key.json("artifacts", &optional)?.json("facts", facts)?;
    // Trees, firstboot, and on servers the bundle.
    let key = own.iter().fold(key, |key, digest| key.digest("own", digest));
    Ok(key.with("scan", scan::VERSION).finish())
}
