//! The program itself: what it prints, and how it ends.

use std::path::Path;
use std::process::Command;

use fs_err as fs;
use pve_double::{Double, Pace, Setup};

use crate::project::{image, write};

/// Fast enough that no poll waits, and no test.
fn quick() -> Setup {
    Setup { pace: Pace::Real(100), ..Setup::default() }
}

/// Exit status, stdout, stderr; what differs from run to run is hidden.
fn run(root: &Path, double: &Double, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_builder"))
        .args(args)
        .arg("--root")
        .arg(root)
        .env_remove("BUILDER_PROXMOX_TOKEN")
        .output()
        .unwrap();
    let hide = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        let text = text.replace(&double.url(), "https://pve1:8006");
        let text = text.replace(root.to_str().unwrap(), "PROJECT");
        let text = text.replace(double.fingerprint(), "FOUND");
        assert!(!text.contains("00000000-0000-4000"), "the token's secret is shown: {text}");
        regex::Regex::new(r"in [0-9.]+ s").unwrap().replace_all(&text, "in … s").into_owned()
    };
    (output.status.code().unwrap(), hide(output.stdout), hide(output.stderr))
}

fn site(setup: Setup) -> (Double, tempfile::TempDir) {
    let double = Double::start(setup).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &double);
    (double, folder)
}

