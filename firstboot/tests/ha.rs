//! One of several servers: peers that answer by TLS on loopback addresses of the test's own, and
//! power cut at every write of a join.

#![allow(clippy::unwrap_used, reason = "a test ends at what cannot be")]

mod node;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ::node::failpoint::STOPPED;
use ::node::join::Bootstrap;
use ::node::report::State;
use ::node::values::Digest;
use node::{Node, SECRET};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

const OWN: &str = "etc/rancher/k3s/config.yaml.d/50-node.yaml";
const DATABASE: &str = "var/lib/rancher/k3s/server/db/etcd/member/snap/db";

/// Two addresses that no other test uses, in this process or another.
fn addresses() -> [Ipv4Addr; 2] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let n = NEXT.fetch_add(2, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    [n, n + 1].map(|last| Ipv4Addr::new(127, high | 1, low, last))
}

/// A CA with one certificate for an address, made by openssl.
struct Pki(TempDir);

impl Pki {
    fn new(address: Ipv4Addr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("ext"), format!("subjectAltName=IP:{address}")).unwrap();
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        for line in [
            format!("req -x509 {new} -keyout ca.key -out ca.crt -subj /CN=ca"),
            format!("req {new} -keyout leaf.key -out leaf.csr -subj /CN=leaf"),
            "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out leaf.crt \
             -days 2 -extfile ext"
                .to_owned(),
        ] {
            let mut command = Command::new("openssl");
            let output = command.args(line.split_whitespace()).current_dir(&dir).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Self(dir)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.0.path().join(name)).unwrap()
    }

    /// The server token that pins this CA.
    fn token(&self) -> String {
        format!("K10{}::server:{SECRET}-w", Digest::of(self.read("ca.crt")))
    }

    /// Serves as a K3s server does, until the process ends, and shows `shown` as its CA.
    fn serve(&self, address: Ipv4Addr, shown: Vec<u8>) {
        let chain = self.read("leaf.crt");
        let chain = CertificateDer::pem_slice_iter(&chain).map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_slice(&self.read("leaf.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        let listener = TcpListener::bind((address, 6443)).unwrap();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that does not trust us hangs up.
                let _ = answer(stream.unwrap(), &config, &shown);
            }
        });
    }
}

fn answer(stream: TcpStream, config: &Arc<ServerConfig>, shown: &[u8]) -> std::io::Result<()> {
    let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.extend(byte);
    }
    let body = if request.starts_with(b"GET /cacerts ") { shown } else { b"pong" };
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Gives the node its secret with this token and permission.
fn give(node: &Node, token: &str, bootstrap: Bootstrap) {
    let mut join = node.join();
    (join.token, join.bootstrap) = (token.to_owned(), bootstrap);
    node.give(&join.encode().unwrap());
}

fn cause(node: &Node) -> String {
    node.report().failure.map(|f| format!("{} | {}", f.cause, f.fix)).unwrap_or_default()
}

#[test]
fn a_server_whose_peers_are_silent_waits_and_asks_again() {
    let node = Node::one_of_three(addresses());
    give(&node, &format!("K10{}::server:{SECRET}-w", "ab".repeat(32)), Bootstrap::No);
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Waiting), "{}", ran.stderr);
    let said = cause(&node);
    assert!(said.starts_with("no other server answers: k3s-m2 (https://127."), "{said}");
    assert!(said.contains("; k3s-m3 (https://127.") && said.contains("--restore"), "{said}");
    let again = "systemctl restart --no-block firstboot-again.timer".to_owned();
    assert!(node.calls().contains(&again) && node.get("run/firstboot/ready").is_none());
    assert!(node.get(OWN).is_none());
}

#[test]
fn a_rebuilt_server_joins_the_peer_that_proves_to_be_of_its_cluster() {
    let at = addresses();
    let (ours, other) = (Pki::new(at[1]), Pki::new(at[0]));
    other.serve(at[0], other.read("ca.crt"));
    ours.serve(at[1], ours.read("ca.crt"));
    let make = || {
        let node = Node::one_of_three(at);
        give(&node, &ours.token(), Bootstrap::Once);
        node
    };
    let node = make();
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
    let url = format!("https://{}:6443", at[1]);
    let own = node.get(OWN).unwrap();
    assert!(own.contains(&format!("\"server\": \"{url}\"")) && !own.contains("init"), "{own}");
    assert!(ran.stderr.contains("k3s-m2 (https://127."), "a stranger is told: {}", ran.stderr);
    assert!(!node.path("srv/nfs/data/k3s-snapshots").exists(), "nothing is claimed");
    // From then on the database decides, and the peer stays where K3s looks for it.
    node.put(DATABASE, "");
    let after = node.lasting(true);
    node.boot("2");
    assert_eq!(node.run(&["host"]).code, 0);
    assert_eq!(node.lasting(true), after);
    cut_everywhere(make, &ours.token());
}

