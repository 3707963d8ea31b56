//! Everything that goes wrong on the way, and what is left of it.

use pve_double::{Effect, Fault, Setup};

use crate::project::Site;

const UPLOAD: &str = "POST /nodes/{node}/storage/{storage}/upload";
const CREATE: &str = "POST /nodes/{node}/qemu";
const CONFIG: &str = "POST /nodes/{node}/qemu/{vmid}/config";
const TEMPLATE: &str = "POST /nodes/{node}/qemu/{vmid}/template";
const RESIZE: &str = "PUT /nodes/{node}/qemu/{vmid}/resize";

/// One template, one upload, and nothing else.
fn assert_clean(site: &Site, templates: usize, what: &str) {
    // What the host took and then lost the answer of stays in its /var/tmp: nobody can remove it.
    let left = site.double.world(|world| world.leftovers());
    assert_eq!(left.templates.len(), templates, "{what}: {left:?}");
    assert_eq!(left.images.len(), templates, "{what}: {left:?}");
    let nothing = left.vms.is_empty()
        && left.orphans.is_empty()
        && left.isos.is_empty()
        && left.locks.is_empty()
        && left.tasks.is_empty();
    assert!(nothing, "{what}: {left:?}");
}

#[test]
fn a_push_makes_the_template_and_a_second_one_does_nothing() {
    let site = Site::new(Setup::default());
    let first = site.push(1).unwrap();
    assert!(first.made && first.uploaded);
    let config = site.client.config("pve1", first.vmid).unwrap();
    let found: Vec<_> = ["name", "tags", "template", "cpu", "balloon", "ciupgrade", "description"]
        .map(|key| format!("{key}: {}", config.get(key)))
        .into();
    insta::assert_snapshot!(found.join("\n"));
    assert!(config.get("scsi0").contains("base-9000-disk"), "{}", config.get("scsi0"));
    assert!(config.get("scsi0").contains("size=32G"), "{}", config.get("scsi0"));
    let writes = |site: &Site| {
        let all = site.double.world(|w| w.seen.clone());
        all.iter().filter(|seen| !seen.on.starts_with("GET")).count()
    };
    let before = writes(&site);
    let second = site.push(1).unwrap();
    assert!(!second.made && !second.uploaded && second.pruned.is_empty());
    assert_eq!((second.vmid, writes(&site)), (first.vmid, before), "a second run changes nothing");
    assert_clean(&site, 1, "two pushes");
}

/// What a call may suffer and the push still ends well.
fn passing(call: &str) -> Vec<Effect> {
    let mut effects = vec![
        Effect::Unreachable,
        Effect::Timeout { applied: true },
        Effect::Timeout { applied: false },
        Effect::Dropped { applied: true },
        Effect::Dropped { applied: false },
        Effect::Warnings(1),
    ];
    if call == UPLOAD {
        effects.push(Effect::Corrupt);
    } else {
        effects.push(Effect::VmLockTimeout);
    }
    if call == CREATE {
        effects.extend([Effect::StorageLockTimeout, Effect::IdTaken]);
    }
    effects
}

/// What passes by itself, or is looked behind: the push ends well, with one template.
#[test]
fn what_passes_leaves_one_template_and_nothing_else() {
    let calls = [UPLOAD, CREATE, CONFIG, TEMPLATE, RESIZE];
    // Each has a double of its own, whose answers are waited for more than computed.
    std::thread::scope(|scope| {
        for call in calls {
            scope.spawn(move || passing(call).iter().for_each(|effect| suffer(call, effect)));
        }
    });
    println!("{} faults that pass", calls.map(|call| passing(call).len()).iter().sum::<usize>());
}

fn suffer(call: &str, effect: &Effect) {
    let what = format!("{call} {effect:?}");
    let site = Site::new(Setup::default());
    site.double.fault(Fault::new(call, 1, effect.clone()));
    let pushed = site.push(1).unwrap_or_else(|e| panic!("{what}: {e:#}"));
    assert!(pushed.made, "{what}");
    // Somebody else's VM stands at the number that was taken.
    if *effect != Effect::IdTaken {
        assert_clean(&site, 1, &what);
    }
    let lost = matches!(effect, Effect::Unreachable | Effect::Timeout { .. });
    let left = site.double.world(|world| world.leftovers()).uploads.len();
    assert!(left <= usize::from(call == UPLOAD && lost), "{what}: {left} in /var/tmp");
    assert!(!site.push(1).unwrap().made, "{what}");
    site.double.world(|world| world.verdict()).unwrap_or_else(|e| panic!("{what}: {e:#}"));
}

