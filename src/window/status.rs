//! What a window is asked to do, how it stands, and what can be said to those who want to begin or steer one.

use super::change_table::{ChangeTable, Part};
use super::machine::Window;
use super::plan::{Bounds, Force, Form};
use super::preflight::Line;
use super::receipt::{Blocker, Bucket, Cut, Held, Sample, Word};
use crate::ids::Moment;
use crate::pool::groups::Scope;

/// How many of those who were cut a receipt names.
const CUTS_KEPT: usize = 100;

/// What a window is asked to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The id that the operator gives it, if any.
    pub id: Option<String>,
    /// The databases that it covers; a change is made in the first.
    pub databases: Vec<String>,
    /// How it changes the schema.
    pub form: Form,
    /// The change, where there is one.
    pub sql: Option<String>,
    /// The changes that it is made of, if it is made of several.
    pub parts: Vec<Part>,
    /// What must hold before its COMMIT.
    pub verify: Option<String>,
    /// Its bounds.
    pub bounds: Bounds,
    /// What is passed over of what preflight has against it.
    pub force: Force,
    /// Which clients are held.
    pub scope: Scope,
    /// Who asks: user and address.
    pub owner: String,
    /// Where the database notes the change, if anywhere.
    pub change_table: Option<ChangeTable>,
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
    /// What Postgres had to say while the change ran; at the end, what is not known.
    pub notices: Vec<String>,
    /// What Postgres warned of at COMMIT.
    pub warned: Option<String>,
    /// Sessions beside us that the change had to wait for.
    pub beside: Vec<Blocker>,
    /// Those who were cut, by a policy that the operator named; not more than a hundred of them.
    pub cuts: Vec<Cut>,
    /// How many were cut.
    pub cut: u64,
    /// The books at its end; while it runs they are read live.
    pub held: Option<Held>,
    /// The distribution of the stalls, at its end.
    pub stalls: Vec<Bucket>,
    /// Clients held over time, at its end.
    pub samples: Vec<Sample>,
    /// By the wall clock, at its end.
    pub ended_at: String,
    /// How it ended, with the blockers if they were the reason; empty while it runs.
    pub reason: String,
}

impl Request {
    /// One that asks for nothing but what must be said.
    #[must_use]
    pub fn new(form: Form, databases: Vec<String>, bounds: Bounds, owner: String) -> Self {
        Self {
            id: None,
            databases,
            form,
            sql: None,
            parts: Vec::new(),
            verify: None,
            bounds,
            force: Force::Nothing,
            scope: Scope::default(),
            owner,
            change_table: None,
        }
    }
}

impl Status {
    /// Of a window that begins now.
    pub(super) fn new(window: Window, now: Moment) -> Self {
        Self {
            edges: vec![(now, window.phase.as_str())],
            window,
            preflight: Vec::new(),
            blockers: Vec::new(),
            notices: Vec::new(),
            warned: None,
            beside: Vec::new(),
            cuts: Vec::new(),
            cut: 0,
            held: None,
            stalls: Vec::new(),
            samples: Vec::new(),
            ended_at: String::new(),
            reason: String::new(),
        }
    }

    /// Notes that somebody was cut.
    pub(super) fn note_cut(&mut self, cut: Cut) {
        self.cut += 1;
        if self.cuts.len() < CUTS_KEPT {
            self.cuts.push(cut);
        }
    }
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
    /// Another process serves some of the clients, or is about to.
    #[error("an upgrade is under way, and another process serves some of the clients")]
    Barred,
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
        outcome: Word,
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