/// A power cut at each write of a join, then a second boot: the same end as without.
fn cut_everywhere(make: impl Fn() -> Node, token: &str) {
    let whole = make();
    assert_eq!(whole.run(&["host"]).code, 0);
    let want = stable(&whole);
    for point in 1.. {
        let node = make();
        let ran = node.run_stopping(&["host"], point);
        if ran.code != STOPPED {
            eprintln!("join of a server: {} power cuts", point - 1);
            assert!(ran.code == 0 && point > 40, "{}", ran.stderr);
            return;
        }
        node.boot("2");
        give(&node, token, Bootstrap::Once);
        let ran = node.run(&["host"]);
        assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
        assert_eq!(stable(&node), want, "point {point}");
    }
}

fn stable(node: &Node) -> BTreeMap<String, String> {
    let mut files = node.lasting(false);
    for text in files.values_mut() {
        *text = text.replace("boot-2", "boot").replace("boot-1", "boot");
    }
    files
}

#[test]
fn strangers_are_told_as_what_they_are_and_never_joined_or_doubled() {
    let at = addresses();
    let (ours, other) = (Pki::new(at[0]), Pki::new(at[1]));
    ours.serve(at[0], ours.read("ca.crt"));
    // Shows our CA, as anyone can who has seen it, and has no key of it.
    other.serve(at[1], ours.read("ca.crt"));
    let pin = |pki: &Pki| Digest::of(pki.read("ca.crt")).short(12);
    let foreign = format!("has the CA {}…, and the token names {}…", pin(&ours), pin(&other));
    let cases = [
        (other.token(), Bootstrap::Once, foreign.as_str()),
        (other.token(), Bootstrap::Restore, foreign.as_str()),
        (other.token(), Bootstrap::No, foreign.as_str()),
        (format!("{SECRET}-w"), Bootstrap::Once, "answers, and the token has no CA's hash"),
    ];
    for (token, bootstrap, want) in cases {
        let node = Node::one_of_three(at);
        give(&node, &token, bootstrap);
        let ran = node.run(&["host"]);
        assert_eq!((ran.code, node.report().state), (1, State::Failed), "{}", ran.stderr);
        let said = cause(&node);
        assert!(said.contains(want), "{said}");
        assert!(node.get(OWN).is_none() && node.get("run/firstboot/ready").is_none());
        assert!(!node.path("srv/nfs/data/k3s-snapshots").exists());
    }
    let node = Node::one_of_three([addresses()[0], at[1]]);
    give(&node, &ours.token(), Bootstrap::Once);
    assert_eq!(node.run(&["host"]).code, 1);
    assert!(
        cause(&node).contains("shows the cluster's CA and cannot prove it: "),
        "{}",
        cause(&node)
    );
}

#[test]
fn the_first_of_several_claims_the_cluster_and_records_what_it_is_born_with() {
    let at = addresses();
    let node = Node::one_of_three(at);
    give(&node, &format!("{SECRET}-w"), Bootstrap::Once);
    let ran = node.run(&["host"]);
    assert_eq!((ran.code, node.report().state), (0, State::Starting), "{}", ran.stderr);
    assert!(node.get(OWN).unwrap().contains("\"cluster-init\": true"));
    let record = node.get("srv/nfs/data/k3s-snapshots/home-1/cluster.json").unwrap();
    assert!(record.contains("\"cluster-cidr\": \"10.42.0.0/16\""), "{record}");

    // Another server of the cluster whose image was built with other settings.
    let pki = Pki::new(at[1]);
    pki.serve(at[1], pki.read("ca.crt"));
    let joiner = Node::one_of_three(at);
    joiner.put("srv/nfs/data/k3s-snapshots/home-1/cluster.json", &record.replace("10.42", "10.52"));
    give(&joiner, &pki.token(), Bootstrap::No);
    assert_eq!(joiner.run(&["host"]).code, 1);
    let said = cause(&joiner);
    assert!(said.contains("cluster-cidr = 10.42.0.0/16, and was 10.52.0.0/16"), "{said}");
    assert!(joiner.get(OWN).is_none() && joiner.get("var/lib/firstboot/peer").is_none());
}
