//! The built program on a project of its own: what only the operator holds is minted, edited, checked,
//! and never printed.

#![allow(clippy::unwrap_used, reason = "a broken preparation ends the test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Desk {
    place: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let valid = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid");
        let mut copy = Command::new("cp");
        let copied = copy.arg("-r").arg(valid).arg(place.path().join("project")).status().unwrap();
        assert!(copied.success());
        Self { place }
    }

    fn project(&self) -> PathBuf {
        self.place.path().join("project")
    }

    fn key(&self) -> PathBuf {
        self.place.path().join("config/node-image-builder/age.key")
    }

    fn needs(&self, text: &str) {
        fs_err::write(self.project().join("cluster/secrets.toml"), text).unwrap();
    }

    fn builder(&self, args: &[&str], editor: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_builder"));
        command.args(args).current_dir(self.project()).env("EDITOR", editor);
        command.env("XDG_CONFIG_HOME", self.place.path().join("config"));
        command.env_remove("VISUAL").env_remove("BUILDER_AGE_KEY").output().unwrap()
    }

    /// The file's plain text, by way of an editor that copies it out.
    fn plain(&self) -> String {
        let out = self.place.path().join("plain");
        let editor = format!("cp -f \"$1\" {} ; :", out.display());
        let done = self.builder(&["secrets", "edit"], &editor);
        assert!(done.status.success(), "{done:?}");
        fs_err::read_to_string(out).unwrap()
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

const NEEDS: &str = r#"
[[secret]]
namespace = "data"
name = "postgres"
for = "the superuser of PostgreSQL"
keys.password = { generate = 32 }
keys.dsn = { enter = "where it is" }
"#;

#[test]
fn a_cluster_is_minted_once_and_nothing_of_it_is_printed() {
    let desk = Desk::new();
    let first = desk.builder(&["cluster", "init"], "false");
    assert!(first.status.success(), "{}", said(&first));
    let mode = fs_err::metadata(desk.key()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let again = desk.builder(&["cluster", "init"], "false");
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("builder cluster init --another"), "{}", said(&again));

    let plain = desk.plain();
    let content = builder::secrets::vault::Content::parse(&plain).unwrap();
    let escrow = content.cluster.unwrap();
    let sealed = fs_err::read_to_string(desk.project().join("cluster/secrets.age")).unwrap();
    let other = desk.builder(&["cluster", "init", "--another", "--json"], "false");
    assert!(other.status.success(), "{}", said(&other));
    assert!(!said(&other).contains(escrow.cluster_id.as_str()));
    for secret in [&escrow.server_token, &escrow.agent_token, &escrow.snapshot_key] {
        for text in [said(&first), said(&again), sealed.clone()] {
            assert!(!text.contains(secret.as_str()));
        }
    }
}

#[test]
fn what_the_bundle_needs_is_made_entered_and_checked() {
    let desk = Desk::new();
    desk.needs(NEEDS);
    let none = desk.builder(&["secrets", "check"], "false");
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    assert!(said(&none).contains("make one with `builder secrets init`"), "{}", said(&none));

    let made = desk.builder(&["secrets", "init"], "false");
    assert!(made.status.success(), "{}", said(&made));
    assert!(said(&made).contains("data/postgres dsn: where it is"), "{}", said(&made));
    let missing = desk.builder(&["secrets", "check", "--json"], "false");
    assert_eq!(missing.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!(json["missing"][0]["key"], "dsn");

    let before = desk.plain();
    let password = before.lines().find(|line| line.starts_with("password")).unwrap();
    let edited = desk.builder(&["secrets", "edit"], "sed -i '$adsn = \"x\"'");
    assert!(edited.status.success(), "{}", said(&edited));
    assert!(desk.plain().contains(password), "what was there is kept");
    let sound = desk.builder(&["secrets", "check"], "false");
    assert!(sound.status.success(), "{}", said(&sound));
}

#[test]
fn a_failed_or_broken_edit_changes_nothing_and_leaves_no_plain_text() {
    let desk = Desk::new();
    desk.needs(NEEDS);
    assert!(desk.builder(&["secrets", "init"], "false").status.success());
    let file = desk.project().join("cluster/secrets.age");
    let before = fs_err::read(&file).unwrap();
    let note = desk.place.path().join("where");
    let broken = format!("sh -c 'printf %s \"$0\" >{}; echo hunter2 >>\"$0\"'", note.display());
    for (editor, want) in [
        ("false", "ended with exit status: 1"),
        (broken.as_str(), "not valid TOML"),
        (" ", "set EDITOR"),
    ] {
        let done = desk.builder(&["secrets", "edit"], editor);
        assert_eq!(done.status.code(), Some(1), "{}", said(&done));
        assert!(said(&done).contains(want), "{want}: {}", said(&done));
        assert!(!said(&done).contains("hunter2"));
        assert_eq!(fs_err::read(&file).unwrap(), before);
    }
    let plain = fs_err::read_to_string(note).unwrap();
    assert!(plain.starts_with("/dev/shm/") || plain.starts_with("/run/"), "{plain}");
    assert!(!Path::new(&plain).exists());
}

#[test]
fn what_this_project_lists_can_be_made_and_the_rest_is_asked_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let needs = builder::secrets::needs::Needs::load(root).unwrap();
    let mut content = builder::secrets::vault::Content::new();
    needs.fill(&mut content).unwrap();
    let missing = needs.missing(&content, |_| false);
    let names: Vec<_> = missing.iter().map(|m| format!("{} {}", m.secret, m.key)).collect();
    let asked = [
        "kube-system/ingress-login users",
        "dev/dev-keys authorized_keys",
        "dev/dev-keys ssh_host_ed25519_key",
    ];
    assert_eq!(names, asked);
    let n8n = needs.secret.iter().find(|need| need.id() == "apps/n8n").unwrap();
    let postgres = &content.secret["data/postgres-auth"]["n8n-password"];
    assert_eq!(&n8n.data(&content)["postgres-password"], postgres);
}
