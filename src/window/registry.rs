//! The windows that run and those that have run: at most one for a database, each with one owner.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::{digest, rand};
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, watch};

use super::event::{Effect, Event, Outcome};
use super::machine::{Phase, Window};
use super::plan::{Bounds, Force, Form};
use super::preflight::Line;
use super::receipt::{Blocker, Cut, Held, Receipt, Took};
use super::{driver, people};
use crate::auth::users::Users;
use crate::clients::Clients;
use crate::clock::{Clock, rfc3339};
use crate::ids::Moment;
use crate::pool::database::Database;
use crate::pool::databases::Databases;
use crate::pool::groups::Scope;

/// How many ended windows are kept for `SHOW WINDOWS`.
const KEPT: usize = 200;

/// How many of those who were cut a receipt names.
const CUTS_KEPT: usize = 100;

/// What a window is asked to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The id that the operator gives it, if any.
    pub id: Option<String>,
    /// The databases that it covers.
    pub databases: Vec<String>,
    /// How it changes the schema.
    pub form: Form,
    /// The change, where there is one.
    pub sql: Option<String>,
    /// Its bounds.
    pub bounds: Bounds,
    /// What is passed over of what preflight has against it.
    pub force: Force,
    /// Which clients are held.
    pub scope: Scope,
    /// Who asks: user and address.
    pub owner: String,
}

/// Everything that is known of a window at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The machine.
    pub window: Window,
    /// The phases it has been in, with their beginnings.
    pub edges: Vec<(Moment, &'static str)>,
    /// What preflight has found.
    pub preflight: Vec<Line>,
    /// Those who kept the drain from finishing.
    pub blockers: Vec<Blocker>,
    /// What Postgres had to say while the change ran.
    pub notices: Vec<String>,
    /// Sessions beside us that the change had to wait for.
    pub beside: Vec<Blocker>,
    /// Those who were cut, by a policy that the operator named; not more than a hundred of them.
    pub cuts: Vec<Cut>,
    /// How many were cut.
    pub cut: u64,
    /// The books at its end; while it runs they are read live.
    pub held: Option<Held>,
    /// How it ended, with the blockers if they were the reason; empty while it runs.
    pub reason: String,
}

/// A window: what never changes of it, and how it stands.
#[derive(Debug)]
pub struct Handle {
    /// Its id.
    pub id: String,
    /// Who has it.
    pub owner: String,
    /// What proves that somebody may steer it.
    pub token: String,
    /// How it changes the schema.
    pub form: Form,
    /// What is passed over of what preflight has against it.
    pub force: Force,
    /// The databases that it covers; a change is made in the first.
    pub databases: Vec<Arc<Database>>,
    /// Which clients are held.
    pub scope: Scope,
    /// How it stands; changes with each step.
    pub status: watch::Receiver<Status>,
    /// Of its change; empty for none.
    pub change_sha256: String,
    started_at: SystemTime,
    events: mpsc::UnboundedSender<Event>,
    clock: Clock,
}

/// Why a window was not begun.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The database is not in the configuration.
    #[error("no such database: {0}")]
    NoDatabase(String),
    /// Another window covers it.
    #[error("database \"{database}\" is in window {id} of {owner}, {phase}")]
    Busy {
        /// The database.
        database: String,
        /// That window's id.
        id: String,
        /// Who has it.
        owner: String,
        /// Where it stands.
        phase: &'static str,
    },
    /// The id was used before.
    #[error("there is a window {0} already")]
    IdUsed(String),
    /// The proxy is shutting down.
    #[error("pooler is shutting down")]
    Closing,
}

/// What steering a window can come to, other than done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// There is no such window.
    #[error("no such window: {0}")]
    Unknown(String),
    /// The token is not its.
    #[error("wrong token for window {0}")]
    WrongToken(String),
    /// It has ended.
    #[error("window {id} has ended: {outcome}")]
    Over {
        /// Its id.
        id: String,
        /// How.
        outcome: &'static str,
    },
    /// It cannot take this now.
    #[error("window {id} is {phase}: {why}")]
    NotNow {
        /// Its id.
        id: String,
        /// Where it stands.
        phase: &'static str,
        /// What would have to be.
        why: &'static str,
    },
}

/// All windows.
#[derive(Debug)]
pub struct Registry {
    pub(super) databases: Arc<Databases>,
    pub(super) clients: Arc<Clients>,
    pub(super) clock: Clock,
    users: Arc<Users>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    live: Vec<Arc<Handle>>,
    past: VecDeque<Arc<Handle>>,
    closing: bool,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(databases: Arc<Databases>, clients: Arc<Clients>, users: Arc<Users>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { databases, clients, clock, users, books: Mutex::default() })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The databases with these names.
    ///
    /// # Errors
    /// [`Refusal::NoDatabase`].
    pub fn covered(&self, names: &[String]) -> Result<Vec<Arc<Database>>, Refusal> {
        let find = |name: &String| self.databases.find(name).ok_or_else(|| Refusal::NoDatabase(name.clone()));
        names.iter().map(find).collect()
    }

