//! Builds that are stopped: killed at any point, by Ctrl-C, by a full disk, or beside another one.
//! Nothing half done may be seen, and the next build ends as if nothing had been.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use e2e::lab::{Product, names, repository, sha256};
use e2e::run::{Running, run};
use e2e::{Ended, Lab, cache, leftovers, sample};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Where a build is killed: a stage, and the share of its duration that has passed.
type Point = (&'static str, f64);

/// Before the base ends.
const BEFORE: [Point; 5] =
    [("tools", 0.5), ("base", 0.02), ("base", 0.3), ("base", 0.6), ("base", 0.95)];
/// After it: most of them where the image itself is written and moved to its place.
const AFTER: [Point; 15] = [
    ("k3s", 0.1),
    ("k3s", 0.5),
    ("k3s", 0.9),
    ("image", 0.02),
    ("image", 0.1),
    ("image", 0.2),
    ("image", 0.3),
    ("image", 0.4),
    ("image", 0.5),
    ("image", 0.6),
    ("image", 0.7),
    ("image", 0.8),
    ("image", 0.88),
    ("image", 0.94),
    ("image", 0.99),
];
/// How often a point is tried earlier when the build was faster than measured.
const TRIES: i32 = 6;

/// The image of a build that nobody disturbed, and what its cache then holds.
fn undisturbed() -> &'static (Product, Vec<String>) {
    static ONCE: OnceLock<(Product, Vec<String>)> = OnceLock::new();
    ONCE.get_or_init(|| {
        let lab = Lab::warm().unwrap();
        let (_, product) = lab.build().unwrap();
        (product, lab.cache.content().unwrap())
    })
}

/// The line after which `stage` is under way. The image has none of its own: it follows K3s.
fn begins(stage: &str, line: &str) -> bool {
    let Some((name, text)) = e2e::run::stage_line(line) else { return false };
    match stage {
        "image" => name == "k3s" && (text.starts_with("made") || text.starts_with("reused")),
        _ => name == stage && text.contains("no output for key"),
    }
}

/// How a build is stopped.
#[derive(Clone, Copy)]
enum Stop {
    /// builder alone is killed, as the kernel would when memory is short: its children are not told.
    Kill,
    /// Ctrl-C: the whole group is told at once.
    CtrlC,
}

/// Starts a build and stops it. `None` when the build was faster.
fn stopped(lab: &Lab, stop: Stop, stage: &str, after: Duration) -> Option<Ended> {
    let mut running = Running::start(interruptible(&lab.image()).process_group(0)).unwrap();
    assert!(running.wait_for(|line| begins(stage, line)).unwrap(), "{stage} never began");
    std::thread::sleep(after);
    match stop {
        Stop::Kill => running.signal(Signal::SIGKILL).unwrap(),
        // The group is there until its leader was waited for, ended or not.
        Stop::CtrlC => {
            let group = Pid::from_raw(i32::try_from(running.id()).unwrap());
            killpg(group, Signal::SIGINT).unwrap();
        }
    }
    let ended = running.end().unwrap();
    // Stopped by the signal, not by a defect of its own.
    assert!(matches!(ended.code(), None | Some(0 | 1)), "{}", ended.stderr());
    (ended.code() != Some(0)).then_some(ended)
}

/// The same command with Ctrl-C as in a terminal: what a shell starts in the background ignores it.
fn interruptible(command: &Command) -> Command {
    let mut through = Command::new("env");
    through.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => through.env(name, value),
            None => through.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        through.current_dir(folder);
    }
    through
}

/// A lab where `stage` is the first to be made, or one of the first.
fn before(stage: &str) -> Lab {
    match stage {
        "tools" | "base" => Lab::cold().unwrap(),
        _ => {
            let lab = Lab::warm().unwrap();
            if stage != "image" {
                lab.cache.forget(stage).unwrap();
            }
            lab
        }
    }
}

/// Stops a build at the point, or as near before it as the machine's speed of the moment needs.
fn stop_at(stop: Stop, (stage, share): Point) -> Lab {
    let span = cache::span(&repository().join("target/e2e-cache"), stage).unwrap();
    for halved in 0..TRIES {
        let lab = before(stage);
        let after = span.mul_f64(share / f64::from(1 << halved));
        if let Some(ended) = stopped(&lab, stop, stage, after) {
            println!("stopped in {stage} after {after:.1?}, at {:.1?} of the build", ended.time);
            return lab;
        }
    }
    panic!("no stop in {stage} at {share} came in time");
}

/// Whatever has a final name is whole, byte for byte.
fn nothing_partial_is_seen(out: &Path) {
    let (good, _) = undisturbed();
    for name in names(out).unwrap().iter().filter(|name| !name.starts_with('.')) {
        let digest = sha256(&out.join(name)).unwrap();
        assert!(good.digests.contains(&digest), "{name} is half an image");
    }
}

