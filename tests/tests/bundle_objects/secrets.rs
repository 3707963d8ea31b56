//! What stands in the encrypted file becomes Secrets of the cluster, and is told nowhere.

use e2e::home::Home;
use e2e::kubernetes::Cluster;
use e2e::run::{Ended, run};
use fs_err as fs;
use serde_json::Value;

/// A value that a person enters; nothing else has these letters.
const ENTERED: &str = "hunter2 of this test";

/// Random values of the file: all that `builder secrets init` makes is text of letters and digits.
fn generated(cluster: &Cluster) -> Vec<String> {
    let path = "go-template={{range .data}}{{. | base64decode}}\n{{end}}";
    let secret = ["get", "secret", "postgres-auth", "--namespace", "data", "-o", path];
    cluster.kubectl(&secret).unwrap().lines().map(str::to_owned).collect()
}

fn apply(home: &Home, cluster: &Cluster) -> (Ended, Value) {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    let ended =
        run(&mut home.builder(&["-vv", "--json", "secrets", "apply", "--kubeconfig", &kubeconfig]));
    let ended = ended.unwrap();
    let found =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr()));
    (ended, found)
}

/// Enters one value by way of the command that people use.
fn enter(home: &Home) {
    let script = home.place().join("editor");
    let table = "[secret.\"kube-system/ingress-login\"]";
    let text = format!("#!/bin/sh\nprintf '\\n{table}\\nusers = \"{ENTERED}\"\\n' >>\"$1\"\n");
    node::files::ensure_file(&script, text.as_bytes(), 0o755).unwrap();
    let mut edit = home.builder(&["secrets", "edit"]);
    run(edit.env("EDITOR", &script).env_remove("VISUAL")).unwrap().ok().unwrap();
}

pub fn the_encrypted_values_become_secrets(cluster: &Cluster) {
    let home = Home::of_repository().unwrap();
    node::files::ensure_absent(&home.project.join("cluster/secrets.age")).unwrap();
    run(&mut home.builder(&["secrets", "init"])).unwrap().ok().unwrap();
    enter(&home);
    // A namespace that is not there yet: the operator may be faster than the bundle.
    cluster.kubectl(&["delete", "namespace", "docs", "--timeout", "60s"]).unwrap();

    let (first, found) = apply(&home, cluster);
    let list = |key: &str| found[key].as_array().unwrap().clone();
    assert_eq!(first.code(), Some(1), "not all was entered: {found:#}");
    let missing: Vec<_> = list("missing").iter().map(|m| m["secret"].clone()).collect();
    assert_eq!(missing, ["dev/dev-keys", "dev/dev-keys"]);
    let applied = list("applied");
    for wanted in ["data/postgres-auth", "docs/paperless", "kube-system/ingress-login", "apps/n8n"]
    {
        assert!(applied.contains(&wanted.into()), "{found:#}");
    }
    assert!(!applied.contains(&"infra/velero-s3".into()), "its release is off: {found:#}");

    let made = generated(cluster);
    assert!(
        made.len() == 3 && made.iter().all(|value| value.len() == 48),
        "not as it was generated"
    );
    let same = "go-template={{index .data \"postgres-password\" | base64decode}}";
    let other = ["get", "secret", "n8n", "--namespace", "apps", "-o", same];
    assert!(made.contains(&cluster.kubectl(&other).unwrap()), "two programs must agree");
    let login = ["get", "secret", "ingress-login", "--namespace", "kube-system", "-o"];
    let users = "go-template={{.data.users | base64decode}} {{.type}}";
    let users = cluster.kubectl(&[&login[..], &[users]].concat()).unwrap();
    assert_eq!(users, format!("{ENTERED} Opaque"));

    let (second, found) = apply(&home, cluster);
    assert_eq!(found["applied"].as_array().unwrap().len(), 0, "{found:#}");
    assert_eq!(found["unchanged"].as_array().unwrap().len(), applied.len());
    let sealed = fs::read_to_string(home.project.join("cluster/secrets.age")).unwrap();
    for told in [first, second].map(|run| format!("{}{}{}", run.line, run.stdout, run.stderr())) {
        let all = format!("{told}{sealed}");
        let leaked =
            made.iter().map(String::as_str).chain([ENTERED]).any(|value| all.contains(value));
        assert!(!leaked, "a value was told");
    }
    println!(
        "bundle: {} Secrets out of the encrypted file, a second time none changed",
        applied.len()
    );
}
