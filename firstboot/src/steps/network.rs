//! The network: the node's own address is on an interface, and there is a default route, without
//! which K3s does not start ("unable to find suitable network address").

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrIn;

use super::{Done, Step, fixable};
use crate::boot::Boot;
use crate::retry::{Look, until};

/// The kernel's IPv4 routes.
const ROUTES: &str = "proc/net/route";

/// How long the address may take: cloud-init's network stage is over, so a fixed address is there
/// at once, and a slow DHCP server answers within a minute.
const LIMIT: Duration = Duration::from_mins(1);

const PAUSE: Duration = Duration::from_millis(100);

/// The step.
pub const STEP: Step = Step {
    name: "network",
    lasting: false,
    fix: "see `networkctl` and `ip route` on the node",
    satisfied: |boot| Ok(problem(boot)?.is_none()),
    apply,
};

fn apply(boot: &mut Boot) -> Result<Done> {
    let look = || Ok(problem(boot)?.map_or(Look::Done(()), Look::NotYet));
    until(boot.machine.limit(LIMIT), PAUSE, look).map_err(|e| {
        let gateway = boot.config.cluster.gateway;
        let fix = format!(
            "give the VM this address and the gateway {gateway} in its cloud-init settings \
             (ipconfig0), as cluster/cluster.toml has them"
        );
        fixable(format!("{e:#}"), fix)
    })?;
    Ok(Done::unchanged(boot.node()?.address.to_string()))
}

/// What is missing, if anything.
fn problem(boot: &Boot) -> Result<Option<String>> {
    let want = boot.node()?.address;
    let have = addresses()?;
    if !have.contains(&want) {
        let have: Vec<_> =
            have.iter().filter(|a| !a.is_loopback()).map(ToString::to_string).collect();
        let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
        return Ok(Some(format!(
            "no interface has this node's address {want} (there are: {have})"
        )));
    }
    let routes = fs_err::read_to_string(boot.path(ROUTES))?;
    Ok((!has_default_route(&routes)).then(|| "there is no default route".to_owned()))
}

fn addresses() -> Result<Vec<Ipv4Addr>> {
    let all = getifaddrs().context("failed to list the interfaces' addresses")?;
    Ok(all.filter_map(|i| i.address?.as_sockaddr_in().map(SockaddrIn::ip)).collect())
}

/// Whether a line of `/proc/net/route` has destination and mask 0: columns 2 and 8, in hex.
fn has_default_route(routes: &str) -> bool {
    let zero = |word: Option<&str>| word == Some("00000000");
    routes.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        zero(words.nth(1)) && zero(words.nth(5))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const HEAD: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    const LAN: &str = "eth0 0002A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
    const DEFAULT: &str = "eth0 00000000 0102A8C0 0003 0 0 0 00000000 0 0 0\n";

    #[test]
    fn a_default_route_has_destination_and_mask_0() {
        assert!(!has_default_route(""));
        assert!(!has_default_route(&format!("{HEAD}{LAN}")));
        assert!(has_default_route(&format!("{HEAD}{LAN}{DEFAULT}")));
    }

    #[test]
    fn the_address_and_the_route_must_both_be_there() {
        let (_dir, mut boot) = testing::agent();
        testing::put(&boot, ROUTES, &format!("{HEAD}{LAN}"));
        let text = apply(&mut boot).unwrap_err().to_string();
        assert!(text.starts_with("there is no default route"), "{text}");
        testing::put(&boot, ROUTES, &format!("{HEAD}{LAN}{DEFAULT}"));
        assert_eq!(apply(&mut boot).unwrap().detail, "127.0.0.1");
        assert!((STEP.satisfied)(&boot).unwrap());
        boot.config.cluster.nodes[1].address = "192.0.2.1".parse().unwrap();
        let text = apply(&mut boot).unwrap_err().to_string();
        assert!(text.starts_with("no interface has this node's address 192.0.2.1"), "{text}");
    }
}
