//! The downloader against a server that cuts, slows, lies and serves wrong bytes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use node::values::Digest;

use super::server::{Answer, Server};
use super::{Failed, Fetched, Options, Want, fetch};
use crate::store::Store;
use crate::ui::Ui;

/// More than one buffer and than one counted gain, and no round number.
const SIZE: usize = 300_007;

fn body() -> Vec<u8> {
    (0..SIZE).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn want(urls: &[String]) -> Want {
    let digest = Digest::of(body());
    Want { name: "file".into(), urls: urls.to_vec(), digest, size: Some(SIZE as u64) }
}

fn options() -> Options {
    let (deadline, stall) = (Duration::from_secs(2), Duration::from_millis(300));
    Options { offline: false, deadline, reach: Duration::from_secs(1), stall, parallel: 2 }
}

/// The names in `tmp/` but its own lock: what a failed download left.
fn left(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("tmp")).unwrap();
    let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n != ".lock").collect()
}

/// One download: the server's answers, whether the size is known; the result, and the requests.
fn run(answers: &[Answer], sized: bool) -> (Result<Fetched, String>, usize, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let server = Server::start(&body(), answers);
    let mut want = want(&[server.url()]);
    if !sized {
        want.size = None;
    }
    let result = fetch(&store, std::slice::from_ref(&want), &Ui::new(true), &options());
    assert_eq!(store.has(&want.digest), result.is_ok(), "stored exactly when said so");
    if result.is_ok() {
        assert_eq!(fs::read(store.object(&want.digest)).unwrap(), body());
        assert!(left(dir.path()).is_empty());
    }
    let text = result.map_err(|e| format!("{e:#}").replace(&server.url(), "URL"));
    (text, server.requests(), left(dir.path()))
}

#[test]
fn what_may_pass_is_tried_again_until_it_is_whole() {
    use Answer::{Cut, Good, NoLength, NoRange, Redirect, Status, Stop, WrongRange};
    let cases: [(&str, Vec<Answer>, usize); 9] = [
        ("good", vec![Good], 1),
        ("cut twice", vec![Cut(100_000), Cut(100_000), Good], 3),
        ("busy, then broken", vec![Status(503), Status(500), Good], 3),
        ("cut, then no ranges", vec![Cut(100_000), NoRange], 2),
        ("cut, then another range", vec![Cut(100_000), WrongRange, Good], 3),
        ("redirect", vec![Redirect("/elsewhere"), Good], 2),
        ("silence", vec![Stop(0), Good], 2),
        ("no length", vec![NoLength(SIZE)], 1),
        ("no length, short", vec![NoLength(1000), Good], 2),
    ];
    for (name, answers, requests) in cases {
        let (result, asked, _) = run(&answers, true);
        assert_eq!(result.map(|f| f.files), Ok(1), "{name}");
        assert_eq!(asked, requests, "{name}");
    }
}

#[test]
fn what_will_not_pass_is_said_at_once_and_keeps_nothing() {
    use Answer::{Lie, NoLength, Redirect, Status, Wrong};
    let expected = Digest::of(body());
    let found = Digest::of(vec![b'x'; SIZE]);
    let cases = [
        ("gone", Status(404), "URL: answered 404 Not Found".to_owned()),
        ("forbidden", Status(403), "URL: answered 403 Forbidden".to_owned()),
        ("too long", Lie(5), "URL: offers 300012 bytes, the lock has 300007".to_owned()),
        ("too short", Lie(-5), "URL: offers 300002 bytes, the lock has 300007".to_owned()),
        (
            "wrong",
            Wrong,
            format!(
                "URL: wrong digest: expected {expected}, found {found} (300007 bytes); nothing was kept"
            ),
        ),
    ];
    for (name, answer, text) in cases {
        let (result, asked, left) = run(&[answer], true);
        assert_eq!(result.unwrap_err(), format!("file: {text}"), "{name}");
        assert_eq!((asked, left.len()), (1, 0), "{name}: {left:?}");
    }
    let (result, ..) = run(&[Redirect("/loop")], true);
    assert!(result.unwrap_err().contains("too many redirects"));
    // More than it should be, with no length to see it by.
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let server = Server::start(&[body(), body()].concat(), &[NoLength(2 * SIZE)]);
    let result = fetch(&store, &[want(&[server.url()])], &Ui::new(true), &options());
    let text = result.unwrap_err().to_string();
    assert!(text.ends_with("sends more than the 300007 bytes it should have"), "{text}");
    assert!(left(dir.path()).is_empty());
}

