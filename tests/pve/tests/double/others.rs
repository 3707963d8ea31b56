//! The same life by proxmoxer, which others wrote: so that the double is not fitted to our client alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use pve_double::{Double, Leftovers, Pace, SECRET, Setup};
use serde_json::{Value, json};

/// A Python environment below `target/` with what `requirements.txt` names, made once.
fn python() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wanted = fs_err::read_to_string(here.join("others/requirements.txt")).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("proxmoxer");
    let (python, stamp) = (folder.join("bin/python"), folder.join("requirements"));
    if fs_err::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return python;
    }
    run(
        Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
        "python3-venv is missing?",
    );
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(
        Command::new(&python).args(pip).arg(here.join("others/requirements.txt")),
        "PyPI cannot be reached?",
    );
    fs_err::write(stamp, wanted).unwrap();
    python
}

fn run(command: &mut Command, guess: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{guess} {command:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn proxmoxer_lives_a_whole_life_on_the_double() {
    let python = python();
    let double = Double::start(Setup { pace: Pace::Step(500), ..Setup::default() }).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    fs_err::write(ca.path(), double.ca_pem()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/others/life.py");
    let mut command = Command::new(python);
    command.arg(script).env("PVE_PORT", double.port().to_string()).env("PVE_CA", ca.path());
    command.env("PVE_USER", "builder@pve").env("PVE_TOKEN", "ci").env("PVE_SECRET", SECRET);
    let seen: Value = serde_json::from_str(&run(&mut command, "proxmoxer failed:")).unwrap();
    assert_eq!(seen["version"], "9.2");
    assert_eq!(seen["next"], "100");
    assert_eq!(seen["images"], json!(["local:import/node.qcow2"]));
    assert_eq!(
        seen["config"],
        json!({"name": "w1", "tags": "img-1;k3s", "memory": "1024", "ciupgrade": 0})
    );
    for (what, status, text) in [
        ("twice", 500, "you can't convert a template to a template"),
        ("no pool", 403, "Permission check failed"),
        ("no bool", 403, "Permission check failed"),
        ("agent off", 500, "VM 101 is not running"),
        ("delete running", 500, "VM 101 is running - destroy failed"),
    ] {
        assert_eq!(seen[what][0], status, "{what}: {seen}");
        assert!(seen[what][1].as_str().unwrap().contains(text), "{what}: {seen}");
    }
    assert_eq!(seen["running"], "running");
    assert_eq!(double.world(|world| world.leftovers()), Leftovers::default());
    double.finish().unwrap();
}
