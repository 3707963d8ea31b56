//! Calls with patience: what is safe to repeat is repeated, what has an unknown outcome is looked
//! at first, what runs in the background is followed to its end.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::clock::{Clock, Patience};
use super::error::{Class, Error};
use super::task::{TaskEnd, Upid};
use super::transport::{Method, Reply, Request, Transport};
use crate::ui::Ui;

/// How long the client is patient with what.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Waiting for a lock: other tasks on the same storage may take minutes.
    pub locks: Duration,
    /// Going on while a host cannot be reached: its web server restarts within seconds.
    pub reach: Duration,
    /// The same as long as nothing ever answered: then most likely the address is wrong.
    pub first: Duration,
    /// After a lost answer, before the call counts as never begun: Proxmox' own limit between its
    /// two servers is 30 s, and what was begun within them may still take effect.
    pub lost: Duration,
    /// One task, unless the caller says otherwise: an import of a large disk onto slow storage.
    pub task: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            locks: Duration::from_mins(5),
            reach: Duration::from_secs(30),
            first: Duration::from_secs(5),
            lost: Duration::from_secs(35),
            task: Duration::from_mins(30),
        }
    }
}

/// A client of one Proxmox VE cluster.
pub struct Client {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    ui: Ui,
    limits: Limits,
    endpoint: String,
    /// Whether anything ever answered.
    answered: AtomicBool,
    /// Tasks that were followed, so that one of an earlier call is not taken for a lost one.
    seen: Mutex<BTreeSet<Upid>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Tells whether an action's effect is there; asked after an answer was lost.
pub type Look<'a> = &'a dyn Fn(&Client) -> Result<bool, Error>;

/// A call that changes something.
pub struct Action<'a> {
    /// The call.
    pub request: Request,
    /// The host it works on.
    pub node: &'a str,
    /// Type and id of the task it starts, such as `("qmcreate", "9000")`; `None`: it acts at once.
    pub task: Option<(&'a str, String)>,
    /// See [`Look`].
    pub look: Look<'a>,
}

impl fmt::Debug for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Action({} on {})", self.request.name(), self.node)
    }
}

impl Client {
    /// Over this transport; `endpoint` is for messages.
    pub fn new(
        endpoint: impl Into<String>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        ui: Ui,
    ) -> Self {
        Self {
            transport,
            clock,
            ui,
            limits: Limits::default(),
            endpoint: endpoint.into(),
            answered: AtomicBool::new(false),
            seen: Mutex::default(),
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The time it waits in.
    pub fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// The terminal it tells of waits and warnings.
    pub const fn ui(&self) -> &Ui {
        &self.ui
    }

    /// How patient it is.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        self.transport.as_ref()
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn remember(&self, upid: &Upid) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(upid.clone());
    }

    pub(super) fn remembers(&self, upid: &Upid) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(upid)
    }

    /// One call, once.
    fn once(&self, request: &Request) -> Result<Value, Error> {
        let call = request.name();
        log::debug!("{call}");
        let sent = self.transport.send(request);
        let reply = sent.map_err(|f| Error::of_failure(&call, &self.endpoint, f))?;
        self.answered.store(true, Ordering::Relaxed);
        data(&call, &reply)
    }

    /// A call, repeated while that is safe and helps: locks are waited for, a host that could not be
    /// reached is tried again. A call that only reads is repeated after a lost answer too.
    ///
    /// # Errors
    /// Its last [`Error`].
    pub fn call(&self, request: &Request) -> Result<Value, Error> {
        let reads = request.method == Method::Get;
        self.patiently(
            || self.once(request),
            |e| e.is_passing() || reads && e.class == Class::Unknown,
        )
    }

    /// A call that reads, as a type.
    ///
    /// # Errors
    /// As [`Client::call`]; or the reply is not of that shape.
    pub fn read<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Error> {
        let value = self.call(request)?;
        T::deserialize(value).map_err(|e| {
            let text = format!("the reply is not what Proxmox VE 8.4 to 9.2 give: {e}");
            Error::new(Class::Unsupported, request.name(), text)
        })
    }

