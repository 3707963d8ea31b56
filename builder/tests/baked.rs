//! What an image must not say by itself, or must: settings of K3s and cloud-init that have cost others
//! their data, held in the files as they are baked (docs/traps.md).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken preparation ends the test")]

mod rendered;

use rendered::rendered;
use serde_json::{Value, json};

fn yaml(profile: &str, path: &str) -> Value {
    serde_saphyr::from_str(&rendered(profile, path, |_| ())).unwrap()
}

fn k3s(profile: &str) -> Value {
    yaml(profile, "usr/lib/firstboot/k3s/config.yaml")
}

fn keys(settings: &Value) -> Vec<&str> {
    settings.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Traps J3 and E7: whether a node starts, joins or resets a cluster is decided at its boot, and a token
/// comes with its identity. Traps E4, E5 and E8: K3s writes snapshots to its own disk, to nothing that
/// can hang or that others share.
#[test]
fn no_image_decides_by_itself_where_a_cluster_comes_from_or_where_its_snapshots_go() {
    let decided = ["cluster-init", "cluster-reset", "server", "token", "agent-token", "node-name"];
    for profile in ["master", "worker", "dev"] {
        let settings = k3s(profile);
        let bad = |key: &&str| {
            decided.iter().any(|start| key.starts_with(start))
                || key.starts_with("etcd-s3")
                || *key == "etcd-snapshot-dir"
        };
        let found: Vec<_> = keys(&settings).into_iter().filter(bad).collect();
        assert!(found.is_empty(), "{profile}: {found:?}");
    }
    let settings = k3s("master");
    // The local ones are few; what is kept for long lies on NFS, under firstboot's own rules.
    assert_eq!(settings["etcd-snapshot-retention"], json!("5"));
    assert_eq!(settings["etcd-snapshot-compress"], json!(false));
}

/// Traps H1, H3, H5 and H8: the controller that uninstalls what fails to install does not run, so
/// nothing of it can. Trap J7: K3s' class of local volumes, which it makes `Delete` again at each start.
#[test]
fn no_server_runs_what_removes_releases_or_volumes_by_itself() {
    let settings = k3s("master");
    assert_eq!(settings["disable-helm-controller"], json!(true));
    let off: Vec<String> = serde_json::from_value(settings["disable"].clone()).unwrap();
    assert!(off.iter().any(|name| name == "local-storage"), "{off:?}");
}

/// Traps P1 and B3: Proxmox may ask for an upgrade of all packages, and no module is there to do it;
/// trap P2: a node that gets a new instance-id keeps its host key.
#[test]
fn cloud_init_has_no_module_that_installs_runs_or_replaces() {
    let settings = yaml("worker", "etc/cloud/cloud.cfg.d/90-node.cfg");
    let mut modules = Vec::new();
    // Each list that is not given here is the distribution's, with all its modules.
    for stage in ["cloud_init_modules", "cloud_config_modules", "cloud_final_modules"] {
        let list: Vec<String> = serde_json::from_value(settings[stage].clone()).unwrap();
        modules.extend(list);
    }
    assert!(modules.contains(&"growpart".to_owned()), "{modules:?}");
    let bad = ["apt", "package", "runcmd", "bootcmd", "script", "snap", "write", "power", "mount"];
    let found: Vec<_> = modules.iter().filter(|m| bad.iter().any(|b| m.contains(b))).collect();
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(settings["ssh_deletekeys"], json!(false));
    // Trap P5: both labels that Proxmox may give its drive.
    assert_eq!(settings["datasource_list"], json!(["NoCloud", "ConfigDrive", "None"]));
}
