//! The built program: what it prints where, and how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken preparation ends the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fs_err as fs;

/// What a terminal is wide.
const COLUMNS: usize = 80;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn valid() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid")
}

fn builder(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_builder"))
        .args(args)
        .current_dir(folder)
        .env("COLUMNS", "80")
        .output()
        .unwrap()
}

/// Exit code, stdout and stderr.
fn run(args: &[&str], folder: &Path) -> (i32, String, String) {
    let output = builder(args, folder);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The valid project with one wrong size.
fn broken() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in [
        "images/debian-13.toml",
        "images/base/etc/motd",
        "profiles/base.toml",
        "profiles/master.toml",
        "profiles/worker.toml",
        "cluster/cluster.toml",
    ] {
        let target = dir.path().join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let text = fs::read_to_string(valid().join(file)).unwrap();
        fs::write(target, text.replace("\"8 GiB\"", "\"8GB\"")).unwrap();
    }
    dir
}

#[test]
fn help_of_every_command_fits_a_terminal() {
    let commands: [&[&str]; 36] = [
        &[],
        &["check"],
        &["schema"],
        &["lock"],
        &["fetch"],
        &["image"],
        &["boot"],
        &["verify"],
        &["preflight"],
        &["push"],
        &["node"],
        &["node", "create"],
        &["node", "delete"],
        &["node", "rebuild"],
        &["node", "rollback"],
        &["node", "enroll"],
        &["node", "fence"],
        &["rollout"],
        &["status"],
        &["history"],
        &["quarantine"],
        &["quarantine", "add"],
        &["quarantine", "lift"],
        &["bundle"],
        &["bundle", "render"],
        &["bundle", "diff"],
        &["bundle", "apply"],
        &["cache"],
        &["cache", "ls"],
        &["cache", "gc"],
        &["cluster"],
        &["cluster", "init"],
        &["secrets"],
        &["secrets", "init"],
        &["secrets", "edit"],
        &["secrets", "check"],
    ];
    for command in commands {
        for flag in ["-h", "--help"] {
            let args: Vec<_> = command.iter().copied().chain([flag]).collect();
            let (code, stdout, _) = run(&args, &shipped());
            assert_eq!(code, 0, "{args:?}");
            assert!(stdout.contains("Usage: builder"), "{stdout}");
            for line in stdout.lines() {
                assert!(line.chars().count() <= COLUMNS, "{args:?} is too wide: {line}");
            }
        }
    }
}

#[test]
fn check_of_a_sound_project_prints_no_data_and_ends_with_0() {
    let (code, stdout, stderr) = run(&["check"], &shipped());
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.starts_with("configuration is sound: "), "{stderr}");
    let (code, stdout, stderr) = run(&["check", "--json", "--quiet"], &shipped());
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "[]\n", ""));
}

#[test]
fn the_project_is_found_from_a_folder_inside_it() {
    let (code, _, stderr) = run(&["check"], &valid().join("images/base/etc"));
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        stderr,
        "there is no builder.lock yet; make it with `builder lock`\n\
         configuration is sound: 1 image, 2 profiles, 2 nodes\n"
    );
}

