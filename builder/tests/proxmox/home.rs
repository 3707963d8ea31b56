//! A whole home to run the program in: a project, the Proxmox double, a cluster's API, and between the
//! two what K3s and firstboot do: a VM that runs and has its secret becomes a Node.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fs_err as fs;
use pve_double::{Double, Leftovers, Pace, Setup};

use crate::api::Api;
use crate::k3s::{Nodes, Spoilt, ready};
use crate::project::{K3S, image_with, write};

pub struct Home {
    pub double: Arc<Double>,
    pub api: Api,
    pub spoilt: Arc<Mutex<Spoilt>>,
    place: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    nodes: Option<JoinHandle<()>>,
}

/// What one run of the program said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Home {
    /// With secrets minted, and time thirty times as fast; what Proxmox does, a hundred times.
    pub fn new() -> Self {
        let mut setup = Setup { pace: Pace::Real(100), ..Setup::default() };
        // Room for the templates and VMs of several nodes.
        setup.storages.get_mut("disks").unwrap().total = 1 << 40;
        Self::with(setup)
    }

    pub fn with(setup: Setup) -> Self {
        let double = Arc::new(Double::start(setup).unwrap());
        let place = tempfile::tempdir().unwrap();
        let api = Api::start();
        let home =
            Self { stop: Arc::default(), nodes: None, spoilt: Arc::default(), double, api, place };
        write(&home.root(), &home.double);
        home.edit("127.0.2.", "127.0.3.");
        serve_home();
        home.api.write_kubeconfig(&home.kubeconfig());
        let minted = home.run(&["cluster", "init"]);
        assert_eq!(minted.code, 0, "{}", minted.err);
        home.live()
    }

    /// Lets VMs become Nodes.
    fn live(mut self) -> Self {
        let (double, api) = (Arc::clone(&self.double), self.api.clone());
        let (stop, spoilt) = (Arc::clone(&self.stop), Arc::clone(&self.spoilt));
        self.nodes = Some(std::thread::spawn(move || {
            let mut nodes = Nodes::new(double, api, spoilt);
            while !stop.load(Ordering::SeqCst) {
                nodes.turn();
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        self
    }

    pub fn root(&self) -> PathBuf {
        self.place.path().join("project")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.place.path().join("kubeconfig")
    }

    /// Changes the cluster's file.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.root().join("cluster/cluster.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_builder"));
        command.args(args).arg("--root").arg(self.root());
        command.env_remove("BUILDER_PROXMOX_TOKEN").env_remove("BUILDER_AGE_KEY");
        command.env("XDG_CONFIG_HOME", self.place.path().join("config"));
        command.env("XDG_STATE_HOME", self.place.path().join("state"));
        command.env("BUILDER_TEST_HASTE", "30");
        command.env("KUBECONFIG", self.kubeconfig()).env("USER", "me").env("TZ", "UTC");
        command
    }

    /// Runs the program to its end. No secret may ever be among what it says.
    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap_or(-1);
        let said = Said { code, out: text(output.stdout), err: text(output.stderr) };
        for secret in self.secrets() {
            assert!(
                !said.out.contains(&secret) && !said.err.contains(&secret),
                "{secret} is shown"
            );
        }
        said
    }

    /// Starts the program and does not wait for it.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs it, and it must work.
    pub fn done(&self, args: &[&str]) -> Said {
        let said = self.run(args);
        assert_eq!(said.code, 0, "{args:?}\n{}\n{}", said.out, said.err);
        said
    }

    /// The same with a variable.
    pub fn done_with(&self, args: &[&str], name: &str, value: &str) {
        let output = self.command(args).env(name, value).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Pushes image number `n` of a profile; its id.
    pub fn push(&self, profile: &str, n: u32) -> String {
        self.push_with(profile, n, K3S)
    }

    /// The same with another K3s in it.
    pub fn push_with(&self, profile: &str, n: u32, k3s: &str) -> String {
        let id = image_with(&self.root(), (profile, n), k3s).to_string();
        self.done(&["push", "--profile", profile]);
        id
    }

    /// Everything that no output, argument or file of the program's own may hold.
    pub fn secrets(&self) -> Vec<String> {
        let mut all = vec![pve_double::SECRET.to_owned()];
        let sealed = self.root().join("cluster/secrets.age");
        let key = self.place.path().join("config/node-image-builder/age.key");
        if sealed.exists() {
            let plain =
                Command::new("age").arg("-d").arg("-i").arg(key).arg(sealed).output().unwrap();
            let text = String::from_utf8(plain.stdout).unwrap();
            for line in text.lines().filter(|l| l.contains("_token") || l.contains("_key")) {
                all.extend(line.split('"').nth(1).map(str::to_owned));
            }
        }
        let store = self.api.store();
        let tokens =
            store.objects.values().filter_map(|o| o["stringData"]["token-secret"].as_str());
        all.extend(tokens.map(str::to_owned));
        all
    }

    /// Every file that the program keeps, but for the encrypted one and the keys.
    pub fn kept(&self) -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        for top in ["project", "state"] {
            walk(&self.place.path().join(top), &mut files);
        }
        files.retain(|(path, _)| !path.ends_with("secrets.age") && !path.ends_with("token"));
        files
    }

    /// As another machine, which has the project and no journals.
    pub fn forget_state(&self) {
        fs::remove_dir_all(self.place.path().join("state")).unwrap();
    }

    /// VMs that are no templates: number, name, whether it runs.
    pub fn vms(&self) -> Vec<(u32, String, bool)> {
        self.double.world(|world| {
            let vms = world.vms.iter().filter(|(_, vm)| !vm.is_template());
            vms.map(|(id, vm)| {
                (*id, vm.get("name").unwrap_or_default().to_owned(), vm.run.is_some())
            })
            .collect()
        })
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = std::time::Instant::now() + Duration::from_mins(1);
        while !holds(self) {
            assert!(std::time::Instant::now() < end, "{what} did not come");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_ready(&self, name: &str) -> bool {
        self.api.node(name).is_some_and(|node| ready(&node))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(self.nodes.take().map(JoinHandle::join));
    }
}

/// Puts a server into a home.
pub fn with_server(home: &Home) {
    home.push("master", 1);
    home.api.store().away = true;
    home.done(&["node", "create", "m1", "--bootstrap"]);
    home.until("m1 Ready", |home| home.is_ready("m1"));
}

pub fn image_of(home: &Home, name: &str) -> String {
    let node = home.api.node(name).unwrap();
    node["metadata"]["annotations"]["node.homelab/image"].as_str().unwrap().to_owned()
}

pub fn uid(home: &Home, name: &str) -> String {
    home.api.node(name).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Nothing but the VMs of nodes and the templates is left.
pub fn assert_clean(home: &Home) {
    let left = home.double.world(|world| world.leftovers());
    let found =
        Leftovers { vms: vec![], templates: vec![], images: vec![], secrets: vec![], ..left };
    assert_eq!(found, Leftovers::default());
    let store = home.api.store();
    assert!(!store.objects.keys().any(|path| path.contains("bootstrap-token-")));
    drop(store);
    let secrets = home.secrets();
    for (path, text) in home.kept() {
        let shown = secrets.iter().find(|secret| text.contains(*secret));
        assert!(shown.is_none(), "{} holds a secret", path.display());
    }
}

/// m2 and m3 beside m1, and the CA that servers ask each other for, as `--kubeconfig` would tell it.
pub fn three_servers(home: &Home) {
    let node = |n: u8| {
        format!(
            "[[node]]\nname = \"m{n}\"\nprofile = \"master\"\naddress = \"127.0.3.3{n}\"\n\
             vmid = 21{n}\nhost = \"pve1\"\n\n"
        )
    };
    home.edit("[[node]]\nname = \"w1\"", &format!("{}{}[[node]]\nname = \"w1\"", node(2), node(3)));
}

/// Writes the hash of a CA into the secrets; that hash.
pub fn know_the_ca(home: &Home) -> String {
    let hash = "ab".repeat(32);
    let editor = format!("sed -i '/^cluster_id/a ca_hash = \"{hash}\"'");
    home.done_with(&["secrets", "edit"], "EDITOR", &editor);
    hash
}

/// The preflight looks whether the NFS server and the API's port answer. Another test's process may
/// have them already, which is as good.
fn serve_home() {
    static SERVED: std::sync::Once = std::sync::Once::new();
    SERVED.call_once(|| {
        for address in ["127.0.3.2:2049", "127.0.3.20:6443"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
        }
    });
}

fn walk(folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            let bytes = fs::read(&path).unwrap();
            files.push((path, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}
