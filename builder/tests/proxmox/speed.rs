//! How fast an upload is beside curl's to the same server, and how much memory it takes. Slow, so it
//! is run by `just bench-builder` only.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use pve_double::{Double, Pace, Setup};

use crate::project::{image, write};

/// As large as an image of today.
const MIB: u64 = 614;
const ROUNDS: usize = 3;

/// Lets the image's file grow to [`MIB`], with its manifest and verdict beside it.
fn grown(root: &Path) -> std::path::PathBuf {
    let id = image(root, "worker", 1);
    let file = root.join(format!("out/{id}.qcow2"));
    let before = node::values::Digest::of(fs::read(&file).unwrap());
    let old = fs::metadata(&file).unwrap().len();
    let mut to = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let mut block = vec![0u8; 1 << 20];
    for n in 0..MIB {
        // Not all zeros: nothing on the way may compress or skip it.
        block.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u64 * 31 + n * 7) as u8);
        to.write_all(&block).unwrap();
    }
    drop(to);
    let (after, bytes) = builder::store::hash_file(&file).unwrap();
    let paths =
        [root.join(format!("out/{id}.manifest.json")), builder::boot::verdict::path_for(&file)];
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace(&before.to_string(), &after.to_string());
        let text = text.replace(&format!("\"bytes\": {old}"), &format!("\"bytes\": {bytes}"));
        fs::write(&path, text).unwrap();
    }
    file
}

/// Seconds of curl's upload, with the same fields.
fn curl(root: &Path, double: &Double, file: &Path) -> Duration {
    let sum = builder::store::hash_file(file).unwrap().0;
    let start = Instant::now();
    let status = Command::new("curl")
        .args(["--silent", "--fail", "--http1.1", "--output", "/dev/null", "--cacert"])
        .arg(root.join("ca.pem"))
        .args(["-H", "Expect:", "-H", &format!("Authorization: PVEAPIToken={}", double.token())])
        .args(["-F", "content=import", "-F", "checksum-algorithm=sha256"])
        .args(["-F", &format!("checksum={sum}")])
        .args(["-F", &format!("filename=@{};filename=curl.qcow2", file.display())])
        .arg(format!("{}/api2/json/nodes/pve1/storage/local/upload", double.url()))
        .status()
        .unwrap();
    assert!(status.success());
    start.elapsed()
}

/// Seconds of the sending alone, as `builder` tells them: curl does not wait for the host's checksum
/// and copy either. And the peak of memory in KiB.
fn push(root: &Path) -> (f64, u64) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_builder"))
        .args(["push", "--profile", "worker", "--root"])
        .arg(root)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(now.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut text).unwrap();
    let seconds = text.lines().find_map(|line| line.split_once(" MiB in ")?.1.split_once(" s,"));
    (seconds.unwrap_or_else(|| panic!("{text}")).0.parse().unwrap(), peak)
}

#[test]
#[ignore = "a benchmark of a minute; `just bench-builder` runs it"]
fn bench_an_upload_is_nearly_as_fast_as_curls_and_takes_little_memory() {
    let (mut own, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let double = Double::start(Setup { pace: Pace::Real(100), ..Setup::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &double);
        let file = grown(dir.path());
        theirs.push(curl(dir.path(), &double, &file).as_secs_f64());
        let (seconds, kib) = push(dir.path());
        own.push(seconds);
        peak = peak.max(kib);
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (own, theirs) = (median(&mut own), median(&mut theirs));
    println!(
        "bench: upload of an image beside curl: {:.0} % of curl's speed ({MIB} MiB in {own:.2} s, curl \
         {theirs:.2} s)",
        theirs / own * 100.0
    );
    println!("bench: peak memory of an upload: {} MiB", peak >> 10);
    assert!(own <= theirs / 0.8, "slower than 80 % of curl");
    assert!(peak <= 64 << 10, "more than 64 MiB");
}