    /// Begins a window.
    ///
    /// # Errors
    /// [`Refusal`]; nobody is held then.
    pub fn begin(self: &Arc<Self>, request: Request) -> Result<Arc<Handle>, Refusal> {
        let (driver, first) = self.begin_undriven(request)?;
        let handle = driver.handle();
        tokio::spawn(driver.run(first));
        Ok(handle)
    }

    /// Books a window and makes its driver, whose end is the window's end.
    pub(super) fn begin_undriven(self: &Arc<Self>, request: Request) -> Result<(driver::Driver, Effect), Refusal> {
        let databases = self.covered(&request.databases)?;
        let mut books = self.books();
        if books.closing {
            return Err(Refusal::Closing);
        }
        let now = self.clock.now();
        let started_at = SystemTime::now();
        let id = request.id.unwrap_or_else(|| fresh_id(started_at));
        // A change that was not applied may be tried again under its id.
        let done = |handle: &&Arc<Handle>| {
            let status = handle.status.borrow();
            let failed = matches!(status.window.phase.outcome(), Some(Outcome::Aborted(_) | Outcome::Refused(_)));
            !failed || handle.form != Form::Apply || request.form != Form::Apply
        };
        let past = books.past.iter().filter(done);
        if books.live.iter().chain(past).any(|handle| handle.id == id) {
            return Err(Refusal::IdUsed(id));
        }
        for database in &databases {
            if let Some(other) = books.live.iter().find(|handle| handle.covers(&database.name)) {
                let phase = match other.status.borrow().window.phase.as_str() {
                    "closed" => "closed, but its change has not ended yet",
                    phase => phase,
                };
                let (id, owner) = (other.id.clone(), other.owner.clone());
                return Err(Refusal::Busy { database: database.name.clone(), id, owner, phase });
            }
        }
        let (window, first) = Window::begin(request.form, request.bounds, now);
        let status = Status {
            edges: vec![(now, window.phase.as_str())],
            window,
            preflight: Vec::new(),
            blockers: Vec::new(),
            notices: Vec::new(),
            beside: Vec::new(),
            cuts: Vec::new(),
            cut: 0,
            held: None,
            reason: String::new(),
        };
        let (sender, status) = watch::channel(status);
        let (events, received) = mpsc::unbounded_channel();
        let sql = request.sql.unwrap_or_default();
        let handle = Arc::new(Handle {
            token: random_hex(16),
            owner: request.owner,
            form: request.form,
            force: request.force,
            scope: request.scope,
            databases,
            status,
            started_at,
            change_sha256: fingerprint(&sql),
            events: events.clone(),
            clock: self.clock,
            id,
        });
        books.live.push(Arc::clone(&handle));
        drop(books);
        let channels = (sender, events, received);
        Ok((driver::Driver::new(Arc::clone(self), handle, channels, Arc::from(sql)), first))
    }

    /// The window has ended; its database is free for another.
    pub(super) fn ended(&self, handle: &Arc<Handle>) {
        let mut books = self.books();
        books.live.retain(|live| !Arc::ptr_eq(live, handle));
        books.past.push_back(Arc::clone(handle));
        if books.past.len() > KEPT {
            books.past.pop_front();
        }
    }

    /// All windows that are known, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Handle>> {
        let books = self.books();
        books.past.iter().chain(&books.live).cloned().collect()
    }

    /// The windows that run.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Handle>> {
        let closed = |handle: &Arc<Handle>| matches!(handle.status.borrow().window.phase, Phase::Closed { .. });
        self.books().live.iter().filter(|handle| !closed(handle)).cloned().collect()
    }

    /// The window with this id.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn find(&self, id: &str) -> Result<Arc<Handle>, Denied> {
        let books = self.books();
        let found = books.past.iter().chain(&books.live).rev().find(|handle| handle.id == id);
        found.cloned().ok_or_else(|| Denied::Unknown(id.to_owned()))
    }

    /// No window is begun from here on, and those that run are told to end. Waits until they have. Cancel-safe.
    pub async fn shut_down(&self) {
        self.books().closing = true;
        let live = self.live();
        live.iter().for_each(|handle| drop(handle.events.send(Event::Shutdown)));
        for handle in live {
            handle.until(|status| status.window.phase.outcome().is_some()).await;
        }
    }

    /// The role and password for the connection that changes a database: `apply_user` of its entry, the user that the entry
    /// forces, or the only one that can be meant.
    pub(super) fn target(&self, database: &Database) -> Result<crate::server::connect::Target, String> {
        let role = self.databases.apply_role(&database.name, || self.users.only_with_password())?;
        Ok(self.databases.apply_target(&database.name, &role, |role| self.users.credential(role)))
    }
}