/// What does not pass: a clear message, and the next run ends well.
#[test]
fn what_does_not_pass_is_told_and_the_next_run_goes_on() {
    let cases = [
        (UPLOAD, 3, Effect::Corrupt),
        (UPLOAD, 1, Effect::TaskFails("no space left on device".into())),
        (CREATE, 1, Effect::StorageFull),
        (CREATE, 1, Effect::TaskFails("storage 'disks' does not exist".into())),
        (
            CONFIG,
            1,
            Effect::Status(
                403,
                "Permission check failed (/, Sys.Modify for modifying tag 'x')".into(),
            ),
        ),
        (CONFIG, 1, Effect::Status(500, "something broke".into())),
        (TEMPLATE, 1, Effect::TaskFails("unable to create base image".into())),
    ];
    let mut told = Vec::new();
    for (call, times, effect) in cases {
        let what = format!("{call} {effect:?}");
        let site = Site::new(Setup::default());
        site.double.fault(Fault { times, ..Fault::new(call, 1, effect) });
        let error = site.push(1).unwrap_err();
        let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        told.push(format!("{what}\n{text}"));
        assert!(site.push(1).unwrap().made, "{what}: the next run");
        let left = site.double.world(|world| world.leftovers());
        assert_eq!((left.templates.len(), left.vms.len()), (1, 0), "{what}: {left:?}");
    }
    let hidden = regex::Regex::new(r"got '\w+' != expect '\w+'|UPID:\S+|pveupload-\w+").unwrap();
    insta::assert_snapshot!(hidden.replace_all(&told.join("\n\n"), "…"));
}

#[test]
fn old_templates_go_but_for_the_way_back_and_what_is_used() {
    let mut setup = Setup::default();
    setup.storages.get_mut("disks").unwrap().total = 1 << 40;
    let site = Site::new(setup);
    let pushed: Vec<_> = (1..=4)
        .map(|n| {
            let pushed = site.push(n).unwrap();
            if n == 1 {
                let clone = builder::proxmox::changes::Clone {
                    from: ("pve1", pushed.vmid),
                    vmid: 201,
                    name: "w1",
                    pool: Some("k3s"),
                    full: None,
                };
                site.client.clone_vm(&clone).unwrap();
            }
            site.client.clock().pause(std::time::Duration::from_mins(1));
            pushed
        })
        .collect();
    assert!(pushed[2].pruned.is_empty(), "1 has a clone, 2 is the way back");
    assert_eq!(pushed[3].pruned, [pushed[1].vmid]);
    let why: Vec<_> = pushed[3].kept.values().collect();
    assert_eq!(why, ["VM 201 stands on it", "it is the way back"]);
    let images = site.double.world(|world| world.leftovers().images);
    assert_eq!(images.len(), 3, "the upload of 2 went with its template");
}

#[test]
fn a_quarantined_image_is_refused_and_its_record_stays() {
    let site = Site::new(Setup::default());
    let vmid = site.push(1).unwrap().vmid;
    let mut tags = site.client.config("pve1", vmid).unwrap().tags();
    tags.insert(builder::proxmox::tags::QUARANTINED.to_owned());
    let tags = [("tags".to_owned(), builder::proxmox::tags::text(&tags))];
    site.client.set_config("pve1", vmid, &tags, &[]).unwrap();
    let text = site.push(1).unwrap_err().to_string();
    assert!(text.contains("is quarantined"), "{text}");
    site.push(2).unwrap();
    site.push(3).unwrap();
    assert!(site.client.config("pve1", vmid).is_ok(), "the record of the bad image");
    assert_eq!(site.calls("DELETE /nodes/{node}/qemu/{vmid}"), 0);
}