/// Changes one line of the cluster's file.
fn edit(root: &Path, from: &str, to: &str) {
    let path = root.join("cluster/cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn writes(double: &Double) -> Vec<String> {
    let seen = double.world(|world| world.seen.clone());
    seen.into_iter().map(|s| s.on).filter(|on| !on.starts_with("GET")).collect()
}

#[test]
fn a_push_tells_its_steps_and_the_second_that_there_is_nothing_to_do() {
    let (double, dir) = site(quick());
    image(dir.path(), "worker", 1);
    let first = run(dir.path(), &double, &["push", "--profile", "worker"]);
    let second = run(dir.path(), &double, &["push", "--profile", "worker", "--json"]);
    let text = |(code, out, err): (i32, String, String)| format!("{code}\n{out}---\n{err}");
    insta::assert_snapshot!(format!("{}\n\n{}", text(first), text(second)));
}

#[test]
fn a_sound_proxmox_has_no_problem_but_for_what_is_not_there_yet() {
    let (double, dir) = site(quick());
    let (code, out, err) = run(dir.path(), &double, &["preflight"]);
    insta::assert_snapshot!(format!("{code}\n{out}---\n{err}"));
    assert_eq!(writes(&double), Vec::<String>::new());
}

type Spoil = fn(&mut Setup);
type Edit = (&'static str, &'static str);

/// Whatever the preflight finds stops a push, and nothing is changed.
#[test]
fn every_problem_is_told_with_its_fix_and_nothing_is_changed() {
    let none = ("lab", "lab");
    let cases: [(&str, Spoil, Edit); 13] = [
        ("wrong token", |s| s.tokens[0].secret = "other".into(), none),
        ("expired token", |s| s.tokens[0].expired = true, none),
        ("old version", |s| s.version = "8.3.5".into(), none),
        ("unknown host", |_| (), ("vmid = 201\nhost = \"pve1\"", "vmid = 201\nhost = \"pve7\"")),
        ("host offline", |s| s.nodes.get_mut("pve1").unwrap().online = false, none),
        ("no rights on the pool", |s| s.acl.retain(|acl| !acl.path.starts_with("/pool")), none),
        ("a privilege less", less, none),
        (
            "no import",
            |s| s.storages.get_mut("local").unwrap().content.retain(|c| c != "import"),
            none,
        ),
        ("unknown storage", |_| (), ("\"disks\"", "\"diks\"")),
        ("storage off", |s| s.storages.get_mut("disks").unwrap().enabled = false, none),
        ("little space", |s| s.storages.get_mut("local").unwrap().total = 1 << 20, none),
        ("little space for a whole disk", thick, none),
        ("untrusted CA", |_| (), ("ca_file = \"ca.pem\"", "fingerprints = [\"FINGER\"]")),
    ];
    let mut told = Vec::new();
    for (name, spoil, (from, to)) in cases {
        let mut setup = quick();
        spoil(&mut setup);
        let good = Setup::default().tokens[0].secret.clone();
        let (double, dir) = site(setup);
        if name == "wrong token" {
            fs::write(dir.path().join("token"), format!("builder@pve!ci={good}")).unwrap();
        }
        edit(dir.path(), from, &to.replace("FINGER", &"AB:".repeat(32)[..95]));
        image(dir.path(), "worker", 1);
        let (code, out, err) = run(dir.path(), &double, &["push", "--profile", "worker"]);
        assert!(code == 1 || code == 2, "{name}: {code} {err}");
        assert_eq!(out, "", "{name}");
        assert_eq!(writes(&double), Vec::<String>::new(), "{name}");
        let left = double.world(|world| world.leftovers());
        assert_eq!(left, pve_double::Leftovers::default(), "{name}");
        told.push(format!("## {name}: {code}\n{err}"));
    }
    insta::assert_snapshot!(told.join("\n"));
}

/// LVM without thin pools takes the profile's 32 GiB at once.
fn thick(setup: &mut Setup) {
    let disks = setup.storages.get_mut("disks").unwrap();
    (disks.kind, disks.total) = (pve_double::StorageKind::Lvm, 20 << 30);
}

fn less(setup: &mut Setup) {
    for acl in setup.acl.iter_mut().filter(|acl| acl.path.starts_with("/pool")) {
        acl.privileges.remove("VM.Config.Cloudinit");
    }
}

#[test]
fn an_image_that_is_not_tested_or_not_the_tested_one_is_refused() {
    let (double, dir) = site(quick());
    let root = dir.path();
    let push = || run(root, &double, &["push", "--profile", "worker"]);
    let mut told = vec![push().2];
    let id = image(root, "worker", 1);
    let file = root.join(format!("out/{id}.qcow2"));
    let verdict = builder::boot::verdict::path_for(&file);
    let text = fs::read_to_string(&verdict).unwrap();
    fs::remove_file(&verdict).unwrap();
    told.push(push().2);
    fs::write(&verdict, text.replace("\"ready\"", "\"waiting\"")).unwrap();
    told.push(push().2);
    fs::write(&verdict, &text).unwrap();
    fs::write(&file, "other").unwrap();
    told.push(push().2);
    let told = told.join("\n").replace(&id.to_string(), "IMAGE-ID");
    let digests = regex::Regex::new("[0-9a-f]{64}").unwrap();
    insta::assert_snapshot!(digests.replace_all(&told, "DIGEST"));
    assert_eq!(double.world(|world| world.seen.len()), 0, "Proxmox is not even asked");
}

#[test]
fn without_a_token_or_a_server_it_says_what_to_do() {
    let (double, dir) = site(quick());
    let url = double.url();
    edit(dir.path(), "token_file", "# token_file");
    let mut told = vec![run(dir.path(), &double, &["preflight"]).2];
    edit(dir.path(), "# token_file", "token_file");
    edit(dir.path(), &url, "https://127.0.0.1:1");
    let started = std::time::Instant::now();
    told.push(run(dir.path(), &double, &["preflight"]).1);
    println!("gave up on a closed port after {:.0} s", started.elapsed().as_secs_f64());
    insta::assert_snapshot!(told.join("\n"));
}

/// Trap P12: a template on a disk that only one host has can be cloned on that host alone.
#[test]
fn each_host_with_a_node_of_the_profile_gets_a_template_of_its_own() {
    let mut setup = quick();
    setup.nodes.insert("pve2".to_owned(), pve_double::NodeSetup::default());
    let (double, dir) = site(setup);
    let path = dir.path().join("cluster/cluster.toml");
    let text = fs::read_to_string(&path).unwrap();
    let other = "\n[[node]]\nname = \"w2\"\nprofile = \"worker\"\naddress = \"127.0.2.22\"\n\
                 vmid = 202\nhost = \"pve2\"\n";
    fs::write(path, text + other).unwrap();
    let id = image(dir.path(), "worker", 1);
    let (code, out, err) = run(dir.path(), &double, &["push", "--profile", "worker"]);
    assert_eq!((code, out.as_str()), (0, "pve1 9000\npve2 9001\n"), "{err}");
    let places = double.world(|world| {
        let one = |vm: &pve_double::Vm| (vm.node.clone(), vm.config.get("name").cloned());
        world.vms.values().map(one).collect::<Vec<_>>()
    });
    let name = Some(id.to_string());
    assert_eq!(places, [("pve1".to_owned(), name.clone()), ("pve2".to_owned(), name)]);
}
