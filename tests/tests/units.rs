//! The units of an image, on its real root file system in systemd-nspawn: their order, the ledger over
//! several starts, the secret that arrives late, and the order of a shutdown.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends at what cannot be")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::container::{Container, Disk, Identity};
use e2e::{images, sample};
use node::join::{Bootstrap, Join};
use node::report::{Outcome, Report, State};
use node::values::Digest;

/// For whatever a unit does here: seconds on an idle machine.
const SOON: Duration = Duration::from_mins(3);

const WORKER: Identity =
    Identity { name: "k3s-worker-01", address: "192.168.2.21/24", gateway: "192.168.2.1/24" };
const MASTER: Identity = Identity { name: "k3s-master", address: "192.168.2.20/24", ..WORKER };

/// Each test's own: what a `static` holds is never dropped, and this is a whole disk.
fn disk(profile: &str) -> Disk {
    Disk::of(images::of(profile).unwrap()).unwrap()
}

/// The report once it says this state.
fn reported(node: &Container<'_>, state: State) -> Result<Report> {
    node.until(&format!("{state:?}"), SOON, |node| {
        let report = node.report()?;
        ensure!(report.state == state, "{:?} {:?}", report.state, report.failure);
        Ok(report)
    })
}

/// A unit's property, such as a time in microseconds since the start.
fn property(node: &Container<'_>, unit: &str, name: &str) -> Result<String> {
    node.run(&format!("systemctl show --value -p {name} {unit}"))
}

fn time(node: &Container<'_>, unit: &str, name: &str) -> u64 {
    let text = property(node, unit, &format!("{name}TimestampMonotonic")).unwrap();
    let time = text.parse().unwrap();
    assert!(time > 0, "{unit} has no {name}");
    time
}

fn state(node: &Container<'_>, unit: &str) -> String {
    property(node, unit, "ActiveState").unwrap()
}

fn secret(name: &str, bootstrap: Bootstrap) -> Vec<u8> {
    let is_server = bootstrap != Bootstrap::No;
    let of = |what: &str| is_server.then(|| Digest::of(what).to_string());
    let join = Join {
        node: name.parse().unwrap(),
        token: Digest::of("token").to_string(),
        agent_token: of("agents"),
        cluster_id: is_server.then(|| "home-test".parse().unwrap()),
        snapshot_key: of("key"),
        bootstrap,
    };
    join.encode().unwrap()
}

/// Writes the payload as the guest's agent does: in place.
fn give(node: &Container<'_>, payload: &[u8]) {
    let text = String::from_utf8(payload.to_vec()).unwrap();
    let quoted = text.replace('\'', r"'\''");
    node.run(&format!("printf %s '{quoted}' >/run/firstboot/join/payload")).unwrap();
}

/// Without a secret: everything stands but K3s, and nothing waited for what waits for it.
fn waits_in_the_right_order(node: &Container<'_>) {
    reported(node, State::Waiting).unwrap();
    let settled = |n: &Container<'_>| {
        let state = n.run("systemctl is-system-running || true")?;
        ensure!(state == "running" || state == "degraded", "{state}");
        Ok(())
    };
    node.until("the end of the start", SOON, settled).unwrap();
    assert_eq!(property(node, "firstboot-host", "Result").unwrap(), "success");
    for (unit, wanted) in [
        ("firstboot-host.service", "inactive"),
        ("firstboot-join.path", "active"),
        ("k3s-agent.service", "inactive"),
        ("ssh.service", "active"),
        ("multi-user.target", "active"),
    ] {
        assert_eq!(state(node, unit), wanted, "{unit}");
    }
    // cloud-init's last stage waits for multi-user.target, and so for us: we must not for it.
    let ended = time(node, "firstboot-host", "ExecMainExit");
    assert!(time(node, "cloud-final.service", "ExecMainStart") > ended);
    assert!(time(node, "cloud-init-network.service", "ExecMainExit") < ended);
}

fn has_no_cycle(node: &Container<'_>) {
    let units = "default.target firstboot-host.service firstboot-cluster.service \
                 firstboot-join.path firstboot-watch.timer k3s-agent.service";
    let said = node.run(&format!("systemd-analyze verify {units} 2>&1 || true")).unwrap();
    let bad =
        |line: &&str| line.contains("cycle") || line.contains("firstboot") || line.contains("k3s");
    let found: Vec<_> = said.lines().filter(bad).collect();
    assert!(found.is_empty(), "{found:#?}");
    let journal = node.run("journalctl -b --no-pager | grep -c 'ordering cycle' || true").unwrap();
    assert_eq!(journal, "0");
}

