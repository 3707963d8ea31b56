//! What a boot test is asked to do: plain values, so that it needs nothing of the rest of the
//! program to run.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::config::Role;
use node::image_id::ImageId;
use node::values::{Cidr, Digest, Domain, Hostname, Size};
use serde::{Deserialize, Serialize};

use super::inject::Credential;
use super::programs::Tools;

/// From power-on to the verdict under emulation: twice what a master took on two busy cores.
pub const TCG_TIMEOUT: Duration = Duration::from_mins(15);
/// The same where the processor runs the guest itself.
pub const KVM_TIMEOUT: Duration = Duration::from_secs(90);

/// One boot of one image.
#[derive(Debug, Clone)]
pub struct BootPlan {
    /// The qcow2 file; it is only read.
    pub image: PathBuf,
    /// SHA-256 of the file as its manifest gives it; the boot refuses any other bytes.
    pub expected: Option<Digest>,
    /// The id the image must say it has, in os-release and in firstboot's report.
    pub image_id: Option<ImageId>,
    /// What starts the guest.
    pub firmware: Firmware,
    /// `None`: probe KVM, fall back to emulation.
    pub accel: Option<Accel>,
    /// Who the guest is told to be.
    pub node: NodeIdentity,
    /// The nodes' LAN, which the guest finds around it as in production.
    pub network: Cidr,
    /// Address of the Kubernetes API in that LAN.
    pub api: Ipv4Addr,
    /// Server or agent: which ports must listen.
    pub role: Role,
    /// Join secret as it travels, written into the running guest by its agent; `None` gives none.
    pub join: Option<Vec<u8>>,
    /// Servers on this host that answer in the guest's LAN; other addresses stay unanswered.
    pub forwards: Vec<Forward>,
    /// The state that counts as success.
    pub expect: Expect,
    /// Where the guest's disk is kept and found again; `None`: a new one, thrown away.
    pub disk_file: Option<PathBuf>,
    /// How the machine ends after the verdict.
    pub ending: Ending,
    /// The hardware clock at power-on in QEMU's own form; `None`: the host's.
    pub clock: Option<String>,
    /// Size the disk is given; larger than the image's own, so that growth is seen.
    pub disk: Size,
    /// Memory of the guest.
    pub memory: Size,
    /// Processors of the guest.
    pub cpus: u32,
    /// Private key that opens the kept guest, to be named to whoever is to log in.
    pub login_key: Option<PathBuf>,
    /// From power-on to verdict; `None`: [`KVM_TIMEOUT`] or [`TCG_TIMEOUT`].
    pub timeout: Option<Duration>,
    /// Where the console is recorded; the file is removed after a pass.
    pub console_log: PathBuf,
    /// The programs used.
    pub tools: Tools,
    /// The cloud-init drive.
    pub seed: Seed,
    /// Further systemd credentials for the guest, see [`super::inject`].
    pub credentials: Vec<Credential>,
}

/// A server on this host that the guest finds in its LAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Address in the guest's LAN.
    pub address: Ipv4Addr,
    /// TCP port there.
    pub port: u16,
    /// Who answers.
    pub server: SocketAddr,
}

/// How a machine ends after its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest cuts its own power, with [`super::inject::SUCCESS_EXIT`].
    PowerCut,
    /// By the power button, as Proxmox' `shutdown`.
    Shutdown,
    /// Not before Ctrl-C.
    Keep,
}

/// What starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// BIOS, on the i440fx machine that Proxmox gives by default.
    SeaBios,
    /// UEFI, on the q35 machine.
    Ovmf,
}

/// Who runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accel {
    /// QEMU's arguments for it, with the processor the guest sees. The probe uses the same: that
    /// processor model is what a nested KVM fails on first.
    pub const fn arguments(self) -> &'static str {
        match self {
            Self::Kvm => "-accel kvm -cpu host",
            Self::Tcg => "-accel tcg,thread=multi -cpu max",
        }
    }
}

/// The state a boot must end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// The node is Ready in Kubernetes.
    Ready,
    /// Maintenance mode: everything stands, no join secret was given.
    Waiting,
}

/// The cloud-init drive a guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seed {
    /// As Proxmox writes it.
    NoCloud,
    /// None at all.
    Missing,
    /// There, with a `user-data` that is no YAML.
    Broken,
}

/// What the cloud-init drive tells the guest.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// Host name.
    pub name: Hostname,
    /// Fixed address.
    pub address: Ipv4Addr,
    /// Prefix length of the LAN.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// Name servers.
    pub nameservers: Vec<Ipv4Addr>,
    /// Search domain.
    pub domain: Domain,
    /// User that gets the keys; empty: the image's own default user.
    pub user: String,
    /// Public SSH keys, one per entry.
    pub ssh_keys: Vec<String>,
    /// The network card's address, see [`mac_of`].
    pub mac: [u8; 6],
}

