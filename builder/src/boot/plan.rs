//! What a boot test is asked to do: plain values, so that it needs nothing of the rest of the
//! program to run.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use node::config::Role;
use node::image_id::ImageId;
use node::join::Join;
use node::values::{Cidr, Digest, Domain, Hostname, Size};
use serde::{Deserialize, Serialize};

use super::inject::Credential;

/// From power-on to the verdict under emulation: twice what a master took on two busy cores.
pub const TCG_TIMEOUT: Duration = Duration::from_mins(10);
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
    /// Join secret, written into the running guest by its agent; `None` gives none.
    pub join: Option<Join>,
    /// Server on this host that answers for `api`:6443; `None` leaves that address unanswered
    /// (a server is its own API).
    pub forward: Option<SocketAddr>,
    /// The state that counts as success.
    pub expect: Expect,
    /// Size the disk is given; larger than the image's own, so that growth is seen.
    pub disk: Size,
    /// Memory of the guest.
    pub memory: Size,
    /// Processors of the guest.
    pub cpus: u32,
    /// Leave the guest running after the verdict, until Ctrl-C.
    pub keep: bool,
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

/// Makes a fresh command for one program.
pub type Program = Arc<dyn Fn() -> Command + Send + Sync>;

/// The programs a boot uses; each can be run in a way of the caller's own.
#[derive(Clone)]
pub struct Tools {
    /// `qemu-system-x86_64`
    pub qemu: Program,
    /// `qemu-img`
    pub qemu_img: Program,
    /// `xorriso`
    pub xorriso: Program,
    /// The program whose hidden subcommand `relay HOST:PORT` is [`super::relay::relay`].
    pub relay: PathBuf,
    /// UEFI code and an empty variable store, both 4 MiB builds.
    pub ovmf: (PathBuf, PathBuf),
}

impl Tools {
    /// Everything from `PATH` and where Debian's packages put it.
    ///
    /// # Errors
    /// The path of the running program is not known.
    pub fn from_path() -> Result<Self> {
        let relay = std::env::current_exe().context("failed to find this program's own file")?;
        let program = |name: &'static str| -> Program { Arc::new(move || Command::new(name)) };
        Ok(Self {
            qemu: program("qemu-system-x86_64"),
            qemu_img: program("qemu-img"),
            xorriso: program("xorriso"),
            relay,
            ovmf: (
                PathBuf::from("/usr/share/OVMF/OVMF_CODE_4M.fd"),
                PathBuf::from("/usr/share/OVMF/OVMF_VARS_4M.fd"),
            ),
        })
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("relay", &self.relay).finish_non_exhaustive()
    }
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

    /// Two addresses of the LAN that nothing else has, for QEMU's own host and DHCP server.
    ///
    /// # Errors
    /// An address of the plan lies outside the LAN, or the LAN is too small.
    pub fn spare_addresses(&self) -> Result<(Ipv4Addr, Ipv4Addr)> {
        let taken = [self.node.address, self.node.gateway, self.api];
        for address in taken {
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
            forward: None,
            expect: Expect::Waiting,
            disk: "8 GiB".parse().unwrap(),
            memory: "2 GiB".parse().unwrap(),
            cpus: 2,
            keep: false,
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
