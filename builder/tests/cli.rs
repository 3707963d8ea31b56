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
fn help_of_every_command_fits_a_terminal_and_says_something() {
    let commands: [&[&str]; 10] = [
        &[],
        &["check"],
        &["schema"],
        &["lock"],
        &["image"],
        &["boot"],
        &["verify"],
        &["cache"],
        &["cache", "ls"],
        &["cache", "gc"],
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
            // A flag without a sentence shows as a line that ends with its name.
            let bare = |line: &&str| line.trim_start().starts_with("--") && !line.contains("  ");
            let bare: Vec<_> = stdout.lines().filter(bare).collect();
            assert!(flag == "--help" || bare.iter().all(|l| l.trim().ends_with('>')), "{bare:?}");
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
    assert_eq!(stderr, "configuration is sound: 1 images, 2 profiles, 2 nodes\n");
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
fn committed_schemas_are_those_of_the_types() {
    for kind in ["image", "profile", "cluster"] {
        let (code, stdout, stderr) = run(&["schema", kind], &shipped());
        assert_eq!(code, 0, "{stderr}");
        let file = shipped().join(format!("docs/schema/{kind}.json"));
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text, stdout, "{}: write it with `builder schema {kind}`", file.display());
    }
}
