//! Machines on which nothing can be built.

use std::os::unix::fs::symlink;
use std::process::Command;

use e2e::Lab;
use e2e::run::run;
use fs_err as fs;

use super::{nothing_came_of_it, said};

/// Hardened machines mount /tmp and /dev/shm so that no program can run there.
#[test]
fn a_scratch_folder_where_no_program_may_run_is_told() {
    let lab = Lab::cold().unwrap();
    let place = lab.place().join("noexec");
    fs::create_dir(&place).unwrap();
    let mount = "mount -t tmpfs -o noexec none \"$TMPDIR\" && exec \"$@\"";
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]);
    let image = lab.image();
    inside.arg(image.get_program()).args(image.get_args());
    lab.surround(&mut inside);
    let ended = run(inside.env("TMPDIR", &place)).unwrap();
    nothing_came_of_it(&lab, &ended);
    said(&ended, &["/noexec is mounted noexec", "set TMPDIR to a folder where programs may run"]);
}

/// All that the build needs but mmdebstrap, in a folder that is the whole `PATH`.
#[test]
fn a_missing_tool_is_named_with_its_package() {
    let lab = Lab::cold().unwrap();
    let bin = lab.place().join("bin");
    fs::create_dir(&bin).unwrap();
    for name in ["sh", "dpkg-deb", "setpriv", "unshare", "apt-get", "newuidmap", "newgidmap"] {
        let found = run(Command::new("sh").args(["-c", &format!("command -v {name}")])).unwrap();
        symlink(found.stdout.trim(), bin.join(name)).unwrap();
    }
    let ended = run(lab.image().env("PATH", &bin)).unwrap();
    nothing_came_of_it(&lab, &ended);
    said(&ended, &["not in PATH, but needed to build: mmdebstrap", "apt install mmdebstrap"]);
}
