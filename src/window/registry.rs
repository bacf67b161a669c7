//! The windows that run and those that have run: at most one for a database, each with one owner.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{digest, rand};
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, watch};

use super::apply::Script;
use super::change_table::Note;
use super::event::{Effect, Event};
use super::machine::{Phase, Window};
use super::plan::{Force, Form};
use super::receipt::{Edge, Limits, Receipt, Took, shorten};
use super::record::{Record, superfluous};
use super::recover::{Unsettled, recover};
pub use super::status::{Denied, Refusal, Request, Status};
use super::store::Store;
use super::{driver, people};
use crate::auth::users::Users;
use crate::clients::Clients;
use crate::clock::{Clock, rfc3339};
use crate::ids::{Moment, millis};
use crate::pool::database::Database;
use crate::pool::databases::Databases;
use crate::pool::groups::Scope;

/// How many receipts are kept, and for how long.
const KEPT: usize = 200;
const KEPT_FOR: Duration = Duration::from_hours(90 * 24);

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
    /// What is written of its change.
    pub(super) note: Note,
    /// What the one who aborted it had to say.
    pub(super) said: OnceLock<String>,
    started_at: SystemTime,
    events: mpsc::UnboundedSender<Event>,
    clock: Clock,
}

/// All windows.
#[derive(Debug)]
pub struct Registry {
    pub(super) databases: Arc<Databases>,
    pub(super) clients: Arc<Clients>,
    pub(super) clock: Clock,
    /// Where records are kept, if anywhere.
    pub(super) store: Option<Arc<Store>>,
    users: Arc<Users>,
    books: Mutex<Books>,
}

/// What earlier processes have left: the folder, and the records in it, the oldest first.
pub type Left = Option<(Store, Vec<Record>)>;

#[derive(Debug, Default)]
struct Books {
    live: Vec<Arc<Handle>>,
    /// Those of an earlier process whose end is not known yet.
    unsettled: Vec<Arc<Unsettled>>,
    past: VecDeque<Receipt>,
    closing: bool,
    /// Another process serves some of the clients: no window would hold them.
    barred: bool,
}

impl Registry {
    /// One with what earlier processes have left.
    #[must_use]
    pub fn new(
        databases: Arc<Databases>,
        clients: Arc<Clients>,
        users: Arc<Users>,
        clock: Clock,
        left: Left,
    ) -> Arc<Self> {
        let (store, records) = left.map_or((None, Vec::new()), |(store, records)| (Some(Arc::new(store)), records));
        let (settled, open): (Vec<_>, Vec<_>) = records.into_iter().partition(Record::settled);
        let books = Books {
            unsettled: open.into_iter().map(Unsettled::new).map(Arc::new).collect(),
            past: settled.into_iter().map(|record| record.receipt).collect(),
            ..Books::default()
        };
        let registry = Self { databases, clients, clock, store, users, books: Mutex::new(books) };
        // Here alone the wall clock has a word: it may move while we run, and what has just ended is not old.
        let oldest = SystemTime::now().checked_sub(KEPT_FOR).map(rfc3339);
        registry.forget(&mut registry.books(), oldest.as_deref());
        Arc::new(registry)
    }

    /// Begins to settle what an earlier process has left open. Nobody waits for it.
    pub fn recover(self: &Arc<Self>) {
        for unsettled in self.books().unsettled.clone() {
            let databases = unsettled.receipt().databases.iter();
            databases.filter_map(|name| self.databases.find(name)).for_each(|found| found.metrics.windows_started());
            tokio::spawn(recover(Arc::clone(self), unsettled));
        }
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
        if books.barred {
            return Err(Refusal::Barred);
        }
        let now = self.clock.now();
        let started_at = SystemTime::now();
        let id = request.id.clone().unwrap_or_else(|| fresh_id(started_at));
        if books.uses(&id, &request) {
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
            if let Some(other) = books.unsettled.iter().find(|unsettled| unsettled.covers(&database.name)) {
                let (id, owner) = (other.receipt().id.clone(), other.receipt().owner.clone());
                return Err(Refusal::Busy { database: database.name.clone(), id, owner, phase: "recovering" });
            }
        }
        let (window, first) = Window::begin(request.form, request.bounds, now);
        let (sender, status) = watch::channel(Status::new(window, now));
        let (events, received) = mpsc::unbounded_channel();
        let sql = request.sql.unwrap_or_default();
        let owner = request.owner.clone();
        // Of a rehearsal nothing stays.
        let table = request.change_table.filter(|_| request.form == Form::Apply);
        let note = Note { id: id.clone(), sha256: fingerprint(&sql), owner, table, parts: request.parts };
        let handle = Arc::new(Handle {
            token: random_hex(16),
            owner: request.owner,
            form: request.form,
            force: request.force,
            scope: request.scope,
            databases,
            status,
            said: OnceLock::new(),
            started_at,
            note,
            events: events.clone(),
            clock: self.clock,
            id,
        });
        books.live.push(Arc::clone(&handle));
        drop(books);
        let channels = (sender, events, received);
        let script = Script { sql: Arc::from(sql), verify: Arc::from(request.verify.unwrap_or_default()) };
        Ok((driver::Driver::new(Arc::clone(self), handle, channels, script), first))
    }