impl Status {
    /// Notes that somebody was cut.
    pub(super) fn note_cut(&mut self, cut: Cut) {
        self.cut += 1;
        if self.cuts.len() < CUTS_KEPT {
            self.cuts.push(cut);
        }
    }
}

impl Handle {
    /// Whether it covers this database.
    #[must_use]
    pub fn covers(&self, database: &str) -> bool {
        self.databases.iter().any(|covered| covered.name == database)
    }

    /// Waits until its status is as wanted, and gives it. Cancel-safe.
    pub async fn until(&self, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.status.clone();
        match status.wait_for(|status| wanted(status)).await {
            Ok(status) => status.clone(),
            // The driver has ended: what it said last is how it stands.
            Err(_) => self.status.borrow().clone(),
        }
    }

    fn over(&self) -> Option<Denied> {
        let status = self.status.borrow();
        let outcome = status.window.phase.outcome()?.as_str();
        Some(Denied::Over { id: self.id.clone(), outcome })
    }

    /// Checks a token, in constant time.
    ///
    /// # Errors
    /// [`Denied::WrongToken`].
    pub fn check(&self, token: &str) -> Result<(), Denied> {
        let right = bool::from(self.token.as_bytes().ct_eq(token.as_bytes()));
        if right { Ok(()) } else { Err(Denied::WrongToken(self.id.clone())) }
    }

    /// The owner spoke.
    ///
    /// # Errors
    /// [`Denied::Over`].
    pub fn renew(&self) -> Result<(), Denied> {
        self.send(Event::Renew)
    }

    /// The operator's work by hand is done, or a `PAUSE` is over.
    ///
    /// # Errors
    /// [`Denied`] if the window has ended, or cannot be closed where it stands.
    pub fn close(&self) -> Result<(), Denied> {
        let phase = self.status.borrow().window.phase.clone();
        let why = match (self.form, &phase) {
            (Form::Apply | Form::Drill | Form::Trial, _) => Some("it closes itself; WINDOW ABORT ends it"),
            (Form::Open, Phase::Preflight | Phase::Draining { .. }) => Some("it can be closed when it holds"),
            (Form::Open | Form::Pause, _) => None,
        };
        match why {
            Some(why) if self.over().is_none() => {
                Err(Denied::NotNow { id: self.id.clone(), phase: phase.as_str(), why })
            }
            _ => self.send(Event::Close),
        }
    }

    /// The operator wants the old state back.
    ///
    /// # Errors
    /// [`Denied::Over`].
    pub fn abort(&self) -> Result<(), Denied> {
        self.send(Event::Abort)
    }

    /// The owner's connection has closed. Nothing to be said to anybody.
    pub fn owner_gone(&self) {
        let _ = self.events.send(Event::OwnerGone);
    }

    fn send(&self, event: Event) -> Result<(), Denied> {
        if let Some(over) = self.over() {
            return Err(over);
        }
        self.events.send(event).map_err(|_| Denied::Unknown(self.id.clone()))
    }

    /// Its record as it stands now.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        let status = self.status.borrow().clone();
        let now = self.clock.now();
        let held = status.held.clone().unwrap_or_else(|| people::held(&self.databases, &status));
        Receipt {
            id: self.id.clone(),
            databases: self.databases.iter().map(|database| database.name.clone()).collect(),
            form: self.form.as_str(),
            owner: self.owner.clone(),
            change_sha256: self.change_sha256.clone(),
            started_at: rfc3339(self.started_at),
            phase: status.window.phase.as_str(),
            outcome: status.window.phase.outcome().map_or("", |outcome| outcome.as_str()),
            reason: status.reason,
            took: Took::of(&status.window, now),
            held,
            preflight: status.preflight,
            blockers: [status.blockers, status.beside].concat(),
            cuts: status.cuts,
            notices: status.notices,
        }
    }

    /// How long the tenure lasts if nobody renews it, in milliseconds.
    #[must_use]
    pub fn tenure_left_ms(&self) -> u64 {
        let until = self.status.borrow().window.tenure_until;
        until.map_or(0, |until| crate::ids::millis(until.since(self.clock.now())))
    }
}

/// SHA-256 of a change, in hexadecimal digits; empty for none.
pub(super) fn fingerprint(sql: &str) -> String {
    if sql.is_empty() { String::new() } else { hex(digest::digest(&digest::SHA256, sql.as_bytes()).as_ref()) }
}

fn fresh_id(now: SystemTime) -> String {
    let compact: String = rfc3339(now).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let seconds = compact.split('.').next().unwrap_or(&compact);
    format!("w-{seconds}Z-{}", random_hex(2))
}

fn random_hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    if rand::fill(&mut random).is_err() {
        tracing::error!("no random bytes for a window's token");
    }
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a driver works with besides its registry and handle.
pub(super) type Channels = (watch::Sender<Status>, mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>);
