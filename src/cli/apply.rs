//! Runs one `WINDOW APPLY` and shows it live: one connection runs it, a second one watches.
//!
//! The connection that runs the change owns the window: if we die, it aborts by itself. The first Ctrl-C asks for
//! the abort and waits for the outcome; the second one stops waiting, which comes to the same, unseen.

use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::{ClientError, Console, Rows};
use super::live::{Status, frame};
use super::reply::Report;
pub(crate) use super::statement::Change;
use super::term::{Screen, View, err};
use super::{Site, statement, table};

/// How often the watching connection looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long we look for the outcome of a window whose connection broke.
const LOOK_FOR_OUTCOME: Duration = Duration::from_secs(5);

/// How it ended.
pub(crate) struct Ended {
    /// The row of the answer, or why there is none.
    pub(crate) answer: Result<Rows, ClientError>,
    /// The last that the console told of the window.
    pub(crate) status: Option<Status>,
    /// When the command was sent, by the wall clock.
    pub(crate) sent: SystemTime,
    /// When the answer came, by the wall clock.
    pub(crate) answered: SystemTime,
}

impl Ended {
    /// Whether the change is applied, as the console says.
    pub(crate) fn applied(&self) -> bool {
        match &self.answer {
            Ok(rows) => rows.first("outcome").is_some_and(done),
            Err(ClientError::Server(_)) => false,
            // The answer was lost; the receipt may still know.
            Err(_) => self.status.as_ref().is_some_and(|s| done(s.text("outcome"))),
        }
    }
}

/// Whether an outcome means that the change is there: made now, or before.
fn done(outcome: &str) -> bool {
    matches!(outcome, "applied" | "already_applied")
}

/// Runs the change in a window and shows it.
///
/// # Errors
/// Only what happens before the command is sent; everything later is in [`Ended`].
pub(crate) async fn apply(site: &Site, change: &Change<'_>, view: View) -> Result<Ended, ClientError> {
    let runner = site.connect().await?;
    let mut show = Show::new(site, change.id, view)?;
    let sent = SystemTime::now();
    let answer = show.run(runner, &statement::apply(change)).await;
    let answered = SystemTime::now();
    Ok(show.end(answer, (sent, answered)).await)
}

/// A window that is shown while it runs.
pub(super) struct Show<'a> {
    pub(super) site: &'a Site,
    pub(super) id: &'a str,
    pub(super) interrupts: Interrupts,
    display: Display,
    watcher: Watcher,
}

impl<'a> Show<'a> {
    /// Begins to look.
    pub(super) fn new(site: &'a Site, id: &'a str, view: View) -> std::io::Result<Self> {
        let interrupts = Interrupts::new()?;
        let watcher = Watcher::start(site.clone(), id.to_owned());
        let display = Display { id: id.to_owned(), view, screen: Screen::default(), started: Instant::now() };
        Ok(Self { site, id, interrupts, display, watcher })
    }

    /// Runs the command that begins the window until it is answered. An interrupt aborts it.
    pub(super) async fn run(&mut self, mut runner: Console, command: &str) -> Result<Vec<Rows>, ClientError> {
        let (notices, mut heard) = mpsc::unbounded_channel();
        let mut aborting: Option<Task> = None;
        let answer = {
            let running = runner.run(command, move |notice| drop(notices.send(notice)));
            tokio::pin!(running);
            loop {
                tokio::select! {
                    biased;
                    Some(notice) = heard.recv() => self.display.notice(&notice),
                    answer = &mut running => break answer,
                    () = self.interrupts.next() => {
                        if aborting.is_some() {
                            break Err(ClientError::Closed);
                        }
                        self.say("interrupted: the window aborts; once more to stop waiting for it");
                        aborting = Some(Task(tokio::spawn(abort(self.site.clone(), self.id.to_owned()))));
                    }
                    Some(status) = self.watcher.changed() => self.display.status(&status),
                }
            }
        };
        // Whoever stopped waiting has let go of the window with this: its outcome is near.
        drop(runner);
        while let Ok(notice) = heard.try_recv() {
            self.display.notice(&notice);
        }
        answer
    }

    /// Looks how it has ended, after this answer to what was sent and answered at these times.
    pub(super) async fn end(mut self, answer: Answer, (sent, answered): (SystemTime, SystemTime)) -> Ended {
        let status = if begun(&answer, self.id) {
            final_status(self.site, self.id, &answer).await.or_else(|| self.watcher.last())
        } else {
            None
        };
        // Its receipt says what was drawn, and more.
        self.display.screen.clear();
        let answer = answer.map(|mut results| results.pop().unwrap_or_default());
        Ended { answer, status, sent, answered }
    }