    /// The window has ended; its database is free for another.
    pub(super) fn ended(&self, handle: &Arc<Handle>, receipt: Receipt) {
        let mut books = self.books();
        books.live.retain(|live| !Arc::ptr_eq(live, handle));
        books.past.push_back(receipt);
        self.forget(&mut books, None);
    }

    /// What became of a window of an earlier process is known.
    pub(super) fn settled(&self, unsettled: &Arc<Unsettled>, receipt: Receipt) {
        let mut books = self.books();
        books.unsettled.retain(|other| !Arc::ptr_eq(other, unsettled));
        let before = books.past.iter().take_while(|past| past.started_at <= receipt.started_at).count();
        books.past.insert(before, receipt);
        self.forget(&mut books, None);
    }

    /// Receipts that are too many, or from before `oldest`, are kept no longer.
    fn forget(&self, books: &mut Books, oldest: Option<&str>) {
        let superfluous = superfluous(books.past.make_contiguous(), KEPT, oldest);
        let (mut gone, mut kept) = (Vec::new(), VecDeque::new());
        for (ix, receipt) in std::mem::take(&mut books.past).into_iter().enumerate() {
            if superfluous.contains(&ix) {
                gone.push(receipt);
            } else {
                kept.push_back(receipt);
            }
        }
        books.past = kept;
        if let Some(store) = self.store.clone().filter(|_| !gone.is_empty()) {
            let names = gone.iter().map(Receipt::file_name).collect();
            store.remove_beside(names);
        }
    }

    /// The receipts of all windows that are known, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Receipt> {
        let books = self.books();
        let unsettled = books.unsettled.iter().map(|unsettled| unsettled.receipt().clone());
        let live = books.live.iter().map(|handle| handle.receipt());
        books.past.iter().cloned().chain(unsettled).chain(live).collect()
    }

    /// The receipt of the last window with this id, and the window itself while it runs.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn show(&self, id: &str) -> Result<(Receipt, Option<Arc<Handle>>), Denied> {
        let books = self.books();
        if let Some(handle) = books.live.iter().find(|handle| handle.id == id) {
            return Ok((handle.receipt(), Some(Arc::clone(handle))));
        }
        let unsettled = books.unsettled.iter().map(|unsettled| unsettled.receipt());
        let found = unsettled.chain(books.past.iter().rev()).find(|receipt| receipt.id == id);
        found.map(|receipt| (receipt.clone(), None)).ok_or_else(|| Denied::Unknown(id.to_owned()))
    }

    /// The window of an earlier process with this id, if it is not settled yet.
    #[must_use]
    pub fn unsettled(&self, id: &str) -> Option<Arc<Unsettled>> {
        self.books().unsettled.iter().find(|unsettled| unsettled.receipt().id == id).cloned()
    }

    /// The windows that run.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Handle>> {
        let closed = |handle: &Arc<Handle>| matches!(handle.status.borrow().window.phase, Phase::Closed { .. });
        self.books().live.iter().filter(|handle| !closed(handle)).cloned().collect()
    }

    /// The window with this id, to be steered.
    ///
    /// # Errors
    /// [`Denied`] if there is none, or none that runs.
    pub fn find(&self, id: &str) -> Result<Arc<Handle>, Denied> {
        match self.show(id)? {
            (_, Some(handle)) => Ok(handle),
            (receipt, None) if receipt.outcome.is_empty() => {
                let why = "the proxy was restarted; WINDOW ABORT gives up finding out how it ended";
                Err(Denied::NotNow { id: id.to_owned(), phase: "recovering", why })
            }
            (receipt, None) => Err(Denied::Over { id: id.to_owned(), outcome: receipt.outcome }),
        }
    }

    /// No window is begun from here on until [`unbar`](Self::unbar): another process serves some of the clients. Whether one
    /// runs is decided under the same lock as its beginning.
    ///
    /// # Errors
    /// The id of a window that has not ended yet; nothing is barred then.
    pub fn bar(&self) -> Result<(), String> {
        let mut books = self.books();
        let unsettled = books.unsettled.first().map(|unsettled| unsettled.receipt().id.clone());
        match books.live.first().map(|handle| handle.id.clone()).or(unsettled) {
            Some(id) => Err(id),
            None => {
                books.barred = true;
                Ok(())
            }
        }
    }

    /// Every client is this process's own again.
    pub fn unbar(&self) {
        self.books().barred = false;
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

    /// The role that changes of a database are applied as, if one can be meant.
    #[must_use]
    pub fn apply_role(&self, database: &Database) -> Option<String> {
        self.databases.apply_role(&database.name, || self.users.only_with_password()).ok()
    }

    /// The role and password for the connection that changes a database: `apply_user` of its entry, the user that the entry
    /// forces, or the only one that can be meant.
    pub(super) fn target(&self, database: &Database) -> Result<crate::server::connect::Target, String> {
        let role = self.databases.apply_role(&database.name, || self.users.only_with_password())?;
        Ok(self.databases.apply_target(&database.name, &role, |role| self.users.credential(role)))
    }
}

