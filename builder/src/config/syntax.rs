//! Rules of short texts that other projects made: package names, Kubernetes labels and taints,
//! paths. Each returns the rule that is broken, in words that continue `KEY = VALUE`.

/// The result of a rule: `Err` holds it in words.
pub type Rule = Result<(), String>;

/// Prefix of labels that only the control plane may set on a Node.
const ROLE_PREFIX: &str = "node-role.kubernetes.io";

/// Labels below `kubernetes.io` that a kubelet may set on its own Node all the same.
const KUBELET_LABELS: [&str; 6] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "beta.kubernetes.io/instance-type",
];

/// Effects a taint can have.
pub const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn require(holds: bool, rule: &str) -> Rule {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

/// A binary package's name, by Debian policy 5.6.7.
pub fn package(name: &str) -> Rule {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let holds = name.len() >= 2
        && name.starts_with(first)
        && name.chars().all(|c| first(c) || "+-.".contains(c));
    require(holds, "is not a package name: two or more lower-case letters, digits, `+`, `-` or `.`")
}

/// A systemd unit's name with its type.
pub fn unit(name: &str) -> Rule {
    const TYPES: [&str; 7] =
        [".service", ".socket", ".timer", ".target", ".mount", ".automount", ".path"];
    let chars = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let holds = name.chars().all(chars) && TYPES.iter().any(|t| name.ends_with(t));
    require(holds, "is not the name of a unit, such as `apt-daily.timer`")
}

/// The sentence that says why something is there.
pub fn reason(text: &str) -> Rule {
    require(!text.trim().is_empty(), "must say in a sentence why it is there")
}

/// Any text that says something.
pub fn not_empty(text: &str) -> Rule {
    require(!text.trim().is_empty(), "must not be empty")
}

/// A word of an archive: suite, component, version.
pub fn word(text: &str) -> Rule {
    let chars = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    require(
        !text.is_empty() && text.chars().all(chars),
        "must be a word of letters, digits, `-`, `.` and `_`",
    )
}

/// An absolute path without `..`.
pub fn absolute_path(text: &str) -> Rule {
    require(text.starts_with('/'), "must be an absolute path")?;
    require(text.split('/').all(|part| part != ".."), "must not hold `..`")
}

/// The URL of a Proxmox API.
pub fn endpoint(text: &str) -> Rule {
    let host = text.strip_prefix("https://").unwrap_or_default();
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    let bare = !text.trim_start_matches("https://").contains(['/', '@', '?', '#', ' ']);
    require(is_dns_name(host) && bare, "must be a URL such as `https://pve1.example.net:8006`")
}

/// The URL of a package archive, as apt's sources hold it.
pub fn archive(text: &str) -> Rule {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.unwrap_or_default();
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.:-_~".contains(c);
    let holds = is_dns_name(host) && rest.chars().all(plain) && !rest.ends_with('/');
    require(
        holds,
        "must be a URL such as `https://mirror.example.net/debian`, without a `/` behind",
    )
}

/// The URL of an ntfy topic. A server at home often speaks plain HTTP.
pub fn ntfy(text: &str) -> Rule {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (server, topic) = rest.unwrap_or_default().split_once('/').unwrap_or_default();
    let (host, port) = server.split_once(':').unwrap_or((server, "443"));
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let named = (1..=64).contains(&topic.len()) && topic.chars().all(word);
    let holds = is_dns_name(host) && port.parse::<u16>().is_ok() && named;
    require(holds, "must be the URL of a topic, such as `https://ntfy.example.net/nodes`")
}

/// A name or an address of a host.
pub fn host(text: &str) -> Rule {
    require(is_dns_name(text), "must be the name or the IPv4 address of a host")
}

/// A name Proxmox allows for storages and bridges.
pub fn proxmox_name(text: &str) -> Rule {
    let chars = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let holds = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(chars);
    require(holds, "must be a name of letters, digits, `-`, `_` and `.` that starts with a letter")
}

/// A processor model that Proxmox knows and that runs what is in an image.
pub fn cpu(text: &str) -> Rule {
    // x86-64-v1: container images for v2, such as those of RHEL 9, die there of an illegal
    // instruction.
    const TOO_OLD: [&str; 6] = ["486", "kvm32", "kvm64", "pentium", "qemu32", "qemu64"];
    let chars = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    require(
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(chars),
        "must be a processor model of Proxmox, such as `x86-64-v2-AES` or `host`",
    )?;
    require(
        !TOO_OLD.contains(&text),
        "is older than x86-64-v2, which many container images need: take `x86-64-v2-AES` or `host`",
    )
}

/// The SHA-256 fingerprint of a certificate as Proxmox shows it.
pub fn fingerprint(text: &str) -> Rule {
    require(
        crate::proxmox::tls::Fingerprint::parse(text).is_some(),
        "must be the SHA-256 fingerprint of a certificate: 32 hex pairs with `:` between them",
    )
}

/// A public SSH key, as it stands in `id_ed25519.pub`.
pub fn ssh_key(text: &str) -> Rule {
    let mut words = text.split(' ');
    let kind = words.next().unwrap_or_default();
    let body = words.next().unwrap_or_default();
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let known = ["ssh-", "ecdsa-sha2-", "sk-"].iter().any(|start| kind.starts_with(start));
    let one_line = text.chars().all(|c| !c.is_control());
    require(
        known && one_line && body.len() >= 40 && body.chars().all(base64),
        "must be one line of a public SSH key: `ssh-ed25519 AAAA… NAME`",
    )
}

/// A file of the operator's that must not lie in the project.
pub fn private_path(text: &str) -> Rule {
    require(
        text.starts_with('/') || text.starts_with("~/"),
        "must be absolute or start with `~/`: a secret does not belong into the project",
    )
}

/// A path below some folder: relative, without `..`.
pub fn relative_path(text: &str) -> Rule {
    require(!text.is_empty() && !text.starts_with('/'), "must be a relative path")?;
    require(text.split('/').all(|p| !matches!(p, "" | "." | "..")), "must not hold `.` or `..`")
}

/// A kubelet argument's name, as in `--max-pods`.
pub fn kubelet_argument(name: &str) -> Rule {
    let chars = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let holds = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(chars);
    require(holds, "is not a kubelet argument: write it without dashes in front, as `max-pods`")
}

/// A label's key that a kubelet may give its own Node.
pub fn label_key(key: &str) -> Rule {
    qualified_name(key)?;
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    if prefix == ROLE_PREFIX {
        let rule = "is a label of the control plane: the NodeRestriction admission plugin refuses \
                    it from a kubelet, which then cannot register";
        return Err(rule.to_owned());
    }
    let below = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    let own = below("kubelet.kubernetes.io") || below("node.kubernetes.io");
    let reserved = below("kubernetes.io") || below("k8s.io");
    require(
        !reserved || own || KUBELET_LABELS.contains(&key),
        "is reserved by Kubernetes: a kubelet may set only labels of other domains",
    )
}

/// A label's value: empty, or like a name.
pub fn label_value(value: &str) -> Rule {
    require(
        value.is_empty() || is_name(value),
        "must be empty or at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at \
         both ends",
    )
}

/// A taint as `key[=value]:Effect`.
pub fn taint(text: &str) -> Rule {
    let Some((pair, effect)) = text.rsplit_once(':') else {
        return Err("must be a taint: `key=value:Effect`".to_owned());
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    qualified_name(key)?;
    label_value(value).map_err(|rule| format!("has a value that {rule}"))?;
    if EFFECTS.contains(&effect) {
        return Ok(());
    }
    Err(format!("has the effect `{effect}`; a taint's effect is one of {}", EFFECTS.join(", ")))
}

/// `name` or `dns.domain/name`.
fn qualified_name(key: &str) -> Rule {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    require(
        is_name(name),
        "must have a name of at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit \
         at both ends",
    )?;
    require(prefix.is_none_or(is_dns_name), "must have a DNS domain in front of the `/`")
}

fn is_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || "-_.".contains(c))
}

