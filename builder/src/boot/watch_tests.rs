use std::io::{BufRead, BufReader};

use super::*;
use crate::boot::facts::tests::{BODY, frame};
use crate::boot::machine::tests::{Peers, pretend};
use crate::boot::plan::Expect;
use crate::boot::plan::tests::sample;

/// Runs a watch over a pretended machine; `act` acts the guest.
fn watch<T>(
    script: &str,
    act: impl FnOnce(&mut Peers),
    check: impl FnOnce(&mut Watch<'_>, End, &mut Peers) -> T,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let (mut machine, mut peers) = pretend(script, dir.path());
    let (ui, signals) = (Ui::new(true), Signals::hold().unwrap());
    let task = Task { nonce: "n".into(), expect: Expect::Waiting, limit: 1 };
    let mut plan = sample();
    plan.console_log = dir.path().join("console.log");
    act(&mut peers);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut watched = Watch::new(&plan, &ui, &mut machine, &signals, &task, deadline).unwrap();
    let end = watched.run().unwrap();
    check(&mut watched, end, &mut peers)
}

fn line(stream: &UnixStream) -> String {
    let mut text = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut text).unwrap();
    text
}

#[test]
fn a_panic_ends_the_watch_at_once_and_its_reason_is_kept() {
    let play = |p: &mut Peers| {
        p.console.write_all(b"Kernel panic - not syncing: no init\r\nCPU: 0\r\n").unwrap();
    };
    let (end, last) = watch("exec sleep 9", play, |w, end, _| (end, w.console.last_lines()));
    assert!(matches!(end, End::Fatal(why) if why == "the kernel panicked"));
    assert_eq!(last, ["Kernel panic - not syncing: no init", "CPU: 0"]);
}

#[test]
fn facts_are_answered_and_only_the_guests_own_exit_is_a_success() {
    for (script, instead) in [
        ("sleep 0.5; exit 123", None),
        ("sleep 0.5; exit 0", Some("QEMU ended with exit status: 0")),
        ("sleep 0.5; kill -9 $$", Some("QEMU ended with signal: 9 (SIGKILL)")),
    ] {
        let play = |p: &mut Peers| p.facts.write_all(&frame("n", BODY)).unwrap();
        watch(script, play, |w, end, peers| {
            assert!(matches!(end, End::Facts(f) if f.ok("hostname") == Some("n1\n")));
            assert_eq!(w.answer(false).unwrap().as_deref(), instead);
            assert_eq!(line(&peers.facts), "END n\n");
        });
    }
}

#[test]
fn a_refused_frame_is_asked_for_again() {
    let play = |p: &mut Peers| {
        let mut bad = frame("n", BODY);
        let at = bad.len() / 2;
        bad[at] ^= 1;
        p.facts.write_all(&bad).unwrap();
    };
    watch("exec sleep 9", play, |_, end, peers| {
        assert!(matches!(end, End::Deadline));
        assert_eq!(line(&peers.facts), "AGAIN\n");
    });
}

#[test]
fn a_machine_that_ends_by_itself_is_no_pass() {
    let end = watch("exit 0", |_| (), |_, end, _| end);
    assert!(matches!(end, End::Exited(status) if status == "exit status: 0"));
}

#[test]
fn a_silent_machine_ends_at_the_deadline_and_a_signal_ends_it_before() {
    let start = Instant::now();
    assert!(matches!(watch("exec sleep 9", |_| (), |_, end, _| end), End::Deadline));
    assert!(start.elapsed() >= Duration::from_secs(2));
    // The signal is held back by the watch's own mask: sent to this thread once that is set.
    let signal = |_: &mut Peers| nix::sys::signal::raise(nix::sys::signal::SIGTERM).unwrap();
    assert!(matches!(watch("exec sleep 9", signal, |_, end, _| end), End::Interrupted));
}
