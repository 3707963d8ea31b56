//! Which ports of a node others may reach.

use node::config::Role;
use node::report::State;

use super::checks::Case;

/// First port the kernel gives to clients.
const EPHEMERAL: u16 = 32768;

/// Ports that must be open to others, and those that may be.
fn port_sets(case: &Case<'_>) -> (Vec<&'static str>, Vec<&'static str>) {
    let up = case.report.is_some_and(|r| r.state == State::Ready);
    match (case.plan.role, up) {
        (_, false) => (vec!["tcp/22"], vec![]),
        // kubelet, API server; flannel, etcd's own two, and the metrics of etcd, controller-manager
        // and scheduler (NFR18). Who may reach them is the firewall's to say.
        (Role::Server, true) => (
            vec!["tcp/22", "tcp/6443", "tcp/10250"],
            vec!["udp/8472", "tcp/2379", "tcp/2380", "tcp/2381", "tcp/10257", "tcp/10259"],
        ),
        (Role::Agent, true) => (vec!["tcp/22", "tcp/10250"], vec!["udp/8472"]),
    }
}

/// Judges the open ports by role and state.
pub fn judge(case: &Case<'_>) -> (String, String, bool) {
    let (must, may) = port_sets(case);
    let mut open: Vec<String> =
        case.facts.ok("ports").unwrap_or_default().lines().filter_map(open_port).collect();
    open.sort();
    open.dedup();
    let missing = must.iter().any(|p| !open.iter().any(|o| o == p));
    let foreign = open.iter().any(|o| !must.iter().chain(&may).any(|p| p == o));
    let right = match may.as_slice() {
        [] => must.join(" "),
        may => format!("{} (and {})", must.join(" "), may.join(" ")),
    };
    (right, open.join(" "), !missing && !foreign)
}

/// `tcp/22` from a line of `ss -Hlntu`; nothing for a port that only the node itself reaches.
fn open_port(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let kind = words.next()?;
    let (address, port) = words.nth(3)?.rsplit_once(':')?;
    // A client that waits for an answer (DNS, NTP) holds a port of this range for a moment.
    let passing = kind == "udp" && port.parse().is_ok_and(|p: u16| p >= EPHEMERAL);
    let local = address.starts_with("127.") || address == "[::1]" || address.contains("%lo");
    (!local && !passing).then(|| format!("{kind}/{port}"))
}
