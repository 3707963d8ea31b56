//! The life of a template and a VM, and what goes wrong in it.

use std::time::Duration;

use pve_double::{Double, Effect, Fault, Setup, StorageKind};

use super::client::{call, done, image, parts, task, template, upload_as};

fn double() -> Double {
    Double::start(Setup::default()).unwrap()
}

#[test]
fn a_vm_is_cloned_started_joined_and_deleted() {
    let double = double();
    template(&double);
    done(
        &double,
        "POST",
        "/nodes/pve1/qemu/9000/clone",
        &[("newid", "101"), ("pool", "k3s"), ("name", "w1")],
    );
    done(
        &double,
        "POST",
        "/nodes/pve1/qemu/101/config",
        &[("tags", "b;A"), ("ipconfig0", "ip=192.0.2.10/24,gw=192.0.2.1"), ("ciupgrade", "0")],
    );
    let config = call(&double, "GET", "/nodes/pve1/qemu/101/config", &[]);
    assert_eq!(config.data()["tags"], "a;b");
    assert_eq!(
        config.data()["scsi0"],
        "disks:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2,size=64M"
    );
    let user = call(&double, "GET", "/nodes/pve1/qemu/101/cloudinit/dump", &[("type", "user")]);
    assert!(!user.data().as_str().unwrap().contains("package_upgrade"), "{user:?}");

    let start = call(&double, "POST", "/nodes/pve1/qemu/101/status/start", &[]);
    double.advance(Duration::from_secs(3));
    assert_eq!(
        call(&double, "POST", "/nodes/pve1/qemu/101/agent/ping", &[]).reason,
        "QEMU guest agent is not running"
    );
    assert_eq!(task(&double, &start).0, "OK");
    call(&double, "POST", "/nodes/pve1/qemu/101/agent/ping", &[]).data();
    let cards = call(&double, "GET", "/nodes/pve1/qemu/101/agent/network-get-interfaces", &[]);
    assert_eq!(cards.data()["result"][1]["ip-addresses"][0]["ip-address"], "192.0.2.10");
    let write = [("file", "/run/firstboot/join/token"), ("content", "K10secret")];
    call(&double, "POST", "/nodes/pve1/qemu/101/agent/file-write", &write).data();
    assert_eq!(
        double.world(|world| world.leftovers().secrets),
        [(101, "/run/firstboot/join/token".to_owned())]
    );

    assert_eq!(
        call(&double, "DELETE", "/nodes/pve1/qemu/101", &[]).reason,
        "VM 101 is running - destroy failed"
    );
    let used = call(&double, "DELETE", "/nodes/pve1/qemu/9000", &[("purge", "1")]);
    assert_eq!(
        task(&double, &used).0,
        "base volume 'disks:9000/base-9000-disk-0.qcow2' is still in use by linked cloned"
    );
    done(&double, "POST", "/nodes/pve1/qemu/101/status/stop", &[]);
    done(&double, "DELETE", "/nodes/pve1/qemu/101", &[("purge", "1")]);
    done(&double, "DELETE", "/nodes/pve1/qemu/9000", &[("purge", "1")]);
    done(&double, "DELETE", "/nodes/pve1/storage/local/content/local:import/node.qcow2", &[]);
    assert_eq!(double.world(|world| world.leftovers()), pve_double::Leftovers::default());
    double.finish().unwrap();
}

#[test]
fn thin_lvm_lets_a_base_go_and_thick_lvm_clones_nothing() {
    for (kind, feature, destroyed) in [(StorageKind::LvmThin, 1, "OK"), (StorageKind::Lvm, 0, "OK")]
    {
        let mut setup = Setup::default();
        setup.storages.get_mut("disks").unwrap().kind = kind;
        let double = Double::start(setup).unwrap();
        template(&double);
        let has = call(&double, "GET", "/nodes/pve1/qemu/9000/feature", &[("feature", "clone")]);
        assert_eq!(has.data()["hasFeature"], feature);
        let clone = call(
            &double,
            "POST",
            "/nodes/pve1/qemu/9000/clone",
            &[("newid", "101"), ("pool", "k3s")],
        );
        assert_eq!(task(&double, &clone).0 == "OK", feature == 1);
        let destroy = call(&double, "DELETE", "/nodes/pve1/qemu/9000", &[]);
        assert_eq!(task(&double, &destroy).0, destroyed);
    }
}

