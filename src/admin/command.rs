//! Console text becomes a [`Command`].
//!
//! Pure, and total: any text gives a command or a [`CommandError`] that names what was expected and where. Keywords are
//! read in any case; names of databases are taken as they are written, in double quotes or without, as PgBouncer does.
//! Whether a database, a window or a client exists is not known here.

mod cursor;
mod grammar;
mod lexer;

#[cfg(test)]
mod tests;

use crate::config::Stragglers;
use crate::window::plan::Force;
use lexer::{Kind, Lexer};
use std::fmt;
use std::time::Duration;

/// What an operator can ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `PAUSE [db]`
    Pause {
        /// One database, or all.
        database: Option<String>,
    },
    /// `RESUME [db]`
    Resume {
        /// One database, or all.
        database: Option<String>,
    },
    /// `WINDOW APPLY db [, ..] [WITH (..)] AS $$ SQL $$`, or `AS CHANGE 'id' $$ SQL $$ [, CHANGE ..]`
    WindowApply {
        /// At least one, each once.
        databases: Vec<String>,
        /// What differs from the configured defaults.
        options: WindowOptions,
        /// The change, as it was written; not blank.
        sql: String,
    },
    /// `WINDOW OPEN db [, ..] [WITH (..)]`
    WindowOpen {
        /// At least one, each once.
        databases: Vec<String>,
        /// What differs from the configured defaults.
        options: WindowOptions,
    },
    /// `WINDOW REHEARSE db [, ..] [WITH (..)] [AS $$ SQL $$]`, or `AS CHANGE ..` as for `WINDOW APPLY`
    WindowRehearse {
        /// At least one, each once.
        databases: Vec<String>,
        /// What differs from the configured defaults.
        options: WindowOptions,
        /// The change, if it is told; not blank.
        sql: Option<String>,
    },
    /// `WINDOW RENEW id TOKEN '..'`
    WindowRenew {
        /// Of the window.
        id: String,
        /// That its owner got.
        token: String,
    },
    /// `WINDOW CLOSE id TOKEN '..'`
    WindowClose {
        /// Of the window.
        id: String,
        /// That its owner got.
        token: String,
    },
    /// `WINDOW ABORT id [TOKEN '..'] [REASON '..']`
    WindowAbort {
        /// Of the window.
        id: String,
        /// That its owner got; an operator may abort without it.
        token: Option<String>,
        /// Why, for the receipt.
        reason: Option<String>,
    },
    /// `SHOW ..`, or `SELECT ..` of the same names.
    Show(Show),
    /// `RELOAD`
    Reload,
    /// `UPGRADE`
    Upgrade,
    /// `SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]`
    Shutdown(Shutdown),
    /// `KILL_CLIENT id`
    KillClient(u64),
    /// `KILL [db]`
    Kill {
        /// One database, or all.
        database: Option<String>,
    },
    /// `DISABLE db`
    Disable {
        /// Its name.
        database: String,
    },
    /// `ENABLE db`
    Enable {
        /// Its name.
        database: String,
    },
    /// `RECONNECT [db]`
    Reconnect {
        /// One database, or all.
        database: Option<String>,
    },
    /// `WAIT_CLOSE [db]`
    WaitClose {
        /// One database, or all.
        database: Option<String>,
    },
    /// `SET key = value`, of a setting of ours.
    Set {
        /// In lower case.
        key: String,
        /// As written, without quotes.
        value: String,
    },
    /// `BEGIN`: drivers want to see themselves in a transaction. The console has none: each command counts at once.
    Begin,
    /// `COMMIT` or `ROLLBACK`, with its tag.
    End(&'static str),
    /// `DEALLOCATE name`, or `ALL`: none.
    Deallocate(Option<String>),
    /// What drivers send by habit: answered with this tag and nothing else.
    NoOp(&'static str),
    /// Blanks, comments or a lone `;`.
    Empty,
}

/// Who may give a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Everybody on the console: `stats_users` and `admin_users`.
    Stats,
    /// `admin_users` only.
    Admin,
}