/// The next build gives the same image and cleans up.
fn the_next_build_is_sound(lab: &Lab) {
    let (good, content) = undisturbed();
    let (ended, product) = lab.build().unwrap();
    println!("  then made {:?}, {:.1?}", ended.made(), ended.time);
    assert!(product.same(good), "{product:?} is not {good:?}");
    assert_eq!(&lab.cache.content().unwrap(), content);
    nothing_is_left(lab);
    assert_eq!(lab.out_names().unwrap().len(), 3, "{:?}", lab.out_names());
}

fn nothing_is_left(lab: &Lab) {
    assert_eq!(leftovers::find(lab.scratch()).unwrap(), Vec::<String>::new());
    assert_eq!(lab.cache.unfinished().unwrap(), Vec::<String>::new());
}

#[test]
fn a_build_killed_before_the_base_ends() {
    undisturbed(); // which makes the warm cache, and with it the durations
    for number in sample::chosen("kill before", BEFORE.len(), 1).unwrap() {
        let lab = stop_at(Stop::Kill, BEFORE[number]);
        nothing_partial_is_seen(&lab.out);
        the_next_build_is_sound(&lab);
    }
}

#[test]
fn a_build_killed_after_the_base() {
    undisturbed();
    for number in sample::chosen("kill after", AFTER.len(), 4).unwrap() {
        let lab = stop_at(Stop::Kill, AFTER[number]);
        nothing_partial_is_seen(&lab.out);
        the_next_build_is_sound(&lab);
    }
}

/// Nothing stays after Ctrl-C but the cache, before any other build.
#[test]
fn ctrl_c_leaves_nothing_behind() {
    undisturbed();
    for point in [("base", 0.1), ("image", 0.5)] {
        let lab = stop_at(Stop::CtrlC, point);
        assert_eq!(leftovers::find(lab.scratch()).unwrap(), Vec::<String>::new());
        assert_eq!(lab.out_names().unwrap(), Vec::<String>::new());
        // Work in progress lies in the cache; whoever opens it next sweeps it.
        run(&mut lab.builder(&["cache", "ls"])).unwrap().ok().unwrap();
        assert_eq!(lab.cache.unfinished().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn two_builders_share_a_cache_and_give_the_same_image() {
    let (good, content) = undisturbed();
    let lab = Lab::warm().unwrap();
    lab.cache.forget("k3s").unwrap();
    lab.cache.forget("loader").unwrap();
    let outs = ["one", "two"].map(|name| lab.place().join(name));
    let start = |out: &PathBuf| Running::start(lab.image().arg("--out").arg(out)).unwrap();
    let running: Vec<Running> = outs.iter().map(start).collect();
    let mut made = Vec::new();
    for running in running {
        let ended = running.end().unwrap().ok().unwrap();
        assert!(Product::read(Path::new(ended.only_line().unwrap())).unwrap().same(good));
        made.extend(ended.made());
    }
    made.sort();
    assert_eq!(made, ["image", "image", "k3s", "loader"], "each stage is made once");
    assert_eq!(&lab.cache.content().unwrap(), content);
    nothing_is_left(&lab);
}

/// `builder image` where `at` is a file system of 64 MiB; on stdout what it then holds.
fn on_a_full_disk(lab: &Lab, at: &Path, prepare: &str) -> Ended {
    let script = format!(
        "mkdir -p \"$0\"; mount -t tmpfs -o size=64m tmpfs \"$0\"; {prepare}
         \"$@\"; code=$?; find \"$0\" -xdev -type f | sed \"s|$0||\"; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--map-root-user"]);
    if nix::unistd::geteuid().is_root() {
        command = Command::new("unshare");
        command.arg("--mount");
    }
    command.args(["sh", "-c", &script]).arg(at);
    let image = lab.image();
    command.arg(image.get_program()).args(image.get_args());
    lab.surround(&mut command);
    run(&mut command).unwrap()
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let lab = Lab::warm().unwrap();
    let ended = on_a_full_disk(&lab, &lab.out, "");
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr());
    assert!(ended.stderr().contains("No space left on device"), "{}", ended.stderr());
    assert!(ended.stderr().contains(&*lab.out.to_string_lossy()), "{}", ended.stderr());
    nothing_is_left(&lab);

    let cold = Lab::cold().unwrap();
    let downloads = std::fs::read_link(cold.cache.root().join("sha256")).unwrap();
    let link = format!("ln -s {} \"$0/sha256\";", downloads.display());
    let ended = on_a_full_disk(&cold, cold.cache.root(), &link);
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr());
    assert!(ended.stderr().contains("No space left on device"), "{}", ended.stderr());
    let partial = |line: &&str| line.contains("/stages/") || line.contains("/images/");
    assert_eq!(ended.stdout.lines().find(partial), None);
    assert!(!ended.stdout.contains("/tmp/") || ended.stdout.contains("/tmp/.lock"));
    assert_eq!(cold.out_names().unwrap(), Vec::<String>::new());
}

/// The bench itself: a killed program is seen as killed.
#[test]
fn a_kill_is_seen() {
    let mut running = Running::start(Command::new("sleep").arg("60")).unwrap();
    assert!(!running.has_ended().unwrap());
    kill(Pid::from_raw(i32::try_from(running.id()).unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(running.end().unwrap().code(), None);
}