/// A DNS name in lower case, of one label or more.
pub fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| l.parse::<node::values::Hostname>().is_ok();
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_allowed_and_what_is_not() {
        type Case = (fn(&str) -> Rule, &'static [&'static str], &'static [&'static str]);
        let cases: [Case; 7] = [
            (package, &["e2fsprogs", "libstdc++6", "g++"], &["a", "Bash", "-x", "a_b", ""]),
            (unit, &["apt-daily.timer", "getty@tty1.service"], &["apt-daily", "a b.service"]),
            (absolute_path, &["/volume1/data"], &["volume1", "/a/../b", ""]),
            (relative_path, &["usr/lib/shim"], &["/usr", "a/../b", "a//b", ""]),
            (
                label_key,
                &[
                    "class",
                    "node.homelab/class",
                    "node.kubernetes.io/x",
                    "topology.kubernetes.io/zone",
                ],
                &[
                    "",
                    "a b",
                    "/x",
                    "Bad!/x",
                    "node-role.kubernetes.io/worker",
                    "kubernetes.io/role",
                    "x.k8s.io/y",
                ],
            ),
            (label_value, &["", "a", "A-1_b.c"], &["-a", "a b", "é"]),
            (
                taint,
                &[
                    "a=b:NoSchedule",
                    "a:NoExecute",
                    "node-role.kubernetes.io/control-plane=true:NoSchedule",
                ],
                &["a=b", "a=b:Never", "=b:NoSchedule", "a=b c:NoSchedule", ":NoSchedule"],
            ),
        ];
        for (rule, good, bad) in cases {
            for text in good {
                assert_eq!(rule(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(rule(text).is_err(), "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_rule_panic(text in ".{0,80}") {
            let rules = [package, unit, reason, word, absolute_path, relative_path,
                kubelet_argument, label_key, label_value, taint];
            for rule in rules {
                let _ = rule(&text);
            }
        }
    }
}