impl Command {
    /// Who may give it. What is not named here is for admins only, and so is every command that is added.
    #[must_use]
    pub const fn needs(&self) -> Role {
        match self {
            Self::Show(show) => show.needs(),
            Self::Begin | Self::End(_) | Self::Deallocate(_) | Self::NoOp(_) | Self::Empty => Role::Stats,
            _ => Role::Admin,
        }
    }
}

impl Show {
    /// Who may see it; as with commands, what is not named here is for admins only.
    #[must_use]
    pub const fn needs(&self) -> Role {
        match self {
            Self::Pools | Self::Clients | Self::Servers | Self::Sockets | Self::ActiveSockets => Role::Stats,
            Self::Databases | Self::Users | Self::Lists | Self::Config | Self::Mem | Self::State => Role::Stats,
            Self::Stats | Self::StatsTotals | Self::StatsAverages | Self::Totals => Role::Stats,
            Self::Peers | Self::PeerPools | Self::DnsHosts | Self::DnsZones => Role::Stats,
            Self::Windows | Self::Window(_) | Self::Held(_) | Self::Blockers(_) => Role::Stats,
            Self::Version | Self::Help | Self::Parameter(_) => Role::Stats,
            _ => Role::Admin,
        }
    }
}

/// What `SHOW` can show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Show {
    /// All windows, live and past.
    Windows,
    /// One window, by id.
    Window(String),
    /// Held clients, of one database or all.
    Held(Option<String>),
    /// Blockers, of one database or all.
    Blockers(Option<String>),
    /// One row a pool.
    Pools,
    /// One row a client.
    Clients,
    /// One row a server.
    Servers,
    /// One row a database.
    Databases,
    /// Totals and averages, one row a database.
    Stats,
    /// Totals, one row a database.
    StatsTotals,
    /// Averages, one row a database.
    StatsAverages,
    /// Totals and averages of everything.
    Totals,
    /// Counts of internal lists.
    Lists,
    /// One row a user.
    Users,
    /// One row a key.
    Config,
    /// Which version this is.
    Version,
    /// Active, paused, suspended.
    State,
    /// What can be asked.
    Help,
    /// Memory by kind.
    Mem,
    /// Clients and servers with their buffers.
    Sockets,
    /// The same, those at work only.
    ActiveSockets,
    /// File descriptors.
    Fds,
    /// Peers.
    Peers,
    /// Pools of peers.
    PeerPools,
    /// Names in the DNS cache.
    DnsHosts,
    /// Zones in the DNS cache.
    DnsZones,
    /// A parameter that drivers ask for by habit, in lower case.
    Parameter(String),
}

/// How to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// When the servers are free.
    WaitForServers,
    /// When the clients have left.
    WaitForClients,
    /// At once.
    Now,
}

/// The options of `WITH (..)`; what is none has the configured default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WindowOptions {
    /// How long open transactions may take to finish.
    pub drain: Option<Duration>,
    /// How long the change may take; above 0.
    pub apply: Option<Duration>,
    /// Longest stall of any one client; above 0.
    pub hold: Option<Duration>,
    /// How long the owner may be silent; above 0.
    pub tenure: Option<Duration>,
    /// What happens to transactions still open at the drain bound.
    pub stragglers: Option<Stragglers>,
    /// The id of the window: 1 to 64 letters, digits and `_ - . :`.
    pub id: Option<String>,
    /// What must hold before COMMIT, of `WINDOW APPLY`: statements whose rows all begin with true; not blank.
    pub verify: Option<String>,
    /// What is passed over of what preflight has against a start.
    pub force: Force,
    /// Other databases that are held too, for `WINDOW APPLY`; it changes one.
    pub also: Vec<String>,
    /// Only clients of these users are held; empty: of all. `*` stands for anything.
    pub users: Vec<String>,
    /// Only clients of these applications are held; empty: of all.
    pub applications: Vec<String>,
    /// How real a rehearsal is.
    pub rehearsal: Rehearsal,
    /// For how long a good moment may be waited for; above 0.
    pub start_within: Option<Duration>,
    /// The changes that the SQL is made of, each with its id, if it is made of several.
    pub changes: Vec<(String, String)>,
}

