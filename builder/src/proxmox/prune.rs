//! Which templates may go: never the newest, never the one before it that was not found bad, never
//! one that something was made of, never the record of a bad one.

use super::inventory::{Inventory, Template};
use crate::config::Cluster;

/// How many good templates of a profile stay on a host: the current one, and the way back.
const KEPT: usize = 2;

/// Old templates of a profile on a host, each with `None` when it may go, or why it stays. The
/// newest come first; `current` is the one nodes are to be made of now.
pub fn judge<'a>(
    inventory: &'a Inventory,
    cluster: &'a Cluster,
    host: &'a str,
    current: &Template,
) -> Vec<(&'a Template, Option<String>)> {
    let profile = current.image.as_ref().map(|image| image.profile().clone());
    let of_profile = inventory.whole(cluster, host).filter(|t| {
        t.vmid != current.vmid && t.image.as_ref().map(|i| i.profile().clone()) == profile
    });
    let mut good = 1;
    let mut judged = Vec::new();
    for template in of_profile {
        let reason = reason(inventory, template, good);
        good += usize::from(!template.is_quarantined());
        judged.push((template, reason));
    }
    judged
}

fn reason(inventory: &Inventory, template: &Template, good: usize) -> Option<String> {
    if template.is_quarantined() {
        return Some("it is the record that its image is bad".to_owned());
    }
    if good < KEPT {
        return Some("it is the way back".to_owned());
    }
    let image = template.image.as_ref()?;
    let made: Vec<_> = inventory.made_of(image).map(|vm| vm.id().to_string()).collect();
    (!made.is_empty()).then(|| format!("VM {} stands on it", made.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Project;
    use crate::proxmox::calls::{Config, VmEntry};
    use proptest::prelude::*;
    use std::path::Path;

    fn cluster() -> Cluster {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid");
        Project::load(&root).unwrap().cluster
    }

    /// A template of image number `n`, made at time `n`.
    fn template(n: u32, quarantined: bool) -> Template {
        let image = format!("worker-{n:012x}").parse().unwrap();
        let mut tags = crate::proxmox::tags::of_template(&"lab".parse().unwrap(), &image, "v1");
        if quarantined {
            tags.insert(crate::proxmox::tags::QUARANTINED.to_owned());
        }
        let values = [
            ("tags", crate::proxmox::tags::text(&tags)),
            ("template", "1".to_owned()),
            ("meta", format!("ctime={n}")),
        ];
        let config = Config(values.map(|(k, v)| (k.to_owned(), v)).into());
        Template { host: "pve1".into(), vmid: 9000 + n, config, image: Some(image) }
    }

    fn clone_of(t: &Template, vmid: u64) -> VmEntry {
        let tags = t.config.get("tags").to_owned();
        serde_json::from_value(serde_json::json!({ "vmid": vmid, "node": "pve2", "tags": tags }))
            .unwrap()
    }

    fn inventory(mut templates: Vec<Template>, vms: Vec<VmEntry>) -> Inventory {
        templates.sort_by_key(|t| std::cmp::Reverse((t.config.made_at(), t.vmid)));
        Inventory { templates, vms, offline: std::collections::BTreeSet::new() }
    }

    fn going(inventory: &Inventory, current: &Template) -> Vec<u32> {
        let cluster = cluster();
        let judged = judge(inventory, &cluster, "pve1", current);
        judged.into_iter().filter(|(_, why)| why.is_none()).map(|(t, _)| t.vmid).collect()
    }

    #[test]
    fn the_one_before_stays_also_behind_a_bad_one_and_one_that_is_used() {
        let all: Vec<_> = (1..=5).map(|n| template(n, n == 4)).collect();
        let used = vec![clone_of(&all[0], 201)];
        let inventory = inventory(all.clone(), used);
        // 5 is current, 4 bad, 3 the way back, 1 has a clone.
        assert_eq!(going(&inventory, &all[4]), [9002]);
        // Going back to 3: the newest other one that is good stays.
        assert_eq!(going(&inventory, &all[2]), [9002]);
    }

    proptest! {
        #[test]
        fn never_fewer_than_two_good_ones_stay_and_nothing_in_use_goes(
            bad in prop::collection::vec(any::<bool>(), 1..8),
            used in any::<u8>(),
            current in 0usize..8,
        ) {
            let mut all: Vec<_> =
                bad.iter().zip(1..).map(|(bad, n)| template(n, *bad)).collect();
            let current = current % all.len();
            all[current] = template(u32::try_from(current).unwrap() + 1, false);
            let vms: Vec<_> = (0..all.len())
                .filter(|n| used & (1 << n) != 0)
                .map(|n| clone_of(&all[n], 200 + n as u64))
                .collect();
            let inventory = inventory(all.clone(), vms);
            let going = going(&inventory, &all[current]);
            prop_assert!(!going.contains(&all[current].vmid));
            for (n, t) in all.iter().enumerate() {
                let is_used = used & (1 << n) != 0;
                prop_assert!(!(going.contains(&t.vmid) && (is_used || t.is_quarantined())));
            }
            let good = all.iter().filter(|t| !t.is_quarantined());
            let (gone, left): (Vec<_>, Vec<_>) = good.partition(|t| going.contains(&t.vmid));
            prop_assert!(gone.is_empty() || left.len() >= KEPT);
        }
    }
}
