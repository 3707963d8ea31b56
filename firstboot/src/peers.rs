//! The other servers of the cluster, asked before one of them is joined: whether they answer, and
//! whether they hold the CA that this server's token names. K3s itself would join whoever answers
//! when its token is in the short form; here nothing is trusted that the token does not name.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use node::config::{NodeConfig, Role};
use node::token::Token;
use node::values::Digest;

use crate::tls;

/// Port of K3s' servers.
pub const PORT: u16 = 6443;

/// What the other servers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Not asked: there are none, or this server has a database and needs none.
    Unasked,
    /// One of this cluster answers: its URL.
    Ours(String),
    /// Nobody answers; what was tried.
    Silent(String),
    /// Someone answers who is not known as this cluster's, and nobody who is.
    Strange(String),
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    name: String,
    url: String,
}

/// What one of them says.
#[derive(Debug)]
enum Answer {
    Ours,
    Silent(String),
    Strange(String),
}

/// Asks all of them with the token `text`. Those that are strange are told in `warn`, even when
/// another one is ours.
pub fn ask(config: &NodeConfig, me: &str, text: &str, warn: impl Fn(&str)) -> Peers {
    let ca = Token::parse(text.trim()).ok().and_then(|token| token.ca);
    let (mut ours, mut silent, mut strange) = (None, Vec::new(), Vec::new());
    for candidate in candidates(config, me) {
        let Candidate { name, url } = candidate;
        match ask_one(&url, ca) {
            Answer::Ours => ours = ours.or(Some(url)),
            Answer::Silent(why) => silent.push(format!("{name} ({url}): {why}")),
            Answer::Strange(why) => strange.push(format!("{name} ({url}) {why}")),
        }
    }
    for why in &strange {
        warn(why);
    }
    match ours {
        Some(url) => Peers::Ours(url),
        None if !strange.is_empty() => Peers::Strange(strange.join("; ")),
        None => Peers::Silent(silent.join("; ")),
    }
}

/// An API address that is no node's first, as it stays when a server goes; then the other servers.
fn candidates(config: &NodeConfig, me: &str) -> Vec<Candidate> {
    let cluster = &config.cluster;
    let place = |name: &str, address: Ipv4Addr| Candidate {
        name: name.to_owned(),
        url: format!("https://{address}:{PORT}"),
    };
    let is_virtual = cluster.nodes.iter().all(|node| node.address != cluster.api);
    let api = is_virtual.then(|| place("the API", cluster.api));
    let others = cluster.nodes.iter().filter(|n| n.role == Role::Server && n.name.as_str() != me);
    api.into_iter().chain(others.map(|n| place(n.name.as_str(), n.address))).collect()
}

/// What `/cacerts` shows anyone is compared with the token; a handshake under that CA then proves
/// that it is not only shown.
fn ask_one(url: &str, ca: Option<Digest>) -> Answer {
    let shown = match tls::get_untrusted(&format!("{url}/cacerts")) {
        Ok(shown) => shown,
        Err(why) => return Answer::Silent(format!("{why:#}")),
    };
    let Some(ca) = ca else {
        return Answer::Strange("answers, and the token has no CA's hash to know it by".into());
    };
    let has = Digest::of(&shown);
    if has != ca {
        let (has, ca) = (has.short(12), ca.short(12));
        return Answer::Strange(format!("has the CA {has}…, and the token names {ca}…"));
    }
    match prove(url, &shown) {
        Ok(()) => Answer::Ours,
        Err(why) => Answer::Strange(format!("shows the cluster's CA and cannot prove it: {why:#}")),
    }
}

fn prove(url: &str, ca: &[u8]) -> Result<()> {
    let text = tls::get(&format!("{url}/ping"), ca)?;
    ensure!(text == b"pong", "/ping says something else than pong");
    Ok(())
}

/// Which settings of the cluster's birth are not those of this image, if any: K3s refuses a server
/// that differs, and a restored database may not open under others (k3s.md §2.3, §4.2).
///
/// # Errors
/// They differ; each is named with both values.
pub fn same_birth(config: &NodeConfig, recorded: &node::config::Birth) -> Result<()> {
    let mut text = String::new();
    for (key, was) in recorded {
        let is = config.cluster.birth.get(key).map_or("nothing", String::as_str);
        if is != was {
            let _ = write!(
                text,
                "{}{key} = {is}, and was {was}",
                if text.is_empty() { "" } else { "; " }
            );
        }
    }
    ensure!(
        text.is_empty(),
        "this image has other settings than the cluster was born with: {text}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_virtual_api_is_asked_first_and_oneself_never() {
        let (_dir, boot) = testing::servers();
        let urls = |config: &NodeConfig, me| {
            candidates(config, me).into_iter().map(|c| c.url).collect::<Vec<_>>()
        };
        let mut config = boot.config;
        assert_eq!(urls(&config, "k3s-m2"), ["https://127.0.0.1:6443", "https://127.0.0.3:6443"]);
        config.cluster.api = "127.0.0.9".parse().unwrap();
        let want = ["https://127.0.0.9:6443", "https://127.0.0.2:6443", "https://127.0.0.3:6443"];
        assert_eq!(urls(&config, "k3s-m1"), want);
    }

    #[test]
    fn nobody_there_is_silence_with_each_ones_reason() {
        let (_dir, boot) = testing::servers();
        let Peers::Silent(why) = ask(&boot.config, "k3s-m1", "K10x", |_| panic!("nobody")) else {
            panic!("someone listens on port 6443 of this host")
        };
        assert!(why.starts_with("k3s-m2 (https://127.0.0.2:6443): "), "{why}");
        assert!(why.contains("; k3s-m3 (https://127.0.0.3:6443): "), "{why}");
    }

    #[test]
    fn a_changed_setting_of_birth_is_named_with_both_values() {
        let (_dir, mut boot) = testing::servers();
        let recorded = boot.config.cluster.birth.clone();
        assert!(same_birth(&boot.config, &recorded).is_ok());
        boot.config.cluster.birth.insert("cluster-cidr".into(), "10.52.0.0/16".into());
        let text = same_birth(&boot.config, &recorded).unwrap_err().to_string();
        assert!(
            text.ends_with("with: cluster-cidr = 10.52.0.0/16, and was 10.42.0.0/16"),
            "{text}"
        );
    }
}