/// How real a rehearsal is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Rehearsal {
    /// Nobody is held.
    #[default]
    Look,
    /// `fire_drill`: everybody is really held, and let go on at once.
    Drill,
    /// `rollback`: the change is really run in a window, and rolled back.
    Rollback,
}

/// Why a text is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandError {
    /// What was expected, in one line.
    pub message: String,
    /// What may help, if anything does.
    pub hint: Option<String>,
    /// Where, in characters from 1, as Postgres counts in the `P` field of an ErrorResponse.
    pub position: usize,
}

impl CommandError {
    /// At a byte of the text.
    fn at(text: &str, byte: usize, message: &str) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        Self { message: message.to_owned(), hint: None, position: before.chars().count() + 1 }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CommandError {}

/// The text that `SHOW HELP` answers.
pub const HELP: &str = "\
Console usage
	SHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
	SHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS|LISTS|STATE|MEM
	SHOW SOCKETS|ACTIVE_SOCKETS|FDS|PEERS|PEER_POOLS|DNS_HOSTS|DNS_ZONES
	SHOW WINDOWS | SHOW WINDOW id | SHOW HELD [db] | SHOW BLOCKERS [db]
	WINDOW APPLY db [WITH (drain='2s', apply='4s', hold='10s', tenure='25s', stragglers='abort', id='..',
		verify='..', force='sessions', start_within='30min', also='db, ..', users='name*, ..', applications='name*, ..')] AS $$ SQL $$
	WINDOW OPEN db|* [, ..] [WITH (..)]
	WINDOW REHEARSE db [WITH (.., fire_drill=true, rollback=true)] [AS $$ SQL $$]
	WINDOW RENEW|CLOSE id TOKEN '..'
	WINDOW ABORT id [TOKEN '..'] [REASON '..']
	PAUSE [db] | RESUME [db] | RECONNECT [db] | WAIT_CLOSE [db] | KILL [db]
	DISABLE db | ENABLE db | KILL_CLIENT id
	SET key = value
	RELOAD | UPGRADE
	SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]";

/// Reads one command; a `;` may end it.
///
/// # Errors
/// What was expected and where, if the text is no command or more than one.
pub fn parse(text: &str) -> Result<Command, CommandError> {
    grammar::parse(text)
}

/// One statement of a longer text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement<'a> {
    /// Without the `;` that ends it.
    pub text: &'a str,
    /// How many characters stand before it: to be added to the position of its error.
    pub before: usize,
}

/// Splits a text at each `;` that is not quoted or in a comment. Blank statements are left out; text that cannot be read
/// to its end, say for want of a closing quote, is the last statement, and [`parse`] says what is wrong with it.
#[must_use]
pub fn split(text: &str) -> Vec<Statement<'_>> {
    let mut statements = vec![];
    let mut lexer = Lexer::new(text);
    let (mut start, mut blank) = (0, true);
    loop {
        let (end, more) = match lexer.next() {
            Ok(Some(token)) if token.kind == Kind::Symbol(';') => (token.start, true),
            Ok(Some(_)) => {
                blank = false;
                continue;
            }
            Ok(None) => (text.len(), false),
            Err(_) => {
                blank = false;
                (text.len(), false)
            }
        };
        if !blank {
            let before = text.get(..start).map_or(0, |text| text.chars().count());
            statements.push(Statement { text: text.get(start..end).unwrap_or_default(), before });
        }
        if !more {
            return statements;
        }
        (start, blank) = (lexer.at(), true);
    }
}
