//! A project whose Proxmox is a double, with an image whose boot test passed.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use builder::boot::plan::{Accel, Expect, Firmware};
use builder::boot::{Verdict, verdict};
use builder::config::Project;
use builder::image::Manifest;
use builder::image::manifest::{FileDigest, RootSizes};
use builder::proxmox::clock::Clock;
use builder::proxmox::push::{Push, Pushed, Tested};
use builder::proxmox::tls::{Trust, Verifier};
use builder::proxmox::token::Token;
use builder::proxmox::{Client, Http};
use builder::ui::Ui;
use fs_err as fs;
use node::config::Role;
use node::image_id::ImageId;
use node::values::Digest;
use pve_double::{Double, Setup};
use tempfile::TempDir;

/// Time that passes by pauses, for the client and for the double alike.
pub struct Shared {
    double: Arc<Double>,
    now: Mutex<Duration>,
}

impl Clock for Shared {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }
    fn pause(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        self.double.advance(time);
    }
}

/// A double and the project that speaks to it.
pub struct Site {
    pub double: Arc<Double>,
    pub folder: TempDir,
    pub project: Project,
    pub client: Client,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Writes the project of `double` into `root`; nothing in it leaves the loopback.
pub fn write(root: &Path, double: &Double) {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid"), root);
    let path = root.join("cluster/cluster.toml");
    let text = fs::read_to_string(&path).unwrap().replace("192.168.2.", "127.0.2.");
    let (before, rest) = text.split_once("[proxmox]").unwrap();
    let (_, nodes) = rest.split_once("[[node]]").unwrap();
    let token = root.join("token");
    fs::write(&token, double.token()).unwrap();
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(root.join("ca.pem"), double.ca_pem()).unwrap();
    let proxmox = format!(
        "endpoint = \"{}\"\nstorage = \"disks\"\nimport_storage = \"local\"\nbridge = \"vmbr0\"\n\
         pool = \"k3s\"\nca_file = \"ca.pem\"\ntoken_file = \"{}\"\n",
        double.url(),
        token.display()
    );
    fs::write(path, format!("{before}[proxmox]\n{proxmox}\n[[node]]{nodes}")).unwrap();
}

/// K3s in every image that does not say another one.
pub const K3S: &str = "v1.36.4+k3s1";

/// An image of `profile` in `root/out` that passed its boot test; `n` makes it another one.
pub fn image(root: &Path, profile: &str, n: u32) -> ImageId {
    image_with(root, (profile, n), K3S)
}

/// The same with another K3s.
pub fn image_with(root: &Path, (profile, n): (&str, u32), k3s: &str) -> ImageId {
    let out = root.join("out");
    fs::create_dir_all(&out).unwrap();
    let key = Digest::of(format!("{profile}{n}"));
    let id = ImageId::new(profile.parse().unwrap(), &key, false);
    // The head of a qcow2 file of 64 MiB, and something of its own.
    let mut bytes = vec![0u8; 1 << 16];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    bytes[24..32].copy_from_slice(&(64u64 << 20).to_be_bytes());
    bytes[20..24].copy_from_slice(&16u32.to_be_bytes());
    bytes[1 << 10] = u8::try_from(n).unwrap();
    let file = out.join(format!("{id}.qcow2"));
    fs::write(&file, &bytes).unwrap();
    let sha256 = Digest::of(&bytes);
    let manifest = Manifest {
        schema: 1,
        image_id: id.clone(),
        key,
        standin: false,
        profile: profile.to_owned(),
        image: "debian-13".to_owned(),
        k3s_version: k3s.to_owned(),
        qcow2: FileDigest { file: format!("{id}.qcow2"), sha256, bytes: bytes.len() as u64 },
        disk_sha256: sha256,
        virtual_bytes: 64 << 20,
        root: RootSizes { packages: 219, base_bytes: 1, bytes: 1 },
        stages: std::collections::BTreeMap::new(),
        inputs: std::collections::BTreeMap::new(),
        secret_scan: builder::image::scan::Scan::default(),
        sbom: format!("{id}.sbom.cdx.json"),
    };
    let json = serde_json::to_string_pretty(&manifest).unwrap();
    fs::write(out.join(format!("{id}.manifest.json")), json).unwrap();
    passed(&id, sha256).record(&file).unwrap();
    id
}

fn passed(id: &ImageId, digest: Digest) -> Verdict {
    Verdict {
        schema: verdict::SCHEMA,
        passed: true,
        first_try: None,
        cause: None,
        sabotaged: false,
        image_id: Some(id.clone()),
        digest,
        firmware: Firmware::SeaBios,
        accel: Accel::Tcg,
        node: "w1".parse().unwrap(),
        role: Role::Agent,
        expect: Expect::Ready,
        seconds: 76.0,
        phases: vec![],
        checks: vec![],
        report: None,
        figures: verdict::Figures::default(),
        console_log: None,
        last_lines: vec![],
    }
}

impl Site {
    pub fn new(setup: Setup) -> Self {
        let double = Arc::new(Double::start(setup).unwrap());
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &double);
        let project = Project::load(folder.path()).unwrap_or_else(|p| panic!("{p}"));
        let verifier = Verifier::new(Trust::Ca(folder.path().join("ca.pem"))).unwrap();
        let token = Token::parse(&double.token(), "the double").unwrap();
        let http = Http::new(&double.url(), &token, verifier).unwrap();
        let clock = Shared { double: Arc::clone(&double), now: Mutex::default() };
        let client = Client::new(double.url(), Arc::new(http), Arc::new(clock), Ui::new(true));
        Self { double, folder, project, client }
    }

    /// Pushes image number `n` of the worker to pve1.
    pub fn push(&self, n: u32) -> anyhow::Result<Pushed> {
        self.push_of("worker", n)
    }

    /// The same of another profile.
    pub fn push_of(&self, profile: &str, n: u32) -> anyhow::Result<Pushed> {
        let id = image(self.folder.path(), profile, n);
        let file = self.folder.path().join(format!("out/{id}.qcow2"));
        let image = Tested::load(&file, false, &Ui::new(true))?;
        let push = Push {
            client: &self.client,
            cluster: &self.project.cluster,
            profile: self.project.profile(profile).unwrap(),
            image: &image,
            prune: true,
        };
        push.to("pve1")
    }

    /// How often a call was made.
    pub fn calls(&self, on: &str) -> usize {
        self.double.world(|world| world.seen.iter().filter(|seen| seen.on == on).count())
    }
}
