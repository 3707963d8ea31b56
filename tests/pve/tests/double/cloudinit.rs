//! The cloud-init drive against output of Proxmox' own module.

use pve_double::{Config, SeedFiles};
use serde_json::Value;

use super::facts::{Score, folder};

#[test]
fn the_drive_agrees_with_the_real_module() {
    let Some(folder) = folder("cloudinit/golden.json") else { return };
    let cases: Vec<Value> = serde_json::from_str(
        &fs_err::read_to_string(folder.join("cloudinit/golden.json")).unwrap(),
    )
    .unwrap();
    let mut score = Score::default();
    for case in cases {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let config: Config = case["conf"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| (key.clone(), text(value)))
            .collect();
        if config.contains_key("cicustom") {
            score.skip();
            continue;
        }
        let host = &case["host_resolv_conf"];
        let servers: Vec<&str> =
            ["dns1", "dns2", "dns3"].iter().filter_map(|key| host[key].as_str()).collect();
        let seed = SeedFiles::of(
            u32::try_from(case["vmid"].as_u64().unwrap()).unwrap(),
            &config,
            (&servers, host["search"].as_str()),
        );
        let files = &case["nocloud"]["files"];
        let got = format!("{}{}{}", seed.user_data, seed.network_config, seed.meta_data);
        let want: String = ["user-data", "network-config", "meta-data"]
            .iter()
            .map(|name| files[name].as_str().unwrap_or_default())
            .collect();
        score.count(case["name"].as_str().unwrap(), &want, &got);
    }
    score.close("cloudinit/golden.json");
}
