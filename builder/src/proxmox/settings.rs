//! The VM that an image is made for: one table, by which templates are made and against which they
//! and the nodes' VMs are held (traps P: settings that break boots).

use super::calls::{Config, Storage};
use super::changes::Settings;
use crate::boot::Firmware;
use crate::config::Vm;

/// A setting that is the same for all: key, value, why.
const FIXED: [(&str, &str, &str); 10] = [
    ("ostype", "l26", "it is a Linux"),
    ("scsihw", "virtio-scsi-pci", "the initrd's driver; `single` makes a controller per disk"),
    ("boot", "order=scsi0", "the only disk"),
    ("serial0", "socket", "the console is on the first serial port"),
    ("vga", "serial0", "the web page shows that console"),
    ("agent", "enabled=1", "the join secret comes by the guest's agent"),
    ("balloon", "0", "the kubelet takes the memory it saw at its start for granted"),
    ("citype", "nocloud", "the kind of drive that was boot-tested"),
    (
        "ciupgrade",
        "0",
        "else every package is upgraded at the first boot, and no node is its image",
    ),
    ("tablet", "0", "nobody points at a node"),
];

/// Keys of [`FIXED`] without which a node does not boot or join: a VM that differs is a problem.
const NEEDED: [&str; 6] = ["scsihw", "serial0", "agent", "balloon", "citype", "ciupgrade"];

/// Models that a VM gets which was made by hand and says nothing, or too little.
const OLD_CPUS: [&str; 4] = ["", "kvm64", "qemu64", "kvm32"];

/// What a template is made with.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Its size.
    pub vm: &'a Vm,
    /// What the boot test started it with.
    pub firmware: Firmware,
    /// Bridge of the network card.
    pub bridge: &'a str,
    /// Where its disks go.
    pub storage: &'a Storage,
    /// The uploaded image.
    pub import: &'a str,
    /// Pool it goes into.
    pub pool: Option<&'a str>,
    /// What a person reads.
    pub description: &'a str,
}

