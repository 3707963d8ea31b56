//! No secret gets into an image: not one that lies in the project, not one that is only around the
//! build. The secrets here are made when the test runs; the repository holds none.

#![allow(clippy::unwrap_used, reason = "a broken preparation ends the test")]

use std::io::Read as _;
use std::path::Path;

use e2e::Lab;
use e2e::run::run;
use fs_err as fs;
use node::command::Run as _;
use node::values::Digest;

/// A private key as OpenSSH writes it.
fn private_key(lab: &Lab) -> String {
    let path = lab.place().join("key");
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "canary", "-f"]).arg(&path).run().unwrap();
    fs::read_to_string(path).unwrap()
}

/// Looks like a K3s token, belongs to no cluster, and is another one in every run.
fn token() -> String {
    let nonce = format!("{} {:?}", std::process::id(), std::time::SystemTime::now());
    let digest = Digest::of(nonce).to_string();
    format!("K10{digest}::server:{}", &digest[..32])
}

fn holds(file: &Path, text: &str) -> bool {
    let mut file = fs::File::open(file).unwrap();
    let mut window = Vec::new();
    loop {
        let read = (&mut file).take(4 << 20).read_to_end(&mut window).unwrap();
        if window.windows(text.len()).any(|w| w == text.as_bytes()) {
            return true;
        }
        if read == 0 {
            return false;
        }
        window.drain(..window.len() - text.len().min(window.len()));
    }
}

#[test]
fn a_secret_in_the_project_stops_the_build_and_is_never_shown() {
    let lab = Lab::warm().unwrap();
    let (key, token) = (private_key(&lab), token());
    lab.add("images/base/etc/ssl/e2e.pem", &key).unwrap();
    lab.add("images/agent/etc/e2e.conf", &format!("server = here\ntoken = {token}\n")).unwrap();
    // What a template brings in counts as well.
    lab.add("images/base/etc/e2e.yaml.tera", &format!("a: {{{{ cluster.name }}}}\nb: {token}\n"))
        .unwrap();
    let ended = run(lab.image().args(["-vv"])).unwrap();
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr());
    for finding in
        ["etc/ssl/e2e.pem: private key", "etc/e2e.conf: K3s token", "etc/e2e.yaml: K3s token"]
    {
        assert!(ended.stderr().contains(finding), "{finding} is not in: {}", ended.stderr());
    }
    let secret_lines = key.lines().filter(|line| !line.starts_with("-----"));
    for secret in secret_lines.chain([token.as_str()]) {
        assert!(!ended.stderr().contains(secret), "the secret itself is shown");
    }
    assert_eq!(lab.out_names().unwrap(), Vec::<String>::new());
}

#[test]
fn a_secret_around_the_build_is_not_in_its_image() {
    let lab = Lab::warm().unwrap();
    let token = token();
    fs::write(lab.place().join("token"), &token).unwrap();
    lab.add("token", &token).unwrap();
    lab.add("cluster/token", &token).unwrap();
    let mut command = lab.image();
    command.env("HOME", lab.place()).env("K3S_TOKEN", &token).env("E2E_CANARY", &token);
    lab.cache.forget("k3s").unwrap(); // K3s runs in the build, and must not see it either
    let ended = run(&mut command).unwrap().ok().unwrap();
    let image = Path::new(ended.only_line().unwrap());
    assert!(!holds(image, &token));
    // The search itself: the image's name stands in it.
    let id = image.file_stem().unwrap().to_string_lossy().into_owned();
    assert!(holds(image, &format!("IMAGE_ID={id}")));
}