/// Effect, the task's end, and whether the half-made VM stays.
const CLONE_FAULTS: [(fn() -> Effect, &str, bool); 6] = [
    (|| Effect::Killed, "unexpected status", true),
    (
        || Effect::VmLockTimeout,
        "can't lock file '/var/lock/qemu-server/lock-9000.conf' - got timeout",
        false,
    ),
    (
        || Effect::StorageLockTimeout,
        "clone failed: can't lock file '/var/lock/pve-manager/pve-storage-disks' - got timeout",
        false,
    ),
    (
        || Effect::StorageFull,
        "clone failed: unable to allocate an image on storage 'disks': No space left on device",
        false,
    ),
    (|| Effect::Warnings(2), "WARNINGS: 2", true),
    (|| Effect::TaskFails("no".to_owned()), "clone failed: no", false),
];

#[test]
fn each_fault_of_a_clone_ends_its_task_and_leaves_what_proxmox_leaves() {
    let double = double();
    template(&double);
    for (effect, exit, stays) in CLONE_FAULTS {
        double.fault(Fault::new("POST /nodes/{node}/qemu/{vmid}/clone", 1, effect()));
        let clone = call(
            &double,
            "POST",
            "/nodes/pve1/qemu/9000/clone",
            &[("newid", "101"), ("pool", "k3s")],
        );
        assert_eq!(task(&double, &clone).0, exit);
        assert_eq!(double.world(|world| world.vms.contains_key(&101)), stays, "{exit}");
        assert_eq!(double.world(|world| world.leftovers().orphans), Vec::<String>::new(), "{exit}");
        double.world(|world| {
            world.faults.clear();
            world.vms.remove(&101);
            world.storages.get_mut("disks").unwrap().volumes.retain(|name, _| {
                name.contains("base") && !name.contains("vm-101") || name.contains("vm-9000")
            });
        });
    }
}

#[test]
fn lost_answers_may_or_may_not_have_had_their_effect() {
    for (effect, status, applied) in [
        (Effect::Timeout { applied: true }, 596, true),
        (Effect::Timeout { applied: false }, 596, false),
        (Effect::Dropped { applied: true }, 0, true),
        (Effect::Dropped { applied: false }, 0, false),
        (Effect::Unreachable, 595, false),
        (Effect::Status(500, "got no worker upid".to_owned()), 500, false),
    ] {
        let double = double();
        template(&double);
        double.fault(Fault::new("POST /nodes/{node}/qemu/{vmid}/clone", 1, effect));
        let answer = call(
            &double,
            "POST",
            "/nodes/pve1/qemu/9000/clone",
            &[("newid", "101"), ("pool", "k3s")],
        );
        assert_eq!(answer.status, status);
        assert_eq!(double.world(|world| world.vms.contains_key(&101)), applied);
        double.finish().unwrap();
    }
}

#[test]
fn an_upload_that_is_refused_late_stays_in_the_upload_folder() {
    let double = double();
    let body = parts(&[("content", "import")], "node.img", &image());
    let answer = upload_as(&double, &double.token(), "/nodes/pve1/storage/local/upload", &body);
    assert_eq!(
        (answer.status, answer.json["errors"]["filename"].as_str()),
        (400, Some("invalid filename or wrong extension"))
    );
    assert_eq!(double.world(|world| world.leftovers().uploads.len()), 1);
    let nobody = upload_as(&double, "x@pve!y=z", "/nodes/pve1/storage/local/upload", &body);
    assert_eq!(nobody.status, 0, "an upload without rights ends without an answer");
}

#[test]
fn a_fault_that_never_strikes_and_a_call_outside_the_table_fail_the_end() {
    let double = double();
    double.fault(Fault::new("GET /version", 2, Effect::Unreachable));
    call(&double, "GET", "/version", &[]).data();
    assert!(double.finish().unwrap_err().to_string().contains("never struck"));
    let double = self::double();
    assert_eq!(call(&double, "GET", "/cluster/ha/groups", &[]).status, 501);
    assert_eq!(call(&double, "GET", "/version", &[("x", "1")]).status, 400);
    let error = double.finish().unwrap_err().to_string();
    assert!(error.contains("GET /cluster/ha/groups; GET /version with `x`"), "{error}");
}