    /// Repeats `work` while its error is one that `again` holds for passing, until its deadline.
    fn patiently<T>(
        &self,
        mut work: impl FnMut() -> Result<T, Error>,
        again: impl Fn(&Error) -> bool,
    ) -> Result<T, Error> {
        let start = self.clock.now();
        let pauses = (Duration::from_millis(500), Duration::from_secs(15));
        let mut patience = Patience::new(self.clock(), self.limits.locks, pauses.0, pauses.1);
        let mut told: Option<Class> = None;
        loop {
            let error = match work() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let waited = self.clock.now().saturating_sub(start);
            let far = !matches!(error.class, Class::Busy | Class::Locked);
            if !again(&error) || far && waited >= self.reach() || !patience.wait() {
                return Err(if told.is_some() { after(error, waited) } else { error });
            }
            if told != Some(error.class) {
                told = Some(error.class);
                self.ui.line(format!("waiting: {}: {}", error.call, error.text));
            }
        }
    }

    fn reach(&self) -> Duration {
        let answered = self.answered.load(Ordering::Relaxed);
        if answered { self.limits.reach } else { self.limits.first }
    }

    /// Does what changes something, and follows its task to the end, with the limit of
    /// [`Limits::task`]. When the answer is lost, the action's own [`Look`] decides whether it is
    /// repeated.
    ///
    /// # Errors
    /// It failed and had no effect that was looked for; with the task's log where there is one.
    pub fn act(&self, action: &Action<'_>) -> Result<TaskEnd, Error> {
        self.patiently(|| self.act_once(action), Error::is_passing)
    }

    fn act_once(&self, action: &Action<'_>) -> Result<TaskEnd, Error> {
        let call = action.request.name();
        let mut lost = false;
        loop {
            let error = match self.once(&action.request).and_then(|value| self.end(action, &value))
            {
                Ok(end) => return Ok(end),
                Err(error) => error,
            };
            if error.class != Class::Unknown && !lost {
                return Err(error);
            }
            // After a lost answer the second try may be refused for what the first one did.
            if let Some(end) = self.find_effect(action, &error)? {
                return Ok(end);
            }
            if lost {
                return Err(error);
            }
            self.ui.line(format!("{call}: it had no effect; trying once more"));
            lost = true;
        }
    }

    /// Follows the task whose name the reply is; calls that act at once have none.
    fn end(&self, action: &Action<'_>, value: &Value) -> Result<TaskEnd, Error> {
        let call = action.request.name();
        match value.as_str().map(str::parse::<Upid>) {
            Some(Ok(upid)) => self.follow(&call, &upid, self.limits.task),
            _ if action.task.is_some() => {
                let text = format!("the reply is no task's name: {value}");
                Err(Error::new(Class::Unsupported, call, text))
            }
            _ => Ok(TaskEnd::default()),
        }
    }

    /// Looks for the effect of a call whose answer was lost, and for its task meanwhile.
    fn find_effect(&self, action: &Action<'_>, error: &Error) -> Result<Option<TaskEnd>, Error> {
        self.ui.line(format!("{}: {}; looking whether it had its effect", error.call, error.text));
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(self.clock(), self.limits.lost, second, 5 * second);
        loop {
            if (action.look)(self)? {
                return Ok(Some(TaskEnd::default()));
            }
            // Without an answer to wait for, the outcome is known: no effect.
            if error.class != Class::Unknown {
                return Ok(None);
            }
            let task = match &action.task {
                Some((kind, id)) => self.unseen_task(action.node, (kind, id))?,
                None => None,
            };
            if let Some(upid) = task {
                let end = self.follow(&action.request.name(), &upid, self.limits.task);
                if (action.look)(self)? {
                    return Ok(Some(end.unwrap_or_default()));
                }
                // It may be an earlier one's: the next call tells.
                return Ok(None);
            }
            if !patience.wait() {
                return Ok(None);
            }
        }
    }
}

/// The error with how long it was tried for.
fn after(mut error: Error, waited: Duration) -> Error {
    error.text = format!("{} (for {} s)", error.text, waited.as_secs());
    error
}

/// What a reply holds; any status but 200 is an error.
pub(super) fn data(call: &str, reply: &Reply) -> Result<Value, Error> {
    #[derive(Debug, Deserialize)]
    struct Body {
        #[serde(default)]
        data: Value,
    }
    if reply.status != 200 {
        return Err(Error::of_reply(call, reply));
    }
    serde_json::from_slice::<Body>(&reply.body).map(|body| body.data).map_err(|e| {
        Error::new(Class::Unsupported, call, format!("the reply is not JSON of Proxmox: {e}"))
            .fix("check that proxmox.endpoint is a Proxmox VE host")
    })
}