    /// Tells something of our own.
    pub(super) fn say(&mut self, text: &str) {
        self.display.say(text);
    }
}

/// What the console answers.
pub(super) type Answer = Result<Vec<Rows>, ClientError>;

/// What the console tells of this window, or nothing.
pub(crate) async fn look(console: &mut Console, id: &str) -> Result<Status, ClientError> {
    let results = console.query(&format!("SHOW WINDOW {id}")).await?;
    Ok(Status::from_rows(&results.into_iter().next().unwrap_or_default()))
}

/// Whether a window was begun: what is refused before has none, and an id may have one of an earlier window.
fn begun(answer: &Answer, id: &str) -> bool {
    let of_window = |message: &str| {
        message.strip_prefix("window ").and_then(|rest| rest.strip_prefix(id)).is_some_and(|rest| rest.starts_with(' '))
    };
    !matches!(answer, Err(ClientError::Server(report)) if !of_window(&report.message))
}

/// The receipt. Where the answer was lost we look until the window has an outcome, for a while.
async fn final_status(site: &Site, id: &str, answer: &Answer) -> Option<Status> {
    let lost = !matches!(answer, Ok(_) | Err(ClientError::Server(_)));
    let until = Instant::now() + LOOK_FOR_OUTCOME;
    loop {
        let status = async { look(&mut site.connect().await?, id).await }.await.ok();
        let settled = status.as_ref().is_some_and(|s| !s.text("outcome").is_empty());
        if settled || !lost || Instant::now() >= until {
            return status;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn abort(site: Site, id: String) {
    let asked = async { site.connect().await?.query(&statement::steer("ABORT", &id, None)).await };
    if let Err(error) = asked.await {
        err(&format!("pglull: the abort was not taken: {}\n", table::visible(&error.to_string())));
    }
}

/// Where progress goes.
struct Display {
    id: String,
    view: View,
    screen: Screen,
    started: Instant,
}

impl Display {
    fn notice(&mut self, notice: &Report) {
        // What is drawn shows the phases already. All else has no other place: why it waits, what Postgres says to the change.
        if self.view == View::Lines || notice.severity == "WARNING" || !tells_phase(&notice.message, &self.id) {
            let text = table::visible(&notice.message);
            self.say(&text);
        }
    }

    fn say(&mut self, text: &str) {
        let line = format!("{:>7.2} s  {text}", self.started.elapsed().as_secs_f64());
        match self.view {
            View::Lines => err(&format!("{line}\n")),
            View::Drawn(_) => self.screen.say(&line),
        }
    }

    fn status(&mut self, status: &Status) {
        if let View::Drawn(style) = self.view {
            self.screen.draw(|width| frame(status, width, style));
        }
    }
}

/// Whether a notice is one of the window's own steps.
fn tells_phase(message: &str, id: &str) -> bool {
    message.strip_prefix("window ").and_then(|rest| rest.strip_prefix(id)).is_some_and(|rest| rest.starts_with(':'))
}

/// A task that ends with its owner.
pub(super) struct Task(pub(super) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Looks at the window over a connection of its own, again and again.
struct Watcher {
    seen: watch::Receiver<Option<Status>>,
    _task: Task,
}

impl Watcher {
    fn start(site: Site, id: String) -> Self {
        let (tell, seen) = watch::channel(None);
        let task = tokio::spawn(async move {
            let Ok(mut console) = site.connect().await else {
                return;
            };
            let mut tick = interval(LOOK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                match look(&mut console, &id).await {
                    Ok(status) => drop(tell.send_replace(Some(status))),
                    // Not yet, or no more; the answer on the other connection decides.
                    Err(ClientError::Server(_)) => {}
                    Err(_) => return,
                }
            }
        });
        Self { seen, _task: Task(task) }
    }

    /// The next look; pends for ever once the watching has ended.
    async fn changed(&mut self) -> Option<Status> {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.seen.borrow_and_update().clone()
    }

    fn last(&self) -> Option<Status> {
        self.seen.borrow().clone()
    }
}

/// Ctrl-C, or a polite request to end.
pub(crate) struct Interrupts {
    typed: Signal,
    asked: Signal,
    hung_up: Signal,
}

impl Interrupts {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            typed: signal(SignalKind::interrupt())?,
            asked: signal(SignalKind::terminate())?,
            hung_up: signal(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.typed.recv() => {}
            _ = self.asked.recv() => {}
            _ = self.hung_up.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