#[test]
fn a_file_of_unknown_size_is_checked_by_its_digest() {
    assert!(run(&[Answer::Cut(100_000), Answer::Good], false).0.is_ok());
    let text = run(&[Answer::Lie(5)], false).0.unwrap_err();
    assert!(text.contains("wrong digest") && text.contains("(300012 bytes)"), "{text}");
}

#[test]
fn without_progress_it_ends_at_the_deadline_with_the_last_cause() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let url = format!("http://127.0.0.1:{port}/file");
    let start = Instant::now();
    let error = fetch(&store, &[want(&[url])], &Ui::new(true), &options()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3));
    let text = error.to_string();
    assert!(text.contains("no progress for 1 s (at byte 0); the last cause"), "{text}");
    assert!(text.contains("onnection refused"), "{text}");
    assert!(left(dir.path()).is_empty());
    // One that answers may recover, and is given longer.
    let start = Instant::now();
    let (result, requests, _) = run(&[Answer::Status(503)], true);
    assert!(
        result
            .unwrap_err()
            .contains("no progress for 2 s (at byte 0); the last cause: URL: answered 503")
    );
    assert!(start.elapsed() >= Duration::from_secs(2) && requests > 3);
    // A crawl and a silent server end as well.
    let (result, ..) = run(&[Answer::Drip(Duration::from_millis(20))], true);
    assert!(result.unwrap_err().contains("bytes in 0 s"));
    let (result, ..) = run(&[Answer::Stop(0)], true);
    assert!(result.unwrap_err().contains("cut after 0 of 300007 bytes"));
}

#[test]
fn the_next_address_is_tried_and_only_if_all_say_so_a_file_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let (bad, wrong) =
        (Server::start(b"", &[Answer::Status(404)]), Server::start(&body(), &[Answer::Wrong]));
    let good = dir.path().join("good");
    let quick = Options { deadline: Duration::from_millis(100), ..options() };
    let gone = |urls: &[String]| {
        let error = fetch(&store, &[want(urls)], &Ui::new(true), &quick).unwrap_err();
        error.downcast::<Failed>().unwrap().failures[0].gone
    };
    let missing = good.display().to_string();
    assert!(gone(&[bad.url(), missing.clone()]));
    assert!(!gone(&[wrong.url(), bad.url()]));
    assert!(!gone(&["http://127.0.0.1:1/x".into(), bad.url()]));
    fs::write(&good, body()).unwrap();
    let urls = [bad.url(), wrong.url(), format!("file://{missing}")];
    fetch(&store, &[want(&urls)], &Ui::new(true), &quick).unwrap();
}

#[test]
fn what_is_to_be_had_nowhere_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let error = fetch(&store, &[want(&[])], &Ui::new(true), &options()).unwrap_err();
    assert!(error.to_string().contains("give it with --artifact NAME=PATH"), "{error}");
    assert_eq!(left(dir.path()), Vec::<String>::new());
}

#[test]
fn offline_names_and_counts_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let named =
        |i: u32| Want { name: format!("p{i:02}"), digest: Digest::of([i as u8]), ..want(&[]) };
    let wants: Vec<_> = (0..14).map(named).collect();
    let offline = Options { offline: true, ..options() };
    let text = fetch(&store, &wants, &Ui::new(true), &offline).unwrap_err().to_string();
    assert!(text.starts_with("offline, but 14 files are not in the cache: p00, p01, "), "{text}");
    assert!(text.ends_with("p11 and 2 more; run once without --offline"), "{text}");
    // What is there is not asked for.
    let file = dir.path().join("f");
    fs::write(&file, body()).unwrap();
    store.add_file(&file).unwrap();
    let fetched = fetch(&store, &[want(&[])], &Ui::new(true), &offline).unwrap();
    assert_eq!(fetched.files, 0);
}

#[test]
fn two_fetchers_at_once_download_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&body(), &[Answer::Good]);
    let wanted = want(&[server.url()]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(Some(dir.path())).unwrap();
                let wants = std::slice::from_ref(&wanted);
                fetch(&store, wants, &Ui::new(true), &options()).unwrap();
            });
        }
    });
    assert_eq!((server.requests(), server.sent()), (1, SIZE as u64));
    assert!(left(dir.path()).is_empty());
}