/// What others have tripped over (docs/traps.md), each as the running system shows it.
fn stands_where_others_fell(node: &Container<'_>) {
    let says = |unit: &str, name: &str, wanted: &str| {
        let found = property(node, unit, name).unwrap();
        assert!(found.contains(wanted), "{name} of {unit}: {found}");
    };
    let none = |line: &str| assert_eq!(node.run(line).unwrap(), "", "{line}");
    // P1: Proxmox asked for an upgrade of all packages. B3: apt comes after firstboot, not beside it.
    none("grep package_update_upgrade_install /var/log/cloud-init.log || true");
    none("ls /var/log/apt/history.log /var/log/dpkg.log 2>/dev/null || true");
    for unit in ["apt-daily.service", "apt-daily-upgrade.service"] {
        says(unit, "After", "firstboot-host.service");
    }
    says("apt-daily.timer", "Persistent", "no");
    // P8: the host key is made on the node, before anybody can log in.
    let key = "/etc/ssh/ssh_host_ed25519_key";
    assert!(node.path(key.trim_start_matches('/')).exists(), "it is in the image");
    let made: u64 = node.run(&format!("stat -c %Y {key}")).unwrap().parse().unwrap();
    let begun = "systemctl show --timestamp=unix --value -p ExecMainStartTimestamp ssh.service";
    let begun = node.run(begun).unwrap();
    assert!(made <= begun.trim_start_matches('@').parse().unwrap(), "{made} {begun}");
    // B5: one link is enough.
    says("systemd-networkd-wait-online.service", "ExecStart", "--any");
    // B6: the images' cache is there for K3s to open, and nothing is newer than the image.
    let images = "/var/lib/rancher/k3s/agent/images";
    assert_eq!(node.run(&format!("stat -c %s {images}/.cache.json")).unwrap(), "0");
    let times = format!("cd {images} && stat -c %Y .cache.json * | sort -u | wc -l");
    assert_eq!(node.run(&times).unwrap(), "1");
    // B7 and B8: nothing mounts at a touch, and a dead server's mount goes before the network, by force.
    none("systemctl list-units --all --type=automount --no-legend --plain | grep srv- || true");
    let mount = "srv-nfs-data.mount";
    says(mount, "After", "network.target");
    says(mount, "Conflicts", "umount.target");
    for forced in ["LazyUnmount", "ForceUnmount"] {
        says(mount, forced, "yes");
    }
    // E5: K3s needs no mount to start or to go on.
    for kind in ["Requires", "BindsTo", "Requisite", "RequiresMountsFor"] {
        assert!(!property(node, "k3s-agent.service", kind).unwrap().contains("nfs"), "{kind}");
    }
}

/// Everything firstboot has written, by content and time.
fn written(node: &Container<'_>) -> String {
    node.run(
        "cd /; for f in $(find etc/rancher etc/systemd/system var/lib/firstboot -type f | sort); do \
         echo \"$f $(stat -c %Y.%i $f) $(sha256sum <$f)\"; done",
    )
    .unwrap()
}

fn host_key(node: &Container<'_>) -> String {
    node.run("cd /etc/ssh && sha256sum ssh_host_*_key").unwrap()
}

fn applied(report: &Report) -> Vec<&str> {
    let steps = report.steps.iter().filter(|step| step.outcome == Outcome::Applied);
    steps.map(|step| step.name.as_str()).collect()
}

#[test]
fn a_worker_waits_takes_its_secret_and_changes_nothing_at_later_starts() {
    let disk = disk("worker");
    let mut node = Container::new(&disk, WORKER).unwrap();
    let start = Instant::now();
    node.boot(true).unwrap();
    waits_in_the_right_order(&node);
    println!("started, waiting for a secret: {:.1?}", start.elapsed());
    has_no_cycle(&node);
    stands_where_others_fell(&node);
    let key = host_key(&node);

    let start = Instant::now();
    give(&node, &secret(WORKER.name, Bootstrap::No));
    let first = reported(&node, State::Starting).unwrap();
    println!("a secret by the path unit: {:.1?}", start.elapsed());
    assert!(applied(&first).contains(&"k3s-config"), "{first:#?}");
    node.until("K3s", SOON, |n| {
        let found = property(n, "k3s-agent", "ActiveState")?;
        ensure!(found == "activating", "{found}");
        Ok(())
    })
    .unwrap();
    let ended = time(&node, "firstboot-host", "ExecMainExit");
    assert!(
        time(&node, "k3s-agent", "ExecMainStart") > ended,
        "K3s began before its settings stood"
    );
    node.shut_down().unwrap();

    let mut before = None;
    for number in 2..=3 {
        // P2: a setting changed in Proxmox makes another instance of the same node.
        node.instance(number).unwrap();
        let start = Instant::now();
        node.boot(true).unwrap();
        let report = reported(&node, State::Starting).unwrap();
        println!("start {number}: {:.1?}; applied {:?}", start.elapsed(), applied(&report));
        assert_eq!(host_key(&node), key, "whoever knew this node is warned of another");
        // What each start must do anew: it begins with an empty /run.
        let lasting = ["secret", "k3s-config", "origin", "machine-id", "hostname", "network"];
        assert!(!applied(&report).iter().any(|name| lasting.contains(name)), "{report:#?}");
        let own: u64 = report.steps.iter().filter(|s| s.name != "clock").map(|s| s.millis).sum();
        println!("start {number}: firstboot's steps took {own} ms");
        let now = written(&node);
        assert!(now.contains("etc/rancher/k3s/secrets/agent-token"), "{now}");
        if let Some(before) = before.replace(now.clone()) {
            assert_eq!(now, before, "a later start wrote something");
        }
        // Once in order, once by a power cut.
        if number == 2 {
            node.cut();
        }
    }
}

