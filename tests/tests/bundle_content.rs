//! The bundle's content against its real counterparts, without a cluster: alert rules by promtool,
//! routes by amtool, the minute of P1 by arithmetic, charts by helm, the dev proxy by nginx, dev containers by sshd, dumps by
//! `PostgreSQL`, and the documents that speak of them. Each is a script of `tests/bundle` that says in
//! its last line how much it looked at; they run side by side, as most of their time is waiting.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a broken preparation ends the test")]

use std::process::Command;

use e2e::lab::repository;
use e2e::run::{Running, run};

/// Debian's own, which has its packages; another may come first in `PATH`.
const PYTHON: &str = "/usr/bin/python3";
const SHELL: &str = "sh";

/// Who runs it, the script, and the word its last line begins with.
const CHECKS: [(&str, &str, &str); 8] = [
    (PYTHON, "rules.py", "rules:"),
    (PYTHON, "routes.py", "routes:"),
    (PYTHON, "times.py", "times:"),
    (PYTHON, "charts.py", "charts:"),
    (PYTHON, "requirements.py", "requirements:"),
    (SHELL, "dev_proxy.sh", "dev proxy:"),
    (SHELL, "dev_container.sh", "dev container:"),
    (SHELL, "postgres.sh", "postgres:"),
];

#[test]
fn what_the_bundle_brings_is_what_its_programs_take() {
    let folder = repository().join("tests/bundle");
    let tools = run(Command::new("sh").arg(folder.join("tools.sh"))).unwrap().ok().unwrap();
    let path = format!("{}:{}", tools.only_line().unwrap(), std::env::var("PATH").unwrap());
    let started = CHECKS.map(|(program, script, word)| {
        let mut command = Command::new(program);
        // nginx, sshd and ip stand where only root's PATH looks.
        command.arg(folder.join(script)).env("PATH", format!("{path}:/usr/sbin:/sbin"));
        (script, word, Running::start(&mut command).unwrap())
    });
    let mut failed = Vec::new();
    for (script, word, running) in started {
        let ended = running.end().unwrap();
        let last = ended.stdout.lines().last().unwrap_or_default();
        println!("{last} ({script})");
        if ended.code() != Some(0) || !last.starts_with(word) {
            failed.push(format!(
                "{script}: {:?}\n{}\n{}",
                ended.code(),
                ended.stdout,
                ended.stderr()
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
