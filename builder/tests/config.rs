//! The configuration as whole projects: one folder per broken rule with its message as a
//! snapshot, resolved profiles against golden files, and sets of problems told all together.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a broken preparation ends the test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use builder::config::{Problems, Project};
use fs_err as fs;
use proptest::prelude::*;
use tempfile::TempDir;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Copies `from` over `to`. `NAME.removed` removes NAME; `.empty` makes a folder git cannot hold.
fn overlay(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let target = to.join(&name);
        if let Some(gone) = name.strip_suffix(".removed") {
            let gone = to.join(gone);
            if gone.is_dir() { fs::remove_dir_all(gone) } else { fs::remove_file(gone) }.unwrap();
        } else if entry.path().is_dir() {
            overlay(&entry.path(), &target);
        } else if name != ".empty" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The valid project in a folder of its own.
fn project() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    overlay(&here().join("valid"), dir.path());
    dir
}

/// Replaces the first `from` in a file of the project.
fn edit(root: &Path, file: &str, from: &str, to: &str) {
    let path = root.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn problems(root: &Path) -> Problems {
    Project::load(root).expect_err("the project must be refused")
}

#[test]
fn every_broken_rule_has_its_message() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/messages");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut count = 0;
    for entry in fs::read_dir(here().join("invalid")).unwrap() {
        let entry = entry.unwrap();
        let dir = project();
        overlay(&entry.path(), dir.path());
        let text = problems(dir.path()).to_string();
        let rule = entry.file_name().into_string().unwrap();
        settings.bind(|| insta::assert_snapshot!(rule, text));
        count += 1;
    }
    let messages = fs::read_dir(here().join("messages")).unwrap().count();
    assert_eq!(count, messages, "a message without its fixture");
}

#[test]
fn the_valid_project_and_the_shipped_one_have_no_problem() {
    for root in [here().join("valid"), shipped()] {
        if let Err(problems) = Project::load(&root) {
            panic!("{}:\n{problems}", root.display());
        }
    }
}

/// `UPDATE_GOLDEN=1` writes the files anew; that run fails, so that it cannot be left on.
#[test]
fn resolved_profiles_are_the_golden_ones() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut names = BTreeSet::new();
    for (prefix, root) in [("valid", here().join("valid")), ("shipped", shipped())] {
        for (name, profile) in &Project::load(&root).unwrap().profiles {
            let file = here().join(format!("golden/{prefix}-{name}.json"));
            let json = profile.resolved_json().unwrap() + "\n";
            if update {
                fs::write(&file, &json).unwrap();
            }
            assert_eq!(fs::read_to_string(&file).unwrap_or_default(), json, "{}", file.display());
            names.insert(format!("{prefix}-{name}.json"));
        }
    }
    let golden = fs::read_dir(here().join("golden")).unwrap();
    let golden: BTreeSet<_> =
        golden.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(golden, names, "a golden file without its profile");
    assert!(!update, "golden files written; look at them and run again without UPDATE_GOLDEN");
}

#[test]
fn a_node_has_the_size_of_its_profile_but_for_what_it_says_itself() {
    let project = Project::load(&here().join("valid")).unwrap();
    let sizes = project
        .cluster
        .nodes
        .iter()
        .map(|n| format!("{}: {} cores, {}, {}", n.name, n.vm.cores, n.vm.memory, n.vm.disk));
    assert_eq!(
        sizes.collect::<Vec<_>>(),
        ["m1: 2 cores, 4 GiB, 32 GiB", "w1: 4 cores, 16 GiB, 32 GiB"]
    );
    assert_eq!(project.cluster.network.cidr.to_string(), "192.168.2.0/24");
    assert_eq!(project.cluster.network.nameservers, [project.cluster.network.gateway]);
}

#[test]
fn a_virtual_api_address_is_good_when_it_is_free() {
    let dir = project();
    let virtual_api = "api = \"192.168.2.30\"\napi_is_virtual = true";
    edit(dir.path(), "cluster/cluster.toml", "api = \"192.168.2.20\"", virtual_api);
    assert!(Project::load(dir.path()).unwrap().cluster.api_is_virtual);
}

#[test]
fn an_unknown_profile_names_the_nearest() {
    let project = Project::load(&here().join("valid")).unwrap();
    let text = project.profile("wroker").unwrap_err().to_string();
    assert_eq!(text, "unknown profile `wroker`\n  hint: did you mean `worker`?");
    assert_eq!(project.profile("worker").unwrap().name.as_str(), "worker");
}

/// Edits that each make one problem, at the file and key named, whatever else is wrong.
const EDITS: [(&str, &str, &str, &str); 14] = [
    ("profiles/worker.toml", "cores = 4", "coers = 4", "vm.coers"),
    ("profiles/worker.toml", "memory = \"8 GiB\"", "memory = 8", "vm.memory"),
    ("profiles/worker.toml", "= \"general\"", "= \"a b\"", "k3s.labels.\"home/class\""),
    ("profiles/worker.toml", "common = \"mounts\"", "common = \"\"", "packages.nfs-common"),
    ("profiles/master.toml", "\"updates\"", "\"upadtes\"", "upgrades.origins[1]"),
    ("profiles/base.toml", "disk = \"32 GiB\"", "disk = \"1 GiB\"", "vm.disk"),
    ("profiles/base.toml", "max-pods", "Max-pods", "k3s.kubelet.Max-pods"),
    ("images/debian-13.toml", "tree = [\"base\"]", "tree = [\"x\"]", "tree[0]"),
    ("images/debian-13.toml", "suite = \"trixie\"\n", "", "suite"),
    ("cluster/cluster.toml", "domain = \"lab.", "domain = \".", "domain"),
    ("cluster/cluster.toml", "export = \"/", "export = \"", "nfs.data.export"),
    ("cluster/cluster.toml", "vmid = 201", "vmid = true", "node[1].vmid"),
    ("cluster/cluster.toml", "cluster_dns = \"10.43", "cluster_dns = \"10.44", "k3s.cluster_dns"),
    ("cluster/cluster.toml", "\"192.168.2.21\"", "\"10.0.0.1\"", "node[1].address"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_problem_of_any_set_is_told(chosen in 1u32..1 << EDITS.len()) {
        let dir = project();
        let mut expected = BTreeSet::new();
        for (n, (file, from, to, key)) in EDITS.iter().enumerate() {
            if chosen & (1 << n) != 0 {
                edit(dir.path(), file, from, to);
                expected.insert((*file, *key));
            }
        }
        let problems = problems(dir.path());
        let list = problems.list();
        let told: BTreeSet<_> = list.iter().map(|p| (p.file.as_str(), p.key.as_str())).collect();
        prop_assert_eq!(&told, &expected, "{}", problems);
        prop_assert!(list.is_sorted_by_key(|p| (&p.file, p.line, p.column)));
    }

    #[test]
    fn no_file_makes_the_reader_panic(
        file in prop::sample::select(vec!["profiles/worker.toml", "cluster/cluster.toml"]),
        at in 0usize..800,
        junk in "[\\[\\]{}=\"#.,a-z0-9\\n é-]{0,12}",
    ) {
        let dir = project();
        let path = dir.path().join(file);
        let mut text = fs::read_to_string(&path).unwrap();
        let at = at.min(text.len());
        text.insert_str(at, &junk);
        fs::write(&path, &text).unwrap();
        if let Err(problems) = Project::load(dir.path()) {
            let lines = text.split('\n').count();
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.list().iter().all(|p| p.file != file || p.line <= lines));
        }
    }
}
