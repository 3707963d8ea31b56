//! One file: from the part an earlier run left, over any number of cut connections, to the store.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use fs_err as fs;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use node::values::Digest;
use sha2::Digest as _;

use super::progress::Progress;
use super::source::{Body, Client, Fault, full};
use super::{Options, Want};
use crate::store::{Store, lock_file};
use crate::ui::Ui;

const BUFFER: usize = 128 * 1024;
/// Pauses between attempts double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// A connection that brings less than this in [`Options::stall`] is as good as dead.
const CRAWL_BYTES: u64 = 1024;
/// Only an attempt that brought this much counts as getting further, so that a server that
/// gives a byte per connection cannot keep us for ever.
const GAIN_BYTES: u64 = 64 * 1024;

/// The unfinished file, ours alone while we hold it.
struct Part {
    file: Flock<std::fs::File>,
    hash: sha2::Sha256,
    size: u64,
    /// Whether all its bytes came in this run, so that a wrong digest is the source's fault.
    fresh: bool,
}

/// All that one download works with.
struct Download<'a> {
    store: &'a Store,
    want: &'a Want,
    client: &'a Client,
    ui: &'a Ui,
    options: &'a Options,
    progress: &'a Progress,
}

/// Brings one file into the store, unless another process does so meanwhile.
pub(super) fn bring(
    store: &Store,
    want: &Want,
    client: &Client,
    ui: &Ui,
    options: &Options,
    progress: &Progress,
) -> Result<()> {
    let download = Download { store, want, client, ui, options, progress };
    if want.urls.is_empty() {
        bail!("there is no address to fetch it from; give it with --artifact NAME=PATH");
    }
    let Some(mut part) = download.take_part()? else { return Ok(()) };
    let result = download.try_all(&mut part);
    if result.is_err() && part.size == 0 {
        // Nothing to resume from. Still ours, so nobody else has it open to write.
        let _ = fs::remove_file(store.part(&want.digest));
    }
    result
}

