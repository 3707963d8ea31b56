//! K3s' configuration: the part that every node of the image shares is baked and copied; the part
//! that only this node has stands beside it.

use anyhow::{Context, Result};
use node::config::Role;
use node::files::{Changed, ensure_file};
use serde_json::{Map, Value, json};

use super::secret::{AGENT_TOKEN, SERVER_TOKEN};
use super::{Done, Step};
use crate::boot::Boot;
use crate::origin;
use crate::peers::PORT;

/// Rendered by `builder` from the profile and the cluster.
const BAKED: &str = "usr/lib/firstboot/k3s/config.yaml";
/// Where K3s reads it.
const CONFIG: &str = "etc/rancher/k3s/config.yaml";
/// This node's own part. K3s reads the folder after the file, and every JSON text is YAML.
const OWN: &str = "etc/rancher/k3s/config.yaml.d/50-node.yaml";
/// The step.
pub const STEP: Step = Step {
    name: "k3s-config",
    lasting: true,
    fix: "see `journalctl -u firstboot-host` on the node",
    satisfied: |boot| {
        let same =
            |path: &str, text: Vec<u8>| fs_err::read(boot.path(path)).is_ok_and(|t| t == text);
        Ok(same(CONFIG, baked(boot)?) && same(OWN, own(boot)?))
    },
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    // Both are made before either is written: an error leaves nothing half done.
    let (shared, own) = (baked(boot)?, own(boot)?);
    let changed = ensure_file(&boot.path(CONFIG), &shared, 0o600)?.or(ensure_file(
        &boot.path(OWN),
        &own,
        0o600,
    )?);
    boot.k3s_changed |= changed == Changed::Yes;
    Ok(match changed {
        Changed::Yes => {
            Done::changed(format!("{} of `{}`", boot.config.role.as_str(), boot.machine.hostname))
        }
        Changed::No => Done::unchanged(""),
    })
}

fn baked(boot: &Boot) -> Result<Vec<u8>> {
    fs_err::read(boot.path(BAKED)).context("the image has no K3s configuration")
}

/// The node's own part as JSON.
fn own(boot: &Boot) -> Result<Vec<u8>> {
    let node = boot.node()?;
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
    put("node-name", json!(node.name));
    put("node-ip", json!(node.address));
    put("node-label", json!(labels(boot)));
    put("node-taint", json!(boot.config.taints));
    match boot.config.role {
        Role::Agent => {
            put("server", json!(format!("https://{}:{PORT}", boot.config.cluster.api)));
            put("token-file", json!(format!("/{AGENT_TOKEN}")));
        }
        Role::Server => {
            put("token-file", json!(format!("/{SERVER_TOKEN}")));
            // K3s waits for minutes for a token file that is named and not there.
            if boot.path(AGENT_TOKEN).exists() {
                put("agent-token-file", json!(format!("/{AGENT_TOKEN}")));
            }
            // The step `origin` has let one of them through, or none. A server that joined keeps the
            // other's address: K3s asks there again when power was lost before it was a voter.
            match (origin::peer(boot)?, origin::permission(boot)?) {
                (Some(url), _) => put("server", json!(url)),
                (None, Some(own)) if !own.restore => put("cluster-init", json!(true)),
                _ => None,
            };
        }
    }
    let mut text = serde_json::to_vec_pretty(&keys).context("failed to encode")?;
    text.push(b'\n');
    Ok(text)
}

fn labels(boot: &Boot) -> Vec<String> {
    boot.config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::PERMISSION;
    use crate::testing;
    use node::report::Outcome;

    fn own_of(boot: &Boot) -> Value {
        serde_json::from_str(&testing::get(boot, OWN).unwrap()).unwrap()
    }

    #[test]
    fn an_agent_gets_its_server_and_no_key_that_only_servers_know() {
        let (_dir, mut boot) = testing::agent();
        testing::put(&boot, BAKED, "resolv-conf: \"x\"\n");
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Applied);
        assert_eq!(testing::get(&boot, CONFIG).unwrap(), "resolv-conf: \"x\"\n");
        let want = json!({
            "node-name": "k3s-worker-01", "node-ip": "127.0.0.1",
            "node-label": ["node.homelab/class=general"], "node-taint": ["dedicated=dev:NoSchedule"],
            "server": "https://127.0.0.1:6443",
            "token-file": "/etc/rancher/k3s/secrets/agent-token",
        });
        assert_eq!(own_of(&boot), want);
        boot.k3s_changed = false;
        assert_eq!(apply(&mut boot).unwrap().outcome, Outcome::Satisfied);
        assert!(!boot.k3s_changed && (STEP.satisfied)(&boot).unwrap());
    }

    #[test]
    fn a_server_initialises_only_while_it_is_permitted() {
        let (_dir, mut boot) = testing::server();
        testing::put(&boot, BAKED, "");
        testing::put(&boot, PERMISSION, r#"{"nonce":"n","recorded":true}"#);
        testing::put(&boot, AGENT_TOKEN, "t");
        apply(&mut boot).unwrap();
        assert_eq!(own_of(&boot)["cluster-init"], true);
        assert_eq!(own_of(&boot)["agent-token-file"], "/etc/rancher/k3s/secrets/agent-token");
        fs_err::remove_file(boot.path(PERMISSION)).unwrap();
        apply(&mut boot).unwrap();
        assert!(own_of(&boot).get("cluster-init").is_none());
    }
}