#[test]
fn a_later_run_resumes_and_a_spoiled_part_is_started_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let once = Options { deadline: Duration::ZERO, ..options() };
    let cutter = Server::start(&body(), &[Answer::Cut(200_000)]);
    let text =
        fetch(&store, &[want(&[cutter.url()])], &Ui::new(true), &once).unwrap_err().to_string();
    assert!(text.contains("cut after 200000 of 300007 bytes"), "{text}");
    assert_eq!(left(dir.path()).len(), 1, "the part stays");
    // A new process: the store is opened again.
    drop(store);
    let store = Store::open(Some(dir.path())).unwrap();
    let server = Server::start(&body(), &[Answer::Good]);
    let wanted = want(&[server.url()]);
    let fetched = fetch(&store, std::slice::from_ref(&wanted), &Ui::new(true), &options()).unwrap();
    assert_eq!((server.sent(), fetched.bytes), (100_007, 100_007));
    // Parts with wrong bytes: too few, as many as wanted, too many.
    for spoiled in [1000, SIZE, SIZE + 1] {
        fs::remove_file(store.object(&wanted.digest)).unwrap();
        fs::write(store.part(&wanted.digest), vec![0; spoiled]).unwrap();
        fetch(&store, std::slice::from_ref(&wanted), &Ui::new(true), &options()).unwrap();
        assert_eq!(fs::read(store.object(&wanted.digest)).unwrap(), body());
    }
}

#[test]
fn dropped_files_are_all_reported_but_a_dead_network_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    let named = |i: u8, url: String| Want {
        name: format!("p{i}"),
        digest: Digest::of([i]),
        ..want(&[url])
    };
    let gone = Server::start(b"", &[Answer::Status(404)]);
    let wants: Vec<_> = (0..6).map(|i| named(i, gone.url())).collect();
    let error = fetch(&store, &wants, &Ui::new(true), &options()).unwrap_err();
    assert_eq!(error.downcast::<Failed>().unwrap().failures.len(), 6);
    let dead = Server::start(b"", &[Answer::Status(403)]);
    let wants: Vec<_> = (0..6).map(|i| named(i, dead.url())).collect();
    let error = fetch(&store, &wants, &Ui::new(true), &options()).unwrap_err();
    let count = error.downcast::<Failed>().unwrap().failures.len();
    assert!(count <= 2, "one per thread at most: {count}");
}

/// Set for [`as_another_process`]: the cache and the address to fetch from.
const CHILD: &str = "BUILDER_TEST_FETCH";

/// Not a test of its own: what the tests below run as a process that can be killed or starved.
#[test]
fn as_another_process() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (root, url) = task.split_once(' ').unwrap();
    let store = Store::open(Some(Path::new(root))).unwrap();
    let patient = Options { stall: Duration::from_secs(30), ..options() };
    if let Err(error) = fetch(&store, &[want(&[url.to_owned()])], &Ui::new(true), &patient) {
        println!("error: {error:#}");
    }
}

/// This test program, about to fetch `url` into the cache `root`.
fn another_process(root: &Path, url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "fetch::tests::as_another_process", "--nocapture"]);
    command.env(CHILD, format!("{} {url}", root.display())).stdin(Stdio::null());
    command
}

#[test]
fn a_killed_download_is_resumed_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&body(), &[Answer::Stop(200_000), Answer::Good]);
    let mut command = another_process(dir.path(), &server.url());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let part = Store::open(Some(dir.path())).unwrap().part(&want(&[]).digest);
    let start = Instant::now();
    while fs::metadata(&part).map_or(0, |m| m.len()) < 200_000 {
        assert!(start.elapsed() < Duration::from_secs(20), "the child fetches nothing");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(Some(dir.path())).unwrap();
    fetch(&store, &[want(&[server.url()])], &Ui::new(true), &options()).unwrap();
    assert_eq!((server.requests(), server.sent()), (2, SIZE as u64), "no byte was sent twice");
    assert!(left(dir.path()).is_empty());
}

#[test]
fn a_full_disk_is_named_and_leaves_the_cache_sound() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&body(), &[Answer::Good]);
    let fetcher = another_process(dir.path(), &server.url());
    // A disk of our own to fill, which a user namespace gives to anybody, where it is allowed.
    let script = "mount -t tmpfs -o size=256k none \"$0\" && \"$@\" && ls \"$0\"/tmp \"$0\"/sha256";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(dir.path());
    command.arg(fetcher.get_program()).args(fetcher.get_args());
    command.envs(fetcher.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprintln!("skipped: no user namespaces here: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let root = dir.path().display();
    let expected = format!("no space left for the cache in {root}; `builder cache gc` frees some");
    assert!(text.contains(&expected), "{text}");
    let object = want(&[]).digest.to_string();
    assert!(!text.lines().any(|line| line == object), "nothing under its final name: {text}");
}
