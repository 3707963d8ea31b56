//! Whole builds: equal bytes wherever they are made, nothing done twice, only what changed made
//! again, and the proof of it by `builder verify`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

use std::path::Path;
use std::time::Duration;

use e2e::lab::Product;
use e2e::run::run;
use e2e::surroundings::{ODD, User};
use e2e::{Ended, Lab, sample};
use fs_err as fs;

/// The budget of `builder` itself, whatever the size of the image.
const PEAK_KIB: u64 = 100 << 10;
/// Nothing to do takes 0.3 s on an idle machine; three times that on a busy one.
const NOTHING: Duration = Duration::from_millis(900);

fn is_within_memory(ended: &Ended) {
    println!("peak memory of builder: {} MiB, {:.1?}", ended.peak_kib >> 10, ended.time);
    assert!(ended.peak_kib > 1024, "the peak was not measured");
    assert!(ended.peak_kib <= PEAK_KIB, "builder took {} KiB", ended.peak_kib);
}

fn product(ended: &Ended) -> Product {
    Product::read(Path::new(ended.only_line().unwrap())).unwrap()
}

/// How long ago an image became the newest of its profile.
fn age(image: &Product) -> Duration {
    let manifest = fs::metadata(image.qcow2.with_extension("manifest.json")).unwrap();
    manifest.modified().unwrap().elapsed().unwrap()
}

/// One lab through the story of a working day: build, nothing, an unrelated change, a real one.
#[test]
fn only_what_changed_is_made_again() {
    let lab = Lab::warm().unwrap();
    let (ended, first) = lab.build().unwrap();
    assert_eq!(ended.made(), ["image"]);
    is_within_memory(&ended);

    let (ended, second) = lab.build().unwrap();
    println!("nothing changed: {:.3?}", ended.time);
    assert_eq!((ended.made(), &second), (vec![], &first));
    assert!(ended.time < NOTHING, "nothing to do took {:?}", ended.time);

    lab.add("README.md", "Nothing of this is in an image.\n").unwrap();
    lab.replace("cluster/cluster.toml", "vmid = 200", "vmid = 299").unwrap();
    lab.replace("cluster/cluster.toml", "\"local-lvm\"", "\"other-lvm\"").unwrap();
    lab.replace("profiles/dev.toml", "cores = 2", "cores = 3").unwrap();
    let (ended, third) = lab.build().unwrap();
    assert_eq!((ended.made(), &third), (vec![], &first), "an unrelated change made an image");

    lab.add("images/base/etc/e2e-marker", "one more file\n").unwrap();
    let (ended, changed) = lab.build().unwrap();
    assert_eq!(ended.made(), ["image"]);
    assert_ne!(changed.id, first.id);
    is_within_memory(&ended);

    fs::remove_file(lab.project.join("images/base/etc/e2e-marker")).unwrap();
    let (ended, back) = lab.build().unwrap();
    assert_eq!((ended.made(), &back), (vec![], &first));
    assert!(age(&first) < age(&changed), "`boot --profile` would take the image of before");

    fs::remove_dir_all(lab.cache.stage("tools")).unwrap();
    let (ended, back) = lab.build().unwrap();
    assert_eq!(ended.made(), ["tools"], "nothing could boot the image");
    assert_eq!(back, first);

    fs::remove_file(&first.qcow2).unwrap();
    let (_, back) = lab.build().unwrap();
    assert_eq!(back, first, "the same inputs give the same image again");
}

#[test]
fn odd_surroundings_give_the_same_bytes() {
    let lab = Lab::warm().unwrap();
    let (_, plain) = lab.build().unwrap();
    let other = if sample::is_full() { Lab::cold().unwrap() } else { Lab::warm().unwrap() };
    let ended = run(&mut ODD.image(&other, None)).unwrap().ok().unwrap();
    println!("in odd surroundings: made {:?}, {:.1?}", ended.made(), ended.time);
    assert!(product(&ended).same(&plain), "{:?} differs from {plain:?}", product(&ended));
}

/// The whole of it once more as somebody else; minutes, so only in a full run.
#[test]
fn an_ordinary_user_gives_the_same_bytes() {
    if !sample::is_full() {
        println!("builds as an ordinary user run with E2E=full");
        return;
    }
    let Some(user) = User::new().unwrap() else {
        println!("we are an ordinary user ourselves, so every build here is one");
        return;
    };
    let lab = Lab::warm().unwrap();
    let (_, plain) = lab.build().unwrap();
    let mut other = Lab::cold().unwrap();
    user.take_over(&mut other).unwrap();
    let ended = run(&mut ODD.image(&other, Some(&user))).unwrap().ok().unwrap();
    println!("as an ordinary user: made {:?}, {:.1?}", ended.made(), ended.time);
    is_within_memory(&ended);
    assert!(product(&ended).same(&plain), "{:?} differs from {plain:?}", product(&ended));
}

fn verify(lab: &Lab, image: &Product) -> (Option<i32>, serde_json::Value) {
    let path = image.qcow2.to_string_lossy().into_owned();
    let firstboot = lab.firstboot();
    let args = ["--json", "verify", &path, "--offline", "--artifact", &firstboot];
    // Made again from nothing, and in other surroundings than the image was.
    let ended = run(&mut ODD.builder(lab, &args, None)).unwrap();
    println!("verify: made {:?}, {:.1?}", ended.made(), ended.time);
    let answer = serde_json::from_str(&ended.stdout);
    (ended.code(), answer.unwrap_or_else(|e| panic!("{e}: {}", ended.stderr())))
}

/// Changes one byte of the file in the image that holds `text`, found by its content: K3s' and the
/// base's files are stored as they are.
fn flip(qcow2: &Path, text: &str) {
    let mut data = fs::read(qcow2).unwrap();
    let at = data.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    data[at] ^= 1;
    fs::write(qcow2, data).unwrap();
}

/// The image made again has the digest of the good one, so this shows both answers of `verify`;
/// a full run asks for the good answer too.
#[test]
fn verify_proves_an_image_and_names_the_first_file_that_differs() {
    let lab = Lab::warm().unwrap();
    let (_, image) = lab.build().unwrap();
    if sample::is_full() {
        let (code, answer) = verify(&lab, &image);
        assert_eq!((code, &answer["difference"]), (Some(0), &serde_json::Value::Null));
    }
    let id_line = format!("IMAGE_ID={}", image.id);
    flip(&image.qcow2, &id_line);
    let (code, answer) = verify(&lab, &image);
    assert_eq!(code, Some(1));
    assert_eq!(answer["rebuilt"], image.digests[0], "not the image that was built first");
    assert_eq!(answer["difference"], "/usr/lib/os-release");
}
