//! A K3s server on the host's loopback for an agent to join in its boot test: the image's own K3s,
//! without an agent of its own, in a folder and on a port of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use node::command::tied;
use serde_json::json;

use crate::secrets::random_text;
use crate::ui::{Ui, since};

/// From start to an answer; an idle two-core machine needs 10 s, a busy one several times that.
const START_LIMIT: Duration = Duration::from_mins(2);
/// How long the server may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// Characters of the agents' token: 256 bits and more.
const TOKEN_LENGTH: usize = 48;
/// Loopback ports a server with its own HTTPS port takes beside it, counting up.
const PORTS: u16 = 8;

/// The running server; dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it answers.
    pub address: SocketAddr,
    /// The agents' token.
    pub token: String,
}

impl Server {
    /// Starts `k3s` below `folder`, as the API that nodes know as `api`, and waits until it
    /// answers. The server's output goes to `server.log` in that folder.
    ///
    /// # Errors
    /// It does not start or answer in time; the last line of its log is named.
    pub fn start(k3s: &Path, folder: &Path, api: Ipv4Addr, ui: &Ui) -> Result<Self> {
        let start = Instant::now();
        let address = SocketAddr::from(([127, 0, 0, 1], free_ports()?));
        let config = folder.join("config.yaml");
        // A token of its own for agents: a node refuses the servers' one (k3s.md §2.4).
        let agent_token = folder.join("agent-token");
        node::files::ensure_file(&agent_token, random_text(TOKEN_LENGTH)?.as_bytes(), 0o600)?;
        let keys = config_of(folder, &agent_token, address.port(), api);
        fs::write(&config, keys.to_string())?;
        let log = folder.join("server.log");
        // The kernel tells it when this process is gone, however that ends: nobody else would.
        let mut command = tied("TERM", k3s);
        command.arg("server").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("K3S_CONFIG_FILE", &config).env("HOME", folder);
        // The stand-in can keep everything of a node below one folder; K3s itself ignores this.
        command.env("K3S_STANDIN_ROOT", folder);
        command.process_group(0).stdin(Stdio::null());
        command
            .stdout(fs::File::create(&log)?.into_file())
            .stderr(fs::OpenOptions::new().append(true).open(&log)?.into_file());
        let child = command.spawn().context("failed to start the K3s server of the boot test")?;
        let mut server = Self { child, address, token: String::new() };
        server.token = server.wait(&folder.join("data/server/agent-token"), &log)?;
        ui.line(format!(
            "boot: a K3s server for the agent answers on {address} ({})",
            since(start)
        ));
        Ok(server)
    }

    fn wait(&mut self, token: &Path, log: &Path) -> Result<String> {
        let end = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the K3s server of the boot test ended with {status}: {}", last_line(log));
            }
            if token.exists() && TcpStream::connect_timeout(&self.address, POLL).is_ok() {
                return Ok(fs::read_to_string(token)?.trim().to_owned());
            }
            if Instant::now() > end {
                let limit = START_LIMIT.as_secs();
                bail!("the K3s server did not answer within {limit} s: {}", last_line(log));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().cast_signed());
        let _ = killpg(group, Signal::SIGTERM); // gone already is as good
        let end = Instant::now() + STOP_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// JSON, which is YAML too. The data lies in `folder/data`.
fn config_of(folder: &Path, agent_token: &Path, port: u16, api: Ipv4Addr) -> serde_json::Value {
    json!({
        "agent-token-file": agent_token,
        "data-dir": folder.join("data"),
        "write-kubeconfig": folder.join("k3s.yaml"),
        "disable-agent": true,
        "cluster-init": true,
        "bind-address": "127.0.0.1",
        "https-listen-port": port,
        "advertise-address": api,
        "advertise-port": 6443,
        "tls-san": [api],
        "disable": ["servicelb", "traefik", "local-storage", "metrics-server", "coredns"],
        "disable-helm-controller": true,
        "disable-network-policy": true,
        "etcd-disable-snapshots": true,
    })
}

/// The first of a run of free loopback ports.
fn free_ports() -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut starts = (16443u16..40000).step_by(usize::from(PORTS) * 2);
    starts
        .find(|start| (*start..start + PORTS).all(free))
        .context("no free loopback ports for the K3s server of the boot test")
}

fn last_line(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let errors = |l: &&str| l.contains("fatal") || l.contains("error") || l.contains("level=F");
    let line = text.lines().rev().find(errors).or_else(|| text.lines().next_back());
    format!("{} (log: {})", line.unwrap_or("no output"), PathBuf::from(log).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as a K3s server does, until it is told to end.
    const ANSWERS: &str = r#"#!/usr/bin/env python3
import json, os, socket, time
config = json.load(open(os.environ["K3S_CONFIG_FILE"]))
listening = socket.create_server(("127.0.0.1", config["https-listen-port"]))
os.makedirs(config["data-dir"] + "/server")
open(config["data-dir"] + "/server/agent-token", "w").write("token")
time.sleep(60)
"#;

    fn program(folder: &Path, text: &str) -> PathBuf {
        let k3s = folder.join("k3s");
        fs::write(&k3s, text).unwrap();
        fs::set_permissions(&k3s, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        k3s
    }

    #[test]
    fn a_server_ends_with_who_started_it_also_when_nobody_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let (k3s, folder) = (program(dir.path(), ANSWERS), dir.path().to_owned());
        // The kernel's promise is to the thread that started it, which here ends as a killed builder does.
        let started = std::thread::spawn(move || {
            let api = Ipv4Addr::new(192, 168, 2, 20);
            let server = Server::start(&k3s, &folder, api, &Ui::new(true)).unwrap();
            std::mem::ManuallyDrop::new(server)
        });
        let mut server = started.join().unwrap();
        let end = Instant::now() + STOP_LIMIT;
        while server.child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                drop(std::mem::ManuallyDrop::into_inner(server));
                panic!("it runs on");
            }
            std::thread::sleep(POLL);
        }
    }

    #[test]
    fn a_server_that_dies_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let dies = "#!/bin/sh\necho starting\necho 'fatal: no memory' >&2\nexit 3\n";
        let k3s = program(dir.path(), dies);
        let api = Ipv4Addr::new(192, 168, 2, 20);
        let text = Server::start(&k3s, dir.path(), api, &Ui::new(true)).unwrap_err().to_string();
        assert!(text.contains("exit status: 3: fatal: no memory"), "{text}");
    }
}
