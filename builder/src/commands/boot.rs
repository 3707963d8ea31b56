//! `builder boot`: chooses image and node, gives what the node needs to become Ready, and judges.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use fs_err as fs;
use node::command::Run as _;
use node::config::Role;
use node::join::Bootstrap;
use node::values::Size;

use super::Context;
use super::inputs::newest;
use crate::boot::inject::{Credential, replace_file};
use crate::boot::plan::mac_of;
use crate::boot::server::Server;
use crate::boot::{self, API_PORT, BootPlan, Ending, Forward, NFS_PORT, NodeIdentity, Seed, Tools};
use crate::cli::{self, BootArgs, Expect, Firmware};
use crate::config::{NodeSpec, Project};
use crate::image::Manifest;
use crate::image::tools::Tools as ToolsTree;
use crate::secrets::Escrow;
use crate::store::Store;

/// Added to the image's own size, so that the growth of the root file system is seen.
const GROWTH: u64 = 2 << 30;
/// Who may log in to a guest that is kept, and use sudo; not the name of a group Debian has.
const LOGIN: &str = "visitor";
/// Memory a guest gets at most by default: under emulation more only costs the host.
const MEMORY: Size = Size::from_bytes(4 << 30);

/// `builder boot`.
///
/// # Errors
/// The test cannot be made; a boot that fails is exit status 1 with its reason on stdout.
#[expect(clippy::print_stdout, reason = "the verdict is the command's data")]
pub fn run(ctx: &Context, args: &BootArgs) -> Result<ExitCode> {
    let project = ctx.project()?;
    let image = image(ctx, &project, args)?;
    let manifest = Manifest::beside(&image)?;
    let node = node(&project, &manifest, args)?;
    let role = project.profile(&node.profile)?.role;
    let store = Store::open(None)?;
    let place = store.temp_dir("boot")?;
    let server = match (role, args.expect, args.join) {
        (Role::Agent, Expect::Ready, None) => {
            let k3s = k3s_of(&store, &manifest, place.path())?;
            Some(Server::start(&k3s, place.path(), project.cluster.api, &ctx.ui)?)
        }
        _ => None,
    };
    let mut plan = plan(&project, &manifest, node, role, &image, args)?;
    plan.tools = tools(&store, &manifest)?;
    plan.join = secret(args, node, role, server.as_ref())?;
    if args.keep {
        let_in(&mut plan, place.path())?;
    }
    plan.forwards = forwards(&project, args, server.as_ref().map(|s| s.address))?;
    let verdict = boot::boot(&plan, &ctx.ui)?;
    verdict.record(&image)?;
    if ctx.json {
        println!("{}", serde_json::to_string_pretty(&verdict)?);
    } else {
        print!("{}", verdict.table(&ctx.ui));
    }
    Ok(if verdict.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The image named, or the newest of the profile.
fn image(ctx: &Context, project: &Project, args: &BootArgs) -> Result<PathBuf> {
    if let Some(image) = &args.image {
        return Ok(image.clone());
    }
    let profile = project.profile(args.profile.as_deref().unwrap_or_default())?;
    newest(ctx, &args.out, profile.name.as_str())
}

fn node<'a>(project: &'a Project, manifest: &Manifest, args: &BootArgs) -> Result<&'a NodeSpec> {
    let nodes = &project.cluster.nodes;
    let profile = &manifest.profile;
    let found = match &args.node {
        Some(name) => nodes.iter().find(|n| n.name == *name),
        None => nodes.iter().find(|n| n.profile == *profile),
    };
    match (found, &args.node) {
        (Some(node), _) if node.profile == *profile => Ok(node),
        (Some(node), _) => {
            bail!("{} has profile {}, the image is of {profile}", node.name, node.profile)
        }
        (None, Some(name)) => bail!("cluster.toml has no node {name}"),
        (None, None) => bail!("cluster.toml has no node of profile {profile}; give one there"),
    }
}