impl Download<'_> {
    /// Opens the part file for us alone; `None` when another builder finished it meanwhile.
    fn take_part(&self) -> Result<Option<Part>> {
        let path = self.store.part(&self.want.digest);
        let mut how = FlockArg::LockExclusiveNonblock;
        loop {
            let file = match lock_file(&path, how) {
                Ok(file) => file,
                Err(e) if e.downcast_ref() == Some(&Errno::EWOULDBLOCK) => {
                    let name = &self.want.name;
                    self.ui.line(format!("another builder is fetching {name}; waiting for it"));
                    how = FlockArg::LockExclusive;
                    continue;
                }
                Err(e) => return Err(e),
            };
            if self.store.has(&self.want.digest) {
                // What we opened is the part we just made anew, or the finished file itself.
                let _ = fs::remove_file(&path);
                return Ok(None);
            }
            let ours = file.metadata()?;
            if fs::metadata(&path).is_ok_and(|at| (at.dev(), at.ino()) == (ours.dev(), ours.ino()))
            {
                return self.resume(path, file).map(Some);
            }
        }
    }

    /// Hashes what an earlier run left.
    fn resume(&self, path: std::path::PathBuf, file: Flock<std::fs::File>) -> Result<Part> {
        let mut hash = sha2::Sha256::new();
        let mut old = fs::File::open(path)?;
        let mut buffer = vec![0; BUFFER];
        let mut size = 0;
        loop {
            let n = old.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            size += n as u64;
        }
        let mut part = Part { file, hash, size, fresh: size == 0 };
        if self.want.size.is_some_and(|whole| size > whole) {
            self.restart(&mut part)?;
        }
        self.progress.resumed(part.size);
        Ok(part)
    }

    /// Tries the addresses in turn.
    fn try_all(&self, part: &mut Part) -> Result<()> {
        let mut last = anyhow!("not tried");
        let mut gone = true;
        for url in &self.want.urls {
            match self.try_one(url, part) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    gone &= error.is::<super::source::Gone>();
                    last = error;
                }
            }
        }
        // One address that was only unreachable may still have the file.
        if gone { Err(last) } else { Err(anyhow!("{last:#}")) }
    }

    /// Attempts on one address until it is done, hopeless, or without progress for too long.
    fn try_one(&self, url: &str, part: &mut Part) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut last_gain = Instant::now();
        loop {
            let before = part.size;
            let error = match self.attempt(url, part)? {
                Ok(()) => return Ok(()),
                Err(Fault::Lasting(error)) => return Err(error),
                Err(Fault::Restart(error)) => {
                    self.restart(part)?;
                    error
                }
                Err(Fault::Passing(error)) => error,
            };
            if part.size >= before + GAIN_BYTES {
                (last_gain, pause) = (Instant::now(), FIRST_PAUSE);
            }
            let deadline = self.deadline();
            let left = deadline.saturating_sub(last_gain.elapsed());
            if left.is_zero() {
                let seconds = deadline.as_secs();
                let (url, size) = (url, part.size);
                return Err(error.context(format!(
                    "{url}: no progress for {seconds} s (at byte {size}); the last cause"
                )));
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// How long to go on without progress.
    fn deadline(&self) -> Duration {
        let Options { deadline, reach, .. } = *self.options;
        if self.client.reached() { deadline } else { deadline.min(reach) }
    }

    /// One connection. The outer error is ours (disk), the inner the source's.
    fn attempt(&self, url: &str, part: &mut Part) -> Result<Result<(), Fault>> {
        if self.want.size.is_none_or(|whole| part.size < whole) {
            let body = match self.client.open(url, part.size) {
                Ok(body) => body,
                Err(fault) => return Ok(Err(fault)),
            };
            if let Err(fault) = self.receive(url, part, body)? {
                return Ok(Err(fault));
            }
        }
        self.finish(url, part)
    }

    fn receive(&self, url: &str, part: &mut Part, mut body: Body) -> Result<Result<(), Fault>> {
        if let (Some(offered), Some(wanted)) = (body.total, self.want.size)
            && offered != wanted
        {
            let text = format!("{url}: offers {offered} bytes, the lock has {wanted}");
            return Ok(Err(Fault::Lasting(anyhow!(text))));
        }
        if body.start != part.size {
            self.restart(part)?; // the server ignores Range and begins anew
        }
        if let (None, Some(total)) = (self.want.size, body.total) {
            self.progress.expect(total.saturating_sub(part.size));
        }
        part.file.seek(SeekFrom::Start(part.size))?;
        let whole = self.want.size.or(body.total);
        self.copy(url, part, body.reader.as_mut(), whole)
    }

    /// Reads to the end of the body; `whole` is the length the file must have.
    fn copy(
        &self,
        url: &str,
        part: &mut Part,
        reader: &mut dyn Read,
        whole: Option<u64>,
    ) -> Result<Result<(), Fault>> {
        let mut buffer = vec![0; BUFFER];
        let mut window = (Instant::now(), part.size);
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Ok(Err(Fault::Passing(cut(url, part.size, whole, e)))),
            };
            if whole.is_some_and(|whole| part.size + n as u64 > whole) {
                self.restart(part)?;
                let whole = whole.unwrap_or_default();
                let text = format!("{url}: sends more than the {whole} bytes it should have");
                return Ok(Err(Fault::Lasting(anyhow!(text))));
            }
            full(part.file.write_all(&buffer[..n]), self.store.root())?;
            part.hash.update(&buffer[..n]);
            part.size += n as u64;
            self.progress.add(self.ui, n as u64);
            if window.0.elapsed() > self.options.stall {
                let (got, seconds) = (part.size - window.1, self.options.stall.as_secs());
                if got < CRAWL_BYTES {
                    let text = format!("{url}: only {got} bytes in {seconds} s");
                    return Ok(Err(Fault::Passing(anyhow!(text))));
                }
                window = (Instant::now(), part.size);
            }
        }
        match whole {
            Some(whole) if part.size < whole => {
                let text = format!("{url}: ended after {} of {whole} bytes", part.size);
                Ok(Err(Fault::Passing(anyhow!(text))))
            }
            _ => Ok(Ok(())),
        }
    }

    /// Checks the digest; only then does the file get its name in the store.
    fn finish(&self, url: &str, part: &mut Part) -> Result<Result<(), Fault>> {
        let found = Digest::from_bytes(part.hash.clone().finalize().into());
        let expected = self.want.digest;
        if found == expected {
            full(part.file.sync_all(), self.store.root())?;
            self.store.adopt(&self.store.part(&expected), &expected)?;
            return Ok(Ok(()));
        }
        let (size, fresh) = (part.size, part.fresh);
        self.restart(part)?;
        let error = anyhow!(
            "{url}: wrong digest: expected {expected}, found {found} ({size} bytes); nothing was kept"
        );
        // What an earlier run left may have been wrong: then the whole is worth one more try.
        Ok(Err(if fresh { Fault::Lasting(error) } else { Fault::Restart(error) }))
    }

    /// Drops what is there.
    fn restart(&self, part: &mut Part) -> Result<()> {
        part.file.set_len(0).context("failed to empty an unfinished download")?;
        part.file.rewind()?;
        self.progress.lost(part.size);
        part.hash = sha2::Sha256::new();
        (part.size, part.fresh) = (0, true);
        Ok(())
    }
}

fn cut(url: &str, size: u64, whole: Option<u64>, error: std::io::Error) -> anyhow::Error {
    let of = whole.map(|whole| format!(" of {whole}")).unwrap_or_default();
    anyhow!(error).context(format!("{url}: cut after {size}{of} bytes"))
}