#[test]
fn a_wrong_configuration_is_told_once_on_stderr_with_2() {
    let dir = broken();
    let (code, stdout, stderr) = run(&["check"], dir.path());
    assert_eq!((code, stdout.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @r#"
    error: the configuration is wrong
    profiles/worker.toml:9:10: vm.memory = "8GB" must be a whole number with KiB, MiB, GiB or TiB, such as `8 GiB`
    "#);
    let (code, stdout, stderr) = run(&["check", "--json"], dir.path());
    assert_eq!((code, stderr.as_str()), (2, ""));
    insta::assert_snapshot!(stdout, @r#"
    [
      {
        "file": "profiles/worker.toml",
        "line": 9,
        "column": 10,
        "key": "vm.memory",
        "value": "\"8GB\"",
        "rule": "must be a whole number with KiB, MiB, GiB or TiB, such as `8 GiB`",
        "hint": null
      }
    ]
    "#);
}

#[test]
fn a_lock_that_is_wrong_or_older_than_its_image_is_told() {
    let dir = broken();
    let fix = |text: String| text.replace("\"8GB\"", "\"8 GiB\"");
    let worker = dir.path().join("profiles/worker.toml");
    fs::write(&worker, fix(fs::read_to_string(&worker).unwrap())).unwrap();
    let lock = dir.path().join("builder.lock");
    let old = format!(
        "schema = 1\n[[base]]\nname = \"debian-13-tools\"\nrequest = \"{:064}\"\npackages = []\n",
        0
    );
    let mut told = Vec::new();
    for text in ["schema = 1\nsize = 3\n", "schema = 1\n", &old] {
        fs::write(&lock, text).unwrap();
        let (code, stdout, stderr) = run(&["check"], dir.path());
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        told.push(stderr);
    }
    insta::assert_snapshot!(told.join("\n"), @"
    error: the configuration is wrong
    builder.lock:2:1: unknown field `size`, expected one of `schema`, `artifact`, `base`

    error: the configuration is wrong
    builder.lock: the lock has no packages for `debian-13+master`; run `builder lock --update debian-13+master`
    builder.lock: the lock has no packages for `debian-13+worker`; run `builder lock --update debian-13+worker`
    builder.lock: the lock has no packages for `debian-13-tools`; run `builder lock --update debian-13-tools`
    3 problems

    error: the configuration is wrong
    builder.lock: the lock has no packages for `debian-13+master`; run `builder lock --update debian-13+master`
    builder.lock: the lock has no packages for `debian-13+worker`; run `builder lock --update debian-13+worker`
    builder.lock: the lock is older than images/debian-13.toml: `debian-13-tools` was resolved for another list of packages or suites; run `builder lock --update debian-13-tools`
    3 problems
    ");
}

#[test]
fn no_project_is_a_usage_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(&["check"], dir.path());
    assert_eq!((code, stdout.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @"
    error: no folder with `profiles/` and `images/` here or above
      hint: go into the project, or name it with --root
    ");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["chekc"],
        &["image"],
        &["image", "--all", "--profile", "worker"],
        &["image", "--profile", "worker", "--artifact", "k3s"],
        &["boot"],
        &["boot", "x.qcow2", "--timeout", "soon"],
        &["boot", "x.qcow2", "--join", "127.0.0.1:6443"],
        &["check", "-q", "-v"],
    ];
    for args in wrong {
        let (code, stdout, stderr) = run(args, &shipped());
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains("Usage:") || stderr.contains("error:"), "{args:?}: {stderr}");
    }
}

#[test]
fn data_of_the_cache_is_json_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("tmp/half.part");
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, "half").unwrap();
    for (args, list) in [(["cache", "ls"], "entries"), (["cache", "gc"], "removed")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_builder"));
        command.args(args).arg("--json").current_dir(valid()).env("BUILDER_CACHE", dir.path());
        let output = command.output().unwrap();
        let data: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(data[list][0]["name"], "half.part", "{args:?}");
    }
    assert!(!part.exists());
}

/// A lock of these released files, each in a file of its own but for the last, which is nowhere.
fn released(folder: &Path, names: &[&str]) -> PathBuf {
    let artifact = |name: &&str| {
        let file = folder.join(name);
        if names.last() != Some(name) {
            fs::write(&file, name).unwrap();
        }
        let (url, digest) = (file.display(), node::values::Digest::of(name));
        format!(
            "[[artifact]]\nname = \"{name}\"\nkind = \"chart\"\nversion = \"1\"\nurl = \"{url}\"\n\
             sha256 = \"{digest}\"\nsource = \"this test\"\n"
        )
    };
    let text = names.iter().map(artifact).collect::<String>();
    let lock = folder.join("some.lock");
    fs::write(&lock, format!("schema = 1\n{text}")).unwrap();
    lock
}

#[test]
fn released_files_are_fetched_by_name_whatever_the_others_do() {
    let dir = tempfile::tempdir().unwrap();
    let lock = released(dir.path(), &["one", "two", "gone"]).display().to_string();
    let fetch = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_builder"));
        command.args(["fetch", "--lock", &lock]).args(args).current_dir(valid());
        let output = command.env("BUILDER_CACHE", dir.path().join("cache")).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = fetch(&["two", "one"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.ends_with("two, one are here\n"), "{stderr}");
    assert_eq!(fetch(&["--artifacts"]).0, Some(1));
    let (code, stderr) = fetch(&["three"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the lock has no artifact `three`"), "{stderr}");
}

#[test]
fn a_profile_that_is_not_there_is_told_with_the_one_that_was_meant() {
    for command in ["image", "boot", "push"] {
        let (code, stdout, stderr) = run(&[command, "--profile", "wroker"], &shipped());
        assert_eq!((code, stdout.as_str()), (2, ""), "{command}: {stderr}");
        assert!(stderr.ends_with("hint: did you mean `worker`?\n"), "{command}: {stderr}");
    }
}

#[test]
fn committed_schemas_are_those_of_the_types() {
    for kind in ["image", "profile", "cluster", "bundle", "release", "lock"] {
        let (code, stdout, stderr) = run(&["schema", kind], &shipped());
        assert_eq!(code, 0, "{stderr}");
        let file = shipped().join(format!("docs/schema/{kind}.json"));
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, stdout, "{}: write it with `builder schema {kind}`", file.display());
    }
}
