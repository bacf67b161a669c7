//! One change, two operators, and a process that may die between any two things: what the next process, or the same one
//! when its connection is lost, finds out by asking is what happened, and nothing is applied twice.
//!
//! The judgement is the production function; the database, the wire and both processes are plain models. A message that was
//! sent may arrive, late, or not at all, whoever has died meanwhile.

use pglull::window::change_table::Noted;
use pglull::window::witness::{Found, Seen, judge};

use crate::explore::Space;
use crate::rules::ensure;

/// What the process says to the backend, in order.
const SAYS: u8 = 4;
const BEGIN: u8 = 0;
const COMPLETE: u8 = 2;
const COMMIT: u8 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Outcome {
    Applied,
    NotApplied,
}

/// The process that runs the window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Runner {
    Recording,
    Says(u8),
    Waits(u8),
    /// Its connection is lost, or it is dead and the next one is there: the database is asked.
    Asks,
    Knows(Outcome),
    /// It knows, and could not write it: the record stands open until there is another process.
    Unkept,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Backend {
    Idle,
    Open { complete: bool },
    Gone,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Scene {
    runner: Runner,
    crashes: u8,
    /// How often a record cannot be written.
    failures: u8,
    /// The record: `None` before it is written, then the outcome once that is in it, and whether the transaction is.
    file: Option<(Option<Outcome>, bool)>,
    /// On its way to the backend.
    wire: Option<u8>,
    backend: Backend,
    /// The backend was told to end.
    doomed: bool,
    /// The row was refused: the change is there already.
    refused: bool,
    committed: bool,
    by_another: bool,
    tries: u8,
    /// The first half of a look: was the backend there, and the status of the transaction.
    looked: Option<(bool, Option<&'static str>)>,
    /// The row, where a bug looks at it first.
    early: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Do {
    Record,
    RecordTransaction,
    /// The disk is full where the record, or the transaction, or the outcome is to be written.
    RecordFails,
    RecordTransactionFails,
    KeepFails,
    /// The process ends by itself, and there is another.
    Restart,
    Say,
    Arrive,
    Vanish,
    Answer,
    CutOff,
    Notice,
    End,
    Crash,
    LookAtBackend,
    LookAtTable,
    Keep,
    Another,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    None,
    TableFirst,
    RunningIgnored,
    BackendSpared,
    RecordLate,
    NoUniqueId,
    RowNotCompleted,
    LostIsFailed,
    TransactionUnrecorded,
    FailureIgnored,
    FailureInTheChangeIgnored,
    UnkeptIsRemoved,
}

pub(crate) const BUGS: [Bug; 11] = [
    Bug::TableFirst,
    Bug::RunningIgnored,
    Bug::BackendSpared,
    Bug::RecordLate,
    Bug::NoUniqueId,
    Bug::RowNotCompleted,
    Bug::LostIsFailed,
    Bug::TransactionUnrecorded,
    Bug::FailureIgnored,
    Bug::FailureInTheChangeIgnored,
    Bug::UnkeptIsRemoved,
];

/// With or without a change table; whether Postgres notices that the process is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crashes {
    pub(crate) table: bool,
    pub(crate) notices: bool,
    pub(crate) bug: Bug,
}

impl Crashes {
    pub(crate) fn start() -> Scene {
        Scene {
            runner: Runner::Recording,
            crashes: 2,
            failures: 1,
            file: None,
            wire: None,
            backend: Backend::Idle,
            doomed: false,
            refused: false,
            committed: false,
            by_another: false,
            tries: 2,
            looked: None,
            early: None,
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// What the backend does with what has come.
    fn arrive(&self, scene: &mut Scene) {
        let Some(says) = scene.wire.take() else { return };
        match (scene.backend, says) {
            (Backend::Gone, _) => {}
            // Whoever has the id first has it.
            (_, BEGIN) if self.table && scene.by_another && !self.is(Bug::NoUniqueId) => scene.refused = true,
            (_, BEGIN) => scene.backend = Backend::Open { complete: false },
            (Backend::Open { .. }, COMPLETE) => scene.backend = Backend::Open { complete: true },
            (Backend::Open { .. }, COMMIT) => {
                scene.committed = true;
                scene.backend = Backend::Idle;
            }
            _ => {}
        }
    }

    fn answered(&self, scene: &mut Scene, said: u8) {
        scene.runner = match said {
            BEGIN if scene.refused => Runner::Knows(Outcome::NotApplied),
            COMMIT => Runner::Knows(Outcome::Applied),
            said => Runner::Says(said + 1),
        };
    }

    fn look_at_backend(&self, scene: &mut Scene) {
        let running = scene.backend != Backend::Gone;
        let status = match scene.backend {
            _ if scene.committed => "committed",
            Backend::Open { .. } => "in progress",
            _ => "aborted",
        };
        let recorded = scene.file.is_some_and(|(_, transaction)| transaction);
        scene.looked = Some((running && !self.is(Bug::RunningIgnored), recorded.then_some(status)));
        scene.doomed |= running && !self.is(Bug::BackendSpared);
    }

    fn look_at_table(&self, scene: &mut Scene) {
        let there = scene.committed && !self.is(Bug::RowNotCompleted) || scene.by_another;
        if self.is(Bug::TableFirst) && scene.looked.is_none() {
            scene.early = Some(there);
            return;
        }
        let there = scene.early.take().unwrap_or(there);
        let Some((running, status)) = scene.looked.take() else { return };
        let noted = if there { Noted::Applied(String::new()) } else { Noted::Never };
        let recorded = scene.file.is_some_and(|(_, transaction)| transaction);
        let judged = if !self.table && !recorded {
            // Nothing is done in a transaction before it is recorded.
            Ok(Some(Found::NotApplied))
        } else {
            let status = status.map(str::to_owned);
            judge(&Seen { running, status, noted: self.table.then_some(noted), ..Seen::default() })
        };
        match judged {
            Ok(Some(Found::Applied | Found::Half)) => scene.runner = Runner::Knows(Outcome::Applied),
            Ok(Some(Found::NotApplied)) => scene.runner = Runner::Knows(Outcome::NotApplied),
            Ok(None) | Err(_) => {}
        }
    }

    fn act(&self, scene: &mut Scene, by: Do) {
        match by {
            Do::Record => {
                scene.file = Some((None, false));
                scene.runner = Runner::Says(BEGIN);
            }
            Do::RecordTransaction => scene.file = Some((None, true)),
            Do::RecordFails => {
                scene.failures -= 1;
                scene.runner = if self.is(Bug::FailureIgnored) { Runner::Says(BEGIN) } else { Runner::Over };
            }
            // Nothing was done in the transaction, and nothing will be.
            Do::RecordTransactionFails => {
                scene.failures -= 1;
                let goes_on = self.is(Bug::FailureInTheChangeIgnored);
                scene.runner = if goes_on { Runner::Says(COMMIT) } else { Runner::Knows(Outcome::NotApplied) };
            }
            Do::KeepFails => {
                scene.failures -= 1;
                scene.runner = Runner::Unkept;
                if self.is(Bug::UnkeptIsRemoved) {
                    scene.file = None;
                }
            }
            Do::Restart => scene.runner = if scene.file.is_some() { Runner::Asks } else { Runner::Over },
            Do::Say => {
                if let Runner::Says(says) = scene.runner {
                    scene.wire = Some(says);
                    scene.runner = Runner::Waits(says);
                }
            }
            Do::Arrive => self.arrive(scene),
            Do::Vanish => scene.wire = None,
            Do::Answer => {
                if let Runner::Waits(said) = scene.runner {
                    self.answered(scene, said);
                }
            }
            Do::CutOff if self.is(Bug::LostIsFailed) => scene.runner = Runner::Knows(Outcome::NotApplied),
            Do::CutOff => scene.runner = Runner::Asks,
            Do::Notice | Do::End => scene.backend = Backend::Gone,
            Do::Crash => {
                scene.crashes -= 1;
                (scene.looked, scene.early) = (None, None);
                // Without a record the next process knows of nothing.
                scene.runner = if scene.file.is_some() { Runner::Asks } else { Runner::Over };
            }
            Do::LookAtBackend => self.look_at_backend(scene),
            Do::LookAtTable => self.look_at_table(scene),
            Do::Keep => {
                if let Runner::Knows(outcome) = scene.runner {
                    scene.file = Some((Some(outcome), false));
                    scene.runner = Runner::Over;
                }
            }
            Do::Another => {
                scene.tries -= 1;
                scene.by_another |= !scene.committed || self.is(Bug::NoUniqueId);
            }
        }
    }
}

impl Space for Crashes {
    type State = Scene;
    type Move = Do;

    fn moves(&self, scene: &Scene) -> Vec<Do> {
        let live = !matches!(scene.runner, Runner::Asks | Runner::Unkept | Runner::Over);
        let fails = scene.failures > 0;
        let talks = matches!(scene.runner, Runner::Says(_) | Runner::Waits(_));
        let recorded = scene.file.is_some_and(|(_, transaction)| transaction);
        let must_record =
            !self.table && scene.runner == Runner::Says(1) && !recorded && !self.is(Bug::TransactionUnrecorded);
        let says = matches!(scene.runner, Runner::Says(says) if says < SAYS) && !must_record;
        let early = self.is(Bug::RecordLate) && scene.runner == Runner::Recording;
        let (asks, first) = (scene.runner == Runner::Asks, !self.is(Bug::TableFirst) || scene.early.is_some());
        // It looks again and again; only what shows something new is a move.
        let news = scene.backend == Backend::Gone || !scene.doomed;
        // An open row keeps others with its id waiting.
        let free = !matches!(scene.backend, Backend::Open { .. }) || self.is(Bug::NoUniqueId);
        let moves = [
            (scene.runner == Runner::Recording, Do::Record),
            (early, Do::Arrive),
            (must_record, Do::RecordTransaction),
            (fails && scene.runner == Runner::Recording, Do::RecordFails),
            (fails && must_record, Do::RecordTransactionFails),
            (fails && matches!(scene.runner, Runner::Knows(_)), Do::KeepFails),
            (scene.runner == Runner::Unkept, Do::Restart),
            (says, Do::Say),
            (scene.wire.is_some(), Do::Arrive),
            (scene.wire.is_some() && !live, Do::Vanish),
            (
                matches!(scene.runner, Runner::Waits(_)) && scene.wire.is_none() && scene.backend != Backend::Gone,
                Do::Answer,
            ),
            (talks, Do::CutOff),
            (!live && scene.wire.is_none() && self.notices && scene.backend != Backend::Gone, Do::Notice),
            (scene.doomed && scene.backend != Backend::Gone, Do::End),
            (scene.crashes > 0 && scene.runner != Runner::Over, Do::Crash),
            (asks && scene.looked.is_none() && first && news, Do::LookAtBackend),
            (asks && (scene.looked.is_some() || !first && news), Do::LookAtTable),
            (matches!(scene.runner, Runner::Knows(_)), Do::Keep),
            (self.table && scene.tries > 0 && free, Do::Another),
        ];
        moves.into_iter().filter(|(can, _)| *can).map(|(_, by)| by).collect()
    }

    fn go(&self, before: &Scene, by: Do) -> Result<Scene, String> {
        let mut scene = *before;
        if by == Do::Arrive && self.is(Bug::RecordLate) && scene.runner == Runner::Recording {
            scene.wire = Some(COMMIT);
            scene.backend = Backend::Open { complete: true };
        }
        self.act(&mut scene, by);
        ensure(!(scene.committed && scene.by_another), "a change is applied twice")?;
        let begun = scene.committed || matches!(scene.backend, Backend::Open { .. });
        ensure(!begun || scene.file.is_some(), "an effect without a record")?;
        if let Some((Some(outcome), _)) = scene.file {
            let there = scene.committed || scene.by_another;
            ensure(outcome != Outcome::Applied || there, "applied, but it is not there")?;
            ensure(outcome != Outcome::NotApplied || !scene.committed, "not applied, but it is committed")?;
        }
        Ok(scene)
    }

    fn end(&self, scene: &Scene) -> Result<(), String> {
        let open = matches!(scene.file, Some((None, _)));
        ensure(!open, "what became of the change is never known")
    }
}
