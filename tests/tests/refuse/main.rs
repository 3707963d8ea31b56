//! What `builder` is given wrongly: each ends with a message that says what to do and the right
//! exit code, makes nothing, and leaves the cache as it was. What is wrong inside one file stands
//! in `builder/tests`; here is what only a whole run shows.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

mod machine;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use e2e::run::run;
use e2e::{Ended, Lab};
use fs_err as fs;

/// One thing done wrong.
struct Case {
    /// In words.
    what: &'static str,
    /// Does it; returns the arguments of `builder`, where they are others than [`IMAGE`]'s.
    wrong: fn(&Lab) -> Vec<String>,
    /// How it ends.
    code: i32,
    /// What the message holds.
    says: &'static [&'static str],
}

const NOWHERE: &str = "http://127.0.0.1:1/";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The usual build.
fn image(lab: &Lab) -> Vec<String> {
    words(&format!("image --profile worker --offline --artifact {}", lab.firstboot()))
}

fn changed(lab: &Lab, file: &str, from: &str, to: &str) -> Vec<String> {
    lab.replace(file, from, to).unwrap();
    image(lab)
}

/// A build with a file of this lab in the place of an artifact.
fn given(name: &str, path: &Path) -> Vec<String> {
    let args = format!("image --profile worker --offline --artifact {name}={}", path.display());
    words(&args)
}

/// A value of an artifact in the lock.
fn locked(lab: &Lab, artifact: &str, key: &str) -> String {
    let text = fs::read_to_string(lab.project.join("builder.lock")).unwrap();
    let from = text.find(&format!("name = \"{artifact}\"")).unwrap();
    let line = text[from..].lines().find_map(|l| l.strip_prefix(&format!("{key} = "))).unwrap();
    line.trim_matches('"').to_owned()
}

/// Refused before any stage.
const EARLY: [Case; 17] = [
    Case {
        what: "a profile that is not there",
        wrong: |_| words("image --profile wroker"),
        code: 2,
        says: &["wroker", "did you mean `worker`?"],
    },
    Case {
        what: "a folder that is no project",
        wrong: |lab| words(&format!("--root {} image --all", lab.scratch().display())),
        code: 2,
        says: &["profiles"],
    },
    Case {
        what: "profiles that extend each other",
        wrong: |lab| changed(lab, "profiles/base.toml", "image =", "extends = \"worker\"\nimage ="),
        code: 2,
        says: &["profiles/base.toml:", "closes a loop"],
    },
    Case {
        what: "a file that is missing",
        wrong: |lab| {
            fs::remove_file(lab.project.join("cluster/cluster.toml")).unwrap();
            image(lab)
        },
        code: 2,
        says: &["cluster/cluster.toml: is missing"],
    },
    Case {
        what: "a value of the wrong type",
        wrong: |lab| changed(lab, "profiles/worker.toml", "cores = 4", "cores = \"four\""),
        code: 2,
        says: &["profiles/worker.toml:", "vm.cores = \"four\" must be a whole number"],
    },
    Case {
        what: "a network that is none",
        wrong: |lab| changed(lab, "cluster/cluster.toml", "10.42.0.0/16", "10.42.0.1/16"),
        code: 2,
        says: &["cluster/cluster.toml:", "has host bits set"],
    },
    Case {
        what: "an address given twice",
        wrong: |lab| changed(lab, "cluster/cluster.toml", "192.168.2.22", "192.168.2.21"),
        code: 2,
        says: &["cluster/cluster.toml:", "is also node[1].address in line"],
    },
    Case {
        what: "no lock",
        wrong: |lab| {
            fs::remove_file(lab.project.join("builder.lock")).unwrap();
            image(lab)
        },
        code: 1,
        says: &["no lock at", "make it with `builder lock`"],
    },
    Case {
        what: "a lock older than the image's package list",
        wrong: |lab| {
            changed(lab, "images/debian-13.toml", "[packages]", "[packages]\njq = \"reads JSON\"")
        },
        code: 1,
        says: &["the lock is older than", "run `builder lock --update debian-13`"],
    },
    Case {
        what: "a package that does not exist",
        wrong: |lab| {
            let made_up = "[packages]\nopenssh-servr = \"is a slip\"";
            lab.replace("images/debian-13.toml", "[packages]", made_up).unwrap();
            words("lock --update debian-13")
        },
        code: 1,
        says: &["there is no package `openssh-servr`", "did you mean `openssh-server`?"],
    },
    Case {
        what: "a mirror that cannot be reached, for a lock",
        wrong: |_| {
            let at = "--mirror debian=XX --mirror debian-security=XX";
            words(&format!("lock --update debian-13 {at}").replace("XX", NOWHERE))
        },
        code: 1,
        says: &["127.0.0.1:1"],
    },
    Case {
        what: "an artifact that is not the locked one",
        wrong: |lab| given("k3s", &lab.programs.firstboot),
        code: 1,
        says: &["its SHA-256 is", "the lock has", "--standin k3s=PATH"],
    },
    Case {
        what: "an artifact that is not there",
        wrong: |lab| given("k3s", &lab.place().join("k3s")),
        code: 1,
        says: &["/k3s"],
    },
    Case {
        what: "a firstboot that is not there",
        wrong: |lab| given("firstboot", &lab.place().join("firstboot")),
        code: 1,
        says: &["/firstboot"],
    },
    Case {
        what: "a lock that is no lock",
        wrong: |lab| changed(lab, "builder.lock", "schema = 1", "schema = 9"),
        code: 2,
        says: &["builder.lock", "schema"],
    },
    Case {
        what: "a cache in a place that cannot be",
        wrong: |lab| {
            fs::write(lab.cache.root().join("file"), "").unwrap();
            image(lab)
        },
        code: 1,
        says: &["failed to make the cache folder", "BUILDER_CACHE"],
    },
    Case {
        what: "a tree that is not there",
        wrong: |lab| changed(lab, "profiles/dev.toml", "[\"dev\"]", "[\"nothing\"]"),
        code: 2,
        says: &["profiles/dev.toml:", "nothing"],
    },
];

