//! Bringing a file onto a storage: once. A file of the same name and size that is there already is
//! the same file, as names carry the content's digest; a broken connection is looked behind before
//! anything is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::client::{Client, data};
use super::error::{Class, Error};
use super::task::Upid;
use super::transport::Upload;
use crate::ui::{Ui, since};

/// A broken line may break once more; three times is not chance.
const ATTEMPTS: u32 = 3;
/// Seldom enough not to fill a log.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Whether an upload had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// It was sent now.
    Sent,
    /// It was there.
    Found,
}

impl Client {
    /// Brings the file there, if it is not there yet.
    ///
    /// # Errors
    /// As [`Client::act`]; or it broke, or arrived broken, for the third time.
    pub fn upload(&self, upload: &Upload) -> Result<Uploaded, Error> {
        if self.is_uploaded(upload)? {
            return Ok(Uploaded::Found);
        }
        let call = format!("POST {}", upload.path());
        let mut attempt = 1;
        loop {
            let error = match self.send_file(&call, upload) {
                Ok(()) => return Ok(Uploaded::Sent),
                Err(error) => error,
            };
            let passing =
                matches!(error.class, Class::Unknown | Class::Corrupt) || error.is_passing();
            if !passing {
                return Err(error);
            }
            self.ui().line(format!("{call}: {}", error.text));
            if error.class == Class::Unknown && self.arrived_after_all(&call, upload)? {
                return Ok(Uploaded::Sent);
            }
            if attempt == ATTEMPTS {
                return Err(given_up(error, upload));
            }
            self.clock().pause(Duration::from_secs(2 << attempt));
            attempt += 1;
        }
    }

    fn is_uploaded(&self, upload: &Upload) -> Result<bool, Error> {
        let volumes = self.volumes(&upload.node, &upload.storage, upload.content)?;
        let there = volumes.iter().find(|v| v.volid == upload.volume());
        Ok(there.is_some_and(|v| v.size == upload.bytes))
    }

    fn send_file(&self, call: &str, upload: &Upload) -> Result<(), Error> {
        let progress = Arc::new(Progress::new(self.ui(), upload));
        let shared = Arc::clone(&progress);
        let sent = self.transport().upload(upload, Arc::new(move |bytes| shared.add(bytes)));
        let line = progress.sent();
        let reply = sent.map_err(|f| Error::of_failure(call, self.endpoint(), f))?;
        let value = data(call, &reply)?;
        let upid = value.as_str().and_then(|text| text.parse::<Upid>().ok());
        let upid = upid.ok_or_else(|| {
            Error::new(Class::Unsupported, call, format!("the reply is no task's name: {value}"))
        })?;
        let start = Instant::now();
        self.follow(call, &upid, self.limits().task)?;
        self.ui().line(format!("{line}, checked and stored there in {}", since(start)));
        Ok(())
    }

    /// After a lost answer: the host may be copying what it got.
    fn arrived_after_all(&self, call: &str, upload: &Upload) -> Result<bool, Error> {
        if let Some(upid) = self.unseen_task(&upload.node, ("imgcopy", ""))? {
            // How it ended shows in what lies there.
            let _ = self.follow(call, &upid, self.limits().task);
        }
        self.is_uploaded(upload)
    }
}

fn given_up(mut error: Error, upload: &Upload) -> Error {
    error.text = format!("{} ({ATTEMPTS} times)", error.text);
    if error.class == Class::Corrupt {
        return error
            .fix("check this machine's and the host's memory, and what stands between them");
    }
    error.fix(format!(
        "Proxmox closes the connection without a word when the token may not upload: run `builder \
         preflight`; else look at the network, and at the free space of /var/tmp on {}",
        upload.node
    ))
}

/// Bytes sent: a bar on a terminal, a line now and then elsewhere.
#[derive(Debug)]
struct Progress {
    ui: Ui,
    bar: ProgressBar,
    name: String,
    total: u64,
    sent: AtomicU64,
    start: Instant,
    /// Seconds after the start at which the last line was printed.
    told: AtomicU64,
}

impl Progress {
    fn new(ui: &Ui, upload: &Upload) -> Self {
        let (name, total) = (upload.name.clone(), upload.bytes);
        ui.line(format!("uploading {name} to {}, {} MiB", upload.node, total >> 20));
        Self {
            ui: ui.clone(),
            bar: ui.bytes_bar(name.clone(), total),
            name,
            total,
            sent: AtomicU64::new(0),
            start: Instant::now(),
            told: AtomicU64::new(0),
        }
    }

    fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let sent = self.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let now = self.start.elapsed().as_secs();
        if self.bar.is_hidden() && now >= self.told.load(Ordering::Relaxed) + LINE_EVERY.as_secs() {
            self.told.store(now, Ordering::Relaxed);
            self.ui.line(format!(
                "uploading {}: {} of {} MiB",
                self.name,
                sent >> 20,
                self.total >> 20
            ));
        }
    }

    /// What the sending took; the host's checksum and copy come after it.
    fn sent(&self) -> String {
        self.bar.finish_and_clear();
        format!("sent {}, {} MiB in {}", self.name, self.total >> 20, since(self.start))
    }
}