/// Trap P5: Proxmox makes the other kind of drive for guests of another type.
#[test]
fn a_config_drive_names_a_node_as_well() {
    let disk = disk("worker");
    let mut node = Container::new(&disk, WORKER).unwrap();
    node.use_config_drive().unwrap();
    node.boot(true).unwrap();
    // Name, address and route were right: all that is missing is the secret.
    let failure = reported(&node, State::Waiting).unwrap().failure.unwrap();
    assert_eq!(failure.step, "secret");
}

/// After its minute of waiting firstboot says what is missing.
fn the_missing_network_is_told(node: &Container<'_>) {
    let failure = reported(node, State::Failed).unwrap().failure.unwrap();
    assert_eq!(failure.step, "network");
    assert!(failure.cause.contains("no interface has this node's address"), "{}", failure.cause);
    assert_eq!(state(node, "ssh.service"), "active");
}

/// Without a network firstboot waits a minute for one: sshd and the login must not.
#[test]
fn ssh_is_up_while_firstboot_still_waits() {
    let disk = disk("worker");
    let mut node = Container::new(&disk, WORKER).unwrap();
    node.boot(false).unwrap();
    let up = |n: &Container<'_>| {
        let ssh = property(n, "ssh.service", "ActiveState")?;
        let host = property(n, "firstboot-host.service", "ActiveState")?;
        ensure!(ssh == "active" && host == "activating", "ssh {ssh}, firstboot {host}");
        Ok(())
    };
    node.until("sshd before firstboot's end", SOON, up).unwrap();
    if sample::is_full() {
        the_missing_network_is_told(&node);
    }
}

/// As it does in a call on an NFS mount whose server died: the first run hangs until systemd ends it.
#[test]
fn a_host_stage_that_hung_is_run_again() {
    let disk = disk("worker");
    let mut node = Container::new(&disk, WORKER).unwrap();
    let hangs = "[Service]\nTimeoutStartSec=30\nRestartSec=1\nExecStartPre=/bin/sh -c \
                 'test -e /var/hung || { touch /var/hung; exec sleep 600; }'\n";
    node.put("etc/systemd/system/firstboot-host.service.d/90-e2e.conf", hangs).unwrap();
    node.boot(true).unwrap();
    reported(&node, State::Waiting).unwrap();
    assert_eq!(property(&node, "firstboot-host", "NRestarts").unwrap(), "1");
    assert_eq!(property(&node, "firstboot-host", "Result").unwrap(), "success");
}

/// The real etcd and API server, without a kubelet: this host has no control groups for one in here.
/// That the snapshot itself comes to NFS is shown in `restore.rs`.
#[test]
fn a_master_takes_its_last_snapshot_before_anything_it_needs_stops() {
    let disk = disk("master");
    let mut node = Container::new(&disk, MASTER).unwrap();
    node.put("etc/rancher/k3s/config.yaml.d/90-e2e.yaml", "disable-agent: true\n").unwrap();
    node.boot(true).unwrap();
    reported(&node, State::Waiting).unwrap();
    // Else it is used up while there is no K3s, and the first snapshot comes half a day later.
    assert_eq!(state(&node, "firstboot-snapshot.timer"), "inactive");
    give(&node, &secret(MASTER.name, Bootstrap::Unrecorded));
    let start = Instant::now();
    for unit in ["k3s.service", "firstboot-last-snapshot.service", "firstboot-snapshot.timer"] {
        let active = |n: &Container<'_>| {
            let found = property(n, unit, "ActiveState")?;
            ensure!(found == "active", "{found}");
            Ok(())
        };
        node.until(unit, SOON, active).unwrap();
    }
    println!("a real control plane from the secret on: {:.1?}", start.elapsed());
    let took = node.shut_down().unwrap();
    println!("shutdown with a last snapshot: {took:.1?}");
    let console = node.console();
    let at = |text: &str| console.find(text).unwrap_or_else(|| panic!("no `{text}`: {console}"));
    let snapshot = at("Stopped firstboot-last-snapshot");
    assert!(snapshot < at("Stopping k3s.service"), "{console}");
    assert!(at("Stopped k3s.service") < at("Stopped target network.target"), "{console}");
    // There is no NFS in here, and the snapshot says so: by the very command that would take it.
    assert!(console.contains("is not mounted"), "{console}");
}