impl Books {
    /// Whether an id is used up: by a window that has changed something, or may have. An `APPLY` may come again all the same where
    /// the database will say what became of the other.
    fn uses(&self, id: &str, request: &Request) -> bool {
        let asks = request.form == Form::Apply && request.change_table.is_some();
        let again = |past: &Receipt| {
            let rehearsal = [Form::Drill, Form::Trial].iter().any(|form| past.form == form.as_str());
            let done = matches!(past.outcome.as_ref(), "applied" | "already_applied" | "unknown");
            // A record that could not be read does not say of which form it was.
            let apply = past.form == Form::Apply.as_str() || past.form.is_empty();
            rehearsal || !done || asks && apply
        };
        self.live.iter().any(|handle| handle.id == id)
            || self.unsettled.iter().any(|unsettled| unsettled.receipt().id == id)
            || self.past.iter().any(|past| past.id == id && !again(past))
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
        let outcome = status.window.phase.outcome()?.as_str().into();
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
            (Form::Open, Phase::Preflight | Phase::Recording | Phase::Draining { .. }) => {
                Some("it can be closed when it holds")
            }
            (Form::Open | Form::Pause, _) => None,
        };
        match why {
            Some(why) if self.over().is_none() => {
                Err(Denied::NotNow { id: self.id.clone(), phase: phase.as_str(), why })
            }
            _ => self.send(Event::Close),
        }
    }

    /// The operator wants the old state back, for this reason.
    ///
    /// # Errors
    /// [`Denied::Over`].
    pub fn abort(&self, why: Option<String>) -> Result<(), Denied> {
        if let Some(why) = why {
            // Who comes second aborts what is being aborted.
            let _ = self.said.set(shorten(&why));
        }
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
        self.receipt_of(status)
    }

    /// Its record at a status.
    pub(super) fn receipt_of(&self, status: Status) -> Receipt {
        let now = self.clock.now();
        let held = status.held.clone().unwrap_or_else(|| people::held(&self.databases, &status).0);
        let started = status.window.times.started;
        let edge =
            |(at, phase): &(Moment, &'static str)| Edge { at_ms: millis(at.since(started)), phase: (*phase).into() };
        Receipt {
            id: self.id.clone(),
            databases: self.databases.iter().map(|database| database.name.clone()).collect(),
            form: self.form.as_str().into(),
            owner: self.owner.clone(),
            change_sha256: self.note.sha256.clone(),
            started_at: rfc3339(self.started_at),
            ended_at: status.ended_at,
            phase: status.window.phase.as_str().into(),
            outcome: status.window.phase.outcome().map_or("", |outcome| outcome.as_str()).into(),
            reason: status.reason,
            limits: Limits::of(&status.window.bounds),
            took: Took::of(&status.window, now),
            held,
            preflight: status.preflight,
            blockers: [status.blockers, status.beside].concat(),
            cuts: status.cuts,
            notices: status.notices,
            edges: status.edges.iter().map(edge).collect(),
            samples: status.samples,
            stalls: status.stalls,
        }
    }

    /// How long the tenure lasts if nobody renews it, in milliseconds.
    #[must_use]
    pub fn tenure_left_ms(&self) -> u64 {
        let until = self.status.borrow().window.tenure_until;
        until.map_or(0, |until| millis(until.since(self.clock.now())))
    }
}

/// SHA-256 of a change, in hexadecimal digits; empty for none.
#[must_use]
pub fn fingerprint(sql: &str) -> String {
    if sql.is_empty() { String::new() } else { hex(digest::digest(&digest::SHA256, sql.as_bytes()).as_ref()) }
}

fn fresh_id(now: SystemTime) -> String {
    let compact: String = rfc3339(now).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    let seconds = compact.split('.').next().unwrap_or(&compact);
    format!("w-{seconds}Z-{}", random_hex(4))
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
