//! The name: cloud-init sets it, and it must be a node of this image's cluster with this image's
//! role. A VM without a cloud-init drive is told from one with a wrong name.

use anyhow::Result;
use node::values::Hostname;
use serde::Deserialize;

use super::{Done, Step, fixable};
use crate::boot::Boot;

/// Where cloud-init says which data source it found.
const CLOUD_INIT: &str = "run/cloud-init/status.json";

/// The step.
pub const STEP: Step = Step {
    name: "hostname",
    lasting: false,
    fix: "name the VM as in cluster/cluster.toml and start it again",
    satisfied: |_| Ok(false),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let name = &boot.machine.hostname;
    let want = boot.config.role;
    match boot.config.node(name) {
        Some(node) if node.role == want => Ok(Done::unchanged(name)),
        Some(node) => Err(fixable(
            format!(
                "`{name}` is a node with role {} in cluster.toml, but this image is for role {}",
                node.role.as_str(),
                want.as_str()
            ),
            format!("clone it from a template of its own profile: `builder node rebuild {name}`"),
        )),
        None if has_no_drive(boot) => Err(fixable(
            format!("this VM has no cloud-init drive, so its name is still `{name}`"),
            "add a cloud-init drive to the VM and start it again, or make the node with \
             `builder node create NAME`",
        )),
        None => Err(fixable(
            match name.parse::<Hostname>() {
                Err(broken) => format!("`{name}` is no host name: it {}", broken.rule),
                Ok(_) => {
                    format!("`{name}` is not a node of cluster `{}`", boot.config.cluster.name)
                }
            } + &known(boot),
            "give the VM the name of one of these nodes, or add it to cluster/cluster.toml and \
             build the image again",
        )),
    }
}

/// Names with this image's role.
fn known(boot: &Boot) -> String {
    let nodes = boot.config.cluster.nodes.iter().filter(|n| n.role == boot.config.role);
    let names: Vec<_> = nodes.map(|n| n.name.as_str()).collect();
    format!(" ({} nodes: {})", boot.config.role.as_str(), names.join(", "))
}

#[derive(Debug, Deserialize)]
struct Status {
    v1: StatusV1,
}

#[derive(Debug, Deserialize)]
struct StatusV1 {
    datasource: Option<String>,
}

/// Whether cloud-init ran and found no drive; unknown counts as no.
fn has_no_drive(boot: &Boot) -> bool {
    let Ok(text) = fs_err::read(boot.path(CLOUD_INIT)) else { return false };
    let Ok(status) = serde_json::from_slice::<Status>(&text) else { return false };
    status.v1.datasource.is_none_or(|d| d.starts_with("DataSourceNone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn each_wrong_name_gets_its_own_answer() {
        let no_drive = r#"{"v1":{"datasource":"DataSourceNone"}}"#;
        let drive = r#"{"v1":{"datasource":"DataSourceNoCloud [seed=/dev/sr0]"}}"#;
        let cases = [
            ("k3s-worker-01", drive, Ok("k3s-worker-01")),
            (
                "k3s-master",
                drive,
                Err(
                    "`k3s-master` is a node with role server in cluster.toml, but this image is for role agent",
                ),
            ),
            (
                "localhost",
                no_drive,
                Err("this VM has no cloud-init drive, so its name is still `localhost`"),
            ),
            (
                "localhost",
                r#"{"v1":{"datasource":null}}"#,
                Err("this VM has no cloud-init drive, so its name is still `localhost`"),
            ),
            (
                "VM9001",
                drive,
                Err(
                    "`VM9001` is no host name: it may hold only lower-case letters, digits and `-` \
                     (agent nodes: k3s-worker-01)",
                ),
            ),
            (
                "vm9001",
                "torn",
                Err("`vm9001` is not a node of cluster `home` (agent nodes: k3s-worker-01)"),
            ),
        ];
        for (name, status, want) in cases {
            let (_dir, mut boot) = testing::agent();
            name.clone_into(&mut boot.machine.hostname);
            testing::put(&boot, CLOUD_INIT, status);
            let got = apply(&mut boot).map(|d| d.detail).map_err(|e| e.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), want, "{name} {status}");
        }
    }
}