/// Refused by the last stage, where the whole content is known.
const LATE: [Case; 5] = [
    Case {
        what: "a disk smaller than its content",
        wrong: |lab| {
            // A profile gives at least 8 GiB, so the container images are made larger: all holes.
            let digest = locked(lab, "k3s-airgap-images", "sha256");
            let size = locked(lab, "k3s-airgap-images", "size");
            let other = "5".repeat(64);
            lab.replace("builder.lock", &digest, &other).unwrap();
            lab.replace("builder.lock", &format!("size = {size}"), "size = 8589934592").unwrap();
            lab.cache.own_downloads().unwrap();
            let object = lab.cache.object(&other);
            fs::create_dir_all(object.parent().unwrap()).unwrap();
            fs::File::create(object).unwrap().set_len(8 << 30).unwrap();
            changed(lab, "profiles/worker.toml", "\"50 GiB\"", "\"8 GiB\"")
        },
        code: 1,
        says: &["the image needs a disk of 1", "gives its VMs 8 GiB; raise `vm.disk`"],
    },
    Case {
        what: "a firstboot that needs the host's libraries",
        wrong: |lab| given("firstboot", &lab.programs.builder),
        code: 1,
        says: &["is linked dynamically", "just firstboot"],
    },
    Case {
        what: "a file below a folder that is a link in every image",
        wrong: |lab| {
            lab.add("images/base/lib/e2e", "x").unwrap();
            image(lab)
        },
        code: 1,
        says: &["`lib/e2e` lies below a link: write `usr/lib/e2e`"],
    },
    Case {
        what: "a link out of the image",
        wrong: |lab| {
            symlink("../../../etc/shadow", lab.project.join("images/base/etc/e2e")).unwrap();
            image(lab)
        },
        code: 1,
        says: &["`etc/e2e` is a link out of the image's root: ../../../etc/shadow"],
    },
    Case {
        what: "a template that names what is not there",
        wrong: |lab| {
            lab.add("images/base/etc/e2e.tera", "line\n{{ clustr.name }}\n").unwrap();
            image(lab)
        },
        code: 1,
        says: &["images/base/etc/e2e.tera", "clustr"],
    },
];