/// A node's fixed MAC: Proxmox' own prefix and three bytes of a hash over cluster and node, so
/// that a rebuilt node keeps it.
pub fn mac_of(cluster: &str, node: &Hostname) -> [u8; 6] {
    let digest = Digest::of(format!("{cluster}/{node}"));
    let hash = digest.as_bytes();
    [0xbc, 0x24, 0x11, hash[0], hash[1], hash[2]]
}

/// A MAC as QEMU and cloud-init write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeaBios => "SeaBIOS",
            Self::Ovmf => "OVMF",
        })
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG (emulation)",
        })
    }
}

impl BootPlan {
    /// Whole time allowed with this kind of acceleration.
    pub fn deadline(&self, accel: Accel) -> Duration {
        self.timeout.unwrap_or(match accel {
            Accel::Kvm => KVM_TIMEOUT,
            Accel::Tcg => TCG_TIMEOUT,
        })
    }

    /// Whether the guest is given what no node would find at its first boot, so that its verdict
    /// says nothing of the image.
    pub fn is_unlike_production(&self) -> bool {
        self.seed != Seed::NoCloud
            || !self.credentials.is_empty()
            || self.clock.is_some()
            || self.disk_file.is_some()
    }

    /// Two addresses of the LAN that nothing else has, for QEMU's own host and DHCP server.
    ///
    /// # Errors
    /// An address of the plan lies outside the LAN, or the LAN is too small.
    pub fn spare_addresses(&self) -> Result<(Ipv4Addr, Ipv4Addr)> {
        let mut taken = vec![self.node.address, self.node.gateway, self.api];
        taken.extend(self.forwards.iter().map(|f| f.address));
        for &address in &taken {
            ensure!(self.network.contains(address), "{address} is not in {}", self.network);
        }
        let first = self.network.network().to_bits().saturating_add(1);
        let last = self.network.broadcast().to_bits();
        let mut free = (first..last).rev().map(Ipv4Addr::from_bits).filter(|a| !taken.contains(a));
        free.next()
            .zip(free.next())
            .with_context(|| format!("{} has no two free addresses for the test", self.network))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> BootPlan {
        BootPlan {
            image: "worker.qcow2".into(),
            expected: None,
            image_id: Some("worker-3f9c2a71b0de".parse().unwrap()),
            firmware: Firmware::SeaBios,
            accel: None,
            node: NodeIdentity {
                name: "k3s-worker-01".parse().unwrap(),
                address: Ipv4Addr::new(192, 168, 2, 21),
                prefix: 24,
                gateway: Ipv4Addr::new(192, 168, 2, 1),
                nameservers: vec![Ipv4Addr::new(192, 168, 2, 1)],
                domain: "home.example.net".parse().unwrap(),
                user: "ops".into(),
                ssh_keys: vec!["ssh-ed25519 AAAA ops@example".into()],
                mac: mac_of("home", &"k3s-worker-01".parse().unwrap()),
            },
            network: "192.168.2.0/24".parse().unwrap(),
            api: Ipv4Addr::new(192, 168, 2, 20),
            role: Role::Agent,
            join: None,
            forwards: Vec::new(),
            expect: Expect::Waiting,
            disk: "8 GiB".parse().unwrap(),
            memory: "2 GiB".parse().unwrap(),
            cpus: 2,
            disk_file: None,
            ending: Ending::PowerCut,
            clock: None,
            login_key: None,
            timeout: None,
            console_log: "console.log".into(),
            tools: Tools::from_path().unwrap(),
            seed: Seed::NoCloud,
            credentials: Vec::new(),
        }
    }

    #[test]
    fn spare_addresses_are_free_and_a_full_or_foreign_network_is_refused() {
        let text = |plan: &BootPlan| plan.spare_addresses().map_err(|e| e.to_string());
        let mut plan = sample();
        assert_eq!(text(&plan).unwrap(), ([192, 168, 2, 254].into(), [192, 168, 2, 253].into()));
        plan.node.gateway = [192, 168, 2, 254].into();
        assert_eq!(text(&plan).unwrap(), ([192, 168, 2, 253].into(), [192, 168, 2, 252].into()));
        plan.node.gateway = [10, 0, 0, 1].into();
        assert_eq!(text(&plan).unwrap_err(), "10.0.0.1 is not in 192.168.2.0/24");
        plan.network = "192.168.2.20/30".parse().unwrap();
        (plan.node.gateway, plan.node.address) =
            ([192, 168, 2, 22].into(), [192, 168, 2, 21].into());
        assert_eq!(
            text(&plan).unwrap_err(),
            "192.168.2.20/30 has no two free addresses for the test"
        );
    }

    #[test]
    fn a_mac_is_fixed_by_cluster_and_name() {
        let mac = |cluster, name: &str| mac_text(mac_of(cluster, &name.parse().unwrap()));
        assert_eq!(mac("home", "k3s-worker-01"), mac("home", "k3s-worker-01"));
        assert_ne!(mac("home", "k3s-worker-01"), mac("work", "k3s-worker-01"));
        assert!(mac("home", "a").starts_with("bc:24:11:"));
    }
}
