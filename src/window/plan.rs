//! What one window is to do, and its bounds. Plain values, validated before a window is made.

use std::time::Duration;

/// How a window changes the schema.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// The proxy runs SQL in one transaction of its own.
    Apply,
    /// The operator does something by hand, between `WINDOW OPEN` and `WINDOW CLOSE`.
    Open,
    /// PgBouncer's `PAUSE`, ended by `RESUME`.
    Pause,
    /// A rehearsal that really drains, and lets everybody go on at once.
    Drill,
    /// A rehearsal that really runs SQL as [`Form::Apply`] does, and rolls it back.
    Trial,
}

impl Form {
    /// Whether it runs SQL.
    #[must_use]
    pub const fn runs_sql(self) -> bool {
        matches!(self, Self::Apply | Self::Trial)
    }

    /// The word for it in the console.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Open => "open",
            Self::Pause => "pause",
            Self::Drill => "drill",
            Self::Trial => "trial",
        }
    }
}

/// What happens to transactions that are still open at the drain bound.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stragglers {
    /// The window ends; nobody is hurt.
    Abort,
    /// Their running statement is cancelled (57014).
    Cancel,
    /// Their clients are disconnected (57P01).
    Terminate,
    /// What the class of each says; one that may not be cut ends the window.
    ByClass,
}

/// What the operator passes over of what preflight has against a start.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub enum Force {
    /// Nothing.
    #[default]
    Nothing,
    /// These checks.
    Checks(Vec<String>),
    /// All that can be passed over.
    Everything,
}

impl Force {
    /// Whether it passes over this check.
    #[must_use]
    pub fn passes(&self, check: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Checks(checks) => checks.iter().any(|named| named == check),
            Self::Everything => true,
        }
    }
}

/// The bounds of a window. Source of the defaults: DESIGN section 5, `docs`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// From the shutting of the gate to the end of the last open transaction. `None`: no bound (`PAUSE`).
    pub drain: Option<Duration>,
    /// From the start of the change to its COMMIT.
    pub apply: Duration,
    /// The longest stall of any one client: from the shutting to the opening. `None`: no bound (`pause_max = 0`).
    pub hold: Option<Duration>,
    /// How long the window goes on without a word from its owner. `None`: nobody needs to speak (`PAUSE`).
    pub tenure: Option<Duration>,
    /// What to do at the drain bound.
    pub stragglers: Stragglers,
    /// The most clients that may be held at once.
    pub max_held: u64,
}

impl Bounds {
    /// What is kept back of `hold` for rolling back and letting go, so that the bound is kept and not just noticed.
    #[must_use]
    pub fn reserve(&self) -> Duration {
        self.hold.map_or(Duration::ZERO, |hold| (hold / 10).min(Duration::from_millis(500)))
    }
}