impl Wanted<'_> {
    /// As parameters of the call that makes it. Tags are not among them: in a pool they need the VM
    /// to be there.
    pub fn settings(&self) -> Settings {
        let store = &self.storage.storage;
        // Without a format a folder would get a raw file, which has no linked clones.
        let format = if self.storage.is_files() { ",format=qcow2" } else { "" };
        let mut all = vec![
            ("cores".to_owned(), self.vm.cores.to_string()),
            ("memory".to_owned(), self.vm.memory.mib_ceil().to_string()),
            ("cpu".to_owned(), self.vm.cpu.clone()),
            ("net0".to_owned(), format!("virtio,bridge={}", self.bridge)),
            (
                "scsi0".to_owned(),
                format!("{store}:0,import-from={}{format},discard=on", self.import),
            ),
            ("ide2".to_owned(), format!("{store}:cloudinit")),
            ("description".to_owned(), self.description.to_owned()),
        ];
        all.extend(FIXED.map(|(key, value, _)| (key.to_owned(), value.to_owned())));
        if self.firmware == Firmware::Ovmf {
            let vars = format!("{store}:1,efitype=4m,pre-enrolled-keys=0{format}");
            let ovmf = [("bios", "ovmf"), ("machine", "q35"), ("efidisk0", &vars)];
            all.extend(ovmf.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        all.extend(self.pool.map(|pool| ("pool".to_owned(), pool.to_owned())));
        all
    }
}

/// What is wrong, and its fix.
type Fault = (String, String);

/// What is wrong with a template's or node's settings, each with its fix.
pub fn faults(config: &Config, vmid: u32, size: Option<&Vm>) -> Vec<Fault> {
    let needed = FIXED.iter().filter(|(key, ..)| NEEDED.contains(key));
    let mut faults: Vec<_> = needed.filter_map(|row| fixed(config, vmid, row)).collect();
    faults.extend(cpu(config, vmid));
    faults.extend(drives(config, vmid));
    faults.extend(size.and_then(|vm| memory(config, vmid, vm)));
    faults
}

fn set(vmid: u32, key: &str, value: &str) -> String {
    format!("`qm set {vmid} --{key} {value}`")
}

fn fixed(config: &Config, vmid: u32, (key, value, why): &(&str, &str, &str)) -> Option<Fault> {
    let found = config.get(key);
    let text = if found.is_empty() { "not set" } else { found };
    (!is_same(found, value))
        .then(|| (format!("{key} is {text}, not {value}: {why}"), set(vmid, key, value)))
}

fn cpu(config: &Config, vmid: u32) -> Option<Fault> {
    let cpu = config.get("cpu").split(',').next().unwrap_or_default();
    let cpu = cpu.trim_start_matches("cputype=");
    let found = if cpu.is_empty() { "kvm64, as none is set" } else { cpu };
    OLD_CPUS.contains(&cpu).then(|| {
        let text = format!("cpu is {found}: container images for x86-64-v2 die on it");
        (text, set(vmid, "cpu", crate::config::CPU))
    })
}

fn drives(config: &Config, vmid: u32) -> Vec<Fault> {
    let mut faults = Vec::new();
    if config.get("scsi0").is_empty() {
        faults.push(("scsi0 is missing: there is no disk".to_owned(), "push again".to_owned()));
    }
    if !config.get("ide2").contains("cloudinit") {
        let text = "ide2 is no cloud-init drive: the node would have no name and no address";
        faults.push((text.to_owned(), set(vmid, "ide2", "STORAGE:cloudinit")));
    }
    if config.is_template() && !config.get("tpmstate0").is_empty() {
        let text = "tpmstate0 is there: every clone would have the same TPM";
        faults.push((text.to_owned(), format!("`qm set {vmid} --delete tpmstate0`")));
    }
    faults
}

fn memory(config: &Config, vmid: u32, vm: &Vm) -> Option<Fault> {
    let mib = config.get("memory").split(',').next().unwrap_or_default();
    let mib: u64 = mib.trim_start_matches("current=").parse().unwrap_or(0);
    (mib < vm.memory.mib_ceil()).then(|| {
        let text = format!("memory is {mib} MiB, less than the profile's {}", vm.memory);
        (text, set(vmid, "memory", &vm.memory.mib_ceil().to_string()))
    })
}

/// `1` and `enabled=1` are one agent.
fn is_same(found: &str, value: &str) -> bool {
    let bare = |text: &str| text.trim_start_matches("enabled=").to_owned();
    found == value || found.split(',').next().map(bare) == Some(bare(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> Vm {
        Vm {
            cores: 4,
            memory: "8 GiB".parse().unwrap(),
            disk: "50 GiB".parse().unwrap(),
            cpu: "x86-64-v2-AES".into(),
        }
    }

    fn wanted(firmware: Firmware, kind: &str) -> Settings {
        let storage = Storage { storage: "disks".into(), kind: kind.into(), ..Storage::default() };
        let wanted = Wanted {
            vm: &vm(),
            firmware,
            bridge: "vmbr0",
            storage: &storage,
            import: "local:import/worker-3f9c2a71b0de.qcow2",
            pool: Some("k3s"),
            description: "text",
        };
        wanted.settings()
    }

    #[test]
    fn a_template_is_made_with_exactly_this() {
        let lines = |firmware, kind| {
            let all = wanted(firmware, kind).into_iter().map(|(k, v)| k + "=" + &v);
            all.collect::<Vec<_>>().join(
                "
",
            )
        };
        insta::assert_snapshot!(
            lines(Firmware::SeaBios, "lvmthin") + "\n\n" + &lines(Firmware::Ovmf, "dir")
        );
    }

    #[test]
    fn what_a_template_is_made_with_has_no_fault_and_what_people_make_has() {
        let made = Config(wanted(Firmware::Ovmf, "dir").into_iter().collect());
        assert_eq!(faults(&made, 9000, Some(&vm())), vec![]);
        let by_hand = [("memory", "2048"), ("scsihw", "virtio-scsi-single"), ("agent", "0")];
        let mut by_hand = Config(by_hand.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        by_hand.0.insert("template".into(), "1".into());
        by_hand.0.insert("tpmstate0".into(), "x".into());
        let told: Vec<_> = faults(&by_hand, 200, Some(&vm()))
            .into_iter()
            .map(|(a, b)| format!("{a}; {b}"))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