fn said(ended: &Ended, says: &[&str]) {
    for part in says {
        assert!(ended.stderr().contains(part), "`{part}` is not in: {}", ended.stderr());
    }
}

fn refused(case: &Case, lab: &Lab) {
    let args = (case.wrong)(lab);
    let before = lab.cache.content().unwrap();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = lab.builder(&args);
    if lab.cache.root().join("file").exists() {
        command.env("BUILDER_CACHE", lab.cache.root().join("file"));
    }
    let ended = run(&mut command).unwrap();
    println!("{}: {:.1?}", case.what, ended.time);
    assert_eq!(ended.code(), Some(case.code), "{}: {}", case.what, ended.stderr());
    said(&ended, case.says);
    assert_eq!(ended.stdout, "", "{}", case.what);
    assert_eq!(lab.out_names().unwrap(), Vec::<String>::new(), "{}", case.what);
    assert_eq!(lab.cache.content().unwrap(), before, "{}", case.what);
    assert_eq!(lab.cache.unfinished().unwrap(), Vec::<String>::new(), "{}", case.what);
}

#[test]
fn what_is_wrong_from_the_start_is_refused_before_any_work() {
    for case in &EARLY {
        refused(case, &Lab::cold().unwrap());
    }
}

#[test]
fn what_the_last_stage_finds_makes_no_image() {
    for case in &LATE {
        refused(case, &Lab::warm().unwrap());
    }
}

/// A file of the cache by the package it is, in a cache of its own.
fn package(lab: &Lab, name: &str) -> PathBuf {
    lab.cache.own_downloads().unwrap();
    let text = fs::read_to_string(lab.project.join("builder.lock")).unwrap();
    let line = text.lines().find(|l| l.contains(&format!("{{ name = \"{name}\","))).unwrap();
    let digest = line.split("sha256 = \"").nth(1).unwrap();
    lab.cache.object(&digest[..64])
}

fn nothing_came_of_it(lab: &Lab, ended: &Ended) {
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(1), ""), "{}", ended.stderr());
    assert_eq!(lab.out_names().unwrap(), Vec::<String>::new());
    assert_eq!(lab.cache.unfinished().unwrap(), Vec::<String>::new());
}

/// In the tools tree, whose stage comes first. Files are replaced, never written to: they are links
/// to the machine's downloads.
#[test]
fn a_damaged_download_is_named_and_removed() {
    let lab = Lab::cold().unwrap();
    let object = package(&lab, "mtools");
    let mut data = fs::read(&object).unwrap();
    let middle = data.len() / 2;
    data[middle..middle + 64].fill(0);
    fs::remove_file(&object).unwrap();
    fs::write(&object, data).unwrap();
    let ended = run(&mut lab.image()).unwrap();
    nothing_came_of_it(&lab, &ended);
    said(&ended, &["damaged in the cache, and removed from it: mtools 4.", "run this again"]);
    assert!(!object.exists());
}

/// A file that was cut short is fetched again; from nowhere it cannot be, which is said.
#[test]
fn a_download_cut_short_counts_as_missing() {
    let lab = Lab::cold().unwrap();
    let object = package(&lab, "mtools");
    let data = fs::read(&object).unwrap();
    let nowhere = format!(
        "fetch --packages --deadline 3s --mirror debian={NOWHERE} --mirror debian-security={NOWHERE}"
    );
    for (args, says) in [
        (image(&lab), "offline, but 1 file is not in the cache: mtools 4."),
        (words(&nowhere), "failed to fetch mtools"),
    ] {
        let _ = fs::remove_file(&object); // gone already after the first round
        fs::write(&object, &data[..data.len() / 2]).unwrap();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ended = run(&mut lab.builder(&args)).unwrap();
        println!("{says}: {:.1?}", ended.time);
        nothing_came_of_it(&lab, &ended);
        said(&ended, &[says]);
    }
}