fn plan(
    project: &Project,
    manifest: &Manifest,
    node: &NodeSpec,
    role: Role,
    image: &Path,
    args: &BootArgs,
) -> Result<BootPlan> {
    let cluster = &project.cluster;
    let host_cpus = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(BootPlan {
        image: image.to_owned(),
        expected: Some(manifest.qcow2.sha256),
        image_id: Some(manifest.image_id.clone()),
        firmware: match args.firmware {
            Firmware::Seabios => boot::Firmware::SeaBios,
            Firmware::Ovmf => boot::Firmware::Ovmf,
        },
        accel: None,
        node: NodeIdentity {
            name: node.name.clone(),
            address: node.address,
            prefix: cluster.network.cidr.prefix(),
            gateway: cluster.network.gateway,
            nameservers: cluster.network.nameservers.clone(),
            domain: cluster.domain.clone(),
            user: String::new(),
            ssh_keys: Vec::new(),
            mac: mac_of(cluster.name.as_str(), &node.name),
        },
        network: cluster.network.cidr,
        api: cluster.api,
        role,
        join: None,
        forwards: Vec::new(),
        expect: match args.expect {
            Expect::Ready => boot::Expect::Ready,
            Expect::Waiting => boot::Expect::Waiting,
        },
        disk: Size::from_bytes(manifest.virtual_bytes + GROWTH),
        memory: args.memory.unwrap_or(node.vm.memory.min(MEMORY)),
        cpus: args.cpus.unwrap_or(host_cpus.min(node.vm.cores as usize) as u32),
        disk_file: args.disk.clone(),
        ending: match args {
            BootArgs { keep: true, .. } => Ending::Keep,
            BootArgs { shutdown: true, .. } => Ending::Shutdown,
            BootArgs { .. } => Ending::PowerCut,
        },
        clock: args.clock.clone(),
        login_key: None,
        timeout: args.timeout,
        console_log: image.with_extension("console.log"),
        tools: Tools::from_path()?,
        seed: match args.seed {
            cli::Seed::Good => Seed::NoCloud,
            cli::Seed::Missing => Seed::Missing,
            cli::Seed::Broken => Seed::Broken,
        },
        credentials: credentials(args)?,
    })
}

/// Makes a key for this one guest, and its user: the image has neither a key nor a password.
fn let_in(plan: &mut BootPlan, folder: &Path) -> Result<()> {
    let key = folder.join("login");
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "builder boot --keep", "-f"]).arg(&key);
    keygen.run().context("failed to make a key for --keep (package openssh-client)")?;
    LOGIN.clone_into(&mut plan.node.user);
    plan.node.ssh_keys.push(fs::read_to_string(key.with_extension("pub"))?.trim().to_owned());
    plan.login_key = Some(key);
    Ok(())
}

/// What a test lays over the guest's files.
fn credentials(args: &BootArgs) -> Result<Vec<Credential>> {
    let mut all = Vec::new();
    for (target, file) in &args.replace {
        all.extend(replace_file(target, &fs::read(file)?));
    }
    Ok(all)
}

/// qemu-img and xorriso come from the tree the image was made with; QEMU is the host's.
fn tools(store: &Store, manifest: &Manifest) -> Result<Tools> {
    let mut tools = Tools::from_path()?;
    let key = manifest.stages.get("tools").context("the manifest has no stage `tools`")?;
    let stage = store.stage("tools", key);
    if !stage.exists() {
        bail!("the tools the image was made with are no longer in the cache; build it again");
    }
    let tree = ToolsTree::new(&stage);
    let program = |path: &'static str| -> boot::programs::Program {
        let tree = tree.clone();
        std::sync::Arc::new(move || tree.command(path))
    };
    tools.qemu_img = program("usr/bin/qemu-img");
    tools.xorriso = program("usr/bin/xorriso");
    Ok(tools)
}

/// What the node is given to start or join the cluster with; nothing for a maintenance-mode test.
fn secret(
    args: &BootArgs,
    node: &NodeSpec,
    role: Role,
    server: Option<&Server>,
) -> Result<Option<Vec<u8>>> {
    if let Some(path) = &args.secret {
        return Ok(Some(fs::read(path)?));
    }
    if args.expect == Expect::Waiting {
        return Ok(None);
    }
    let given = match (&args.token_file, server) {
        (Some(path), _) => Some(fs::read_to_string(path)?.trim().to_owned()),
        (None, server) => server.map(|server| server.token.clone()),
    };
    // Of a cluster that lives as long as the boot.
    let escrow = Escrow::mint(&"boot".parse()?)?;
    let mut join = escrow.join(&node.name, role, None, Bootstrap::Unrecorded);
    join.token = given.unwrap_or(join.token);
    Ok(Some(join.encode().context("failed to encode the join secret")?))
}

/// Who on this host answers in the guest's LAN: the API's server, and one NFS server as all.
fn forwards(
    project: &Project,
    args: &BootArgs,
    server: Option<SocketAddr>,
) -> Result<Vec<Forward>> {
    let cluster = &project.cluster;
    let mut all = Vec::new();
    if let Some(server) = server.or(args.join) {
        all.push(Forward { address: cluster.api, port: API_PORT, server });
    }
    if let Some(server) = args.nfs {
        ensure!(!cluster.nfs.is_empty(), "cluster.toml has no NFS export for --nfs to answer for");
        let addresses: BTreeSet<_> = cluster.nfs.values().map(|nfs| nfs.server).collect();
        all.extend(addresses.into_iter().map(|address| Forward {
            address,
            port: NFS_PORT,
            server,
        }));
    }
    Ok(all)
}

/// The image's own K3s, as a file that may be run.
fn k3s_of(store: &Store, manifest: &Manifest, folder: &Path) -> Result<PathBuf> {
    let input = manifest.inputs.get("k3s").context("the manifest has no input `k3s`")?;
    if !store.has(&input.sha256) {
        bail!("the image's K3s is no longer in the cache; build the image again");
    }
    let path = folder.join("k3s");
    fs::copy(store.object(&input.sha256), &path)?;
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(path)
}
