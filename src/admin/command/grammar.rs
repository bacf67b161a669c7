//! Tokens become a [`Command`]: one small function for each rule of the console's grammar.
//!
//! Pure. The readers of single words, names and values are in `cursor.rs`, and so is the wording of errors; names of
//! things to show and of parameters that drivers use by habit are tables here.

use super::cursor::{Cursor, Parse};
use super::lexer::Kind;
use super::{Command, Rehearsal, Show, Shutdown, WindowOptions};
use crate::config::{Stragglers, parse_duration};
use crate::window::plan::Force;
use crate::window::preflight::CHECKS;
use std::time::Duration;

/// What a command begins with.
const COMMANDS: &str = "SHOW, WINDOW, PAUSE, RESUME, RECONNECT, WAIT_CLOSE, KILL, KILL_CLIENT, DISABLE, ENABLE, SET, RELOAD, UPGRADE or SHUTDOWN";

/// What `WITH (..)` takes.
const OPTIONS: &str = "drain, apply, hold, tenure, stragglers, id, verify, force, also, users, applications, start_within, fire_drill or rollback";

/// What `SHOW` shows without an argument.
const SHOWN: [(&str, Show); 23] = [
    ("windows", Show::Windows),
    ("pools", Show::Pools),
    ("clients", Show::Clients),
    ("servers", Show::Servers),
    ("databases", Show::Databases),
    ("stats", Show::Stats),
    ("stats_totals", Show::StatsTotals),
    ("stats_averages", Show::StatsAverages),
    ("totals", Show::Totals),
    ("lists", Show::Lists),
    ("users", Show::Users),
    ("config", Show::Config),
    ("version", Show::Version),
    ("state", Show::State),
    ("help", Show::Help),
    ("mem", Show::Mem),
    ("sockets", Show::Sockets),
    ("active_sockets", Show::ActiveSockets),
    ("fds", Show::Fds),
    ("peers", Show::Peers),
    ("peer_pools", Show::PeerPools),
    ("dns_hosts", Show::DnsHosts),
    ("dns_zones", Show::DnsZones),
];

/// Parameters of a session that drivers show and set by habit; setting one has no effect.
const PARAMETERS: [&str; 19] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "server_encoding",
    "server_version",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_isolation",
    "transaction_read_only",
];

/// Reads one command.
pub(super) fn parse(text: &str) -> Parse<Command> {
    let mut cursor = Cursor::new(text)?;
    let command = cursor.command()?;
    cursor.end()?;
    Ok(command)
}

impl Cursor<'_> {
    fn command(&mut self) -> Parse<Command> {
        if self.is_end() {
            return Ok(Command::Empty);
        }
        Ok(match self.keyword().as_str() {
            "pause" => Command::Pause { database: self.optional_name()? },
            "resume" => Command::Resume { database: self.optional_name()? },
            "kill" => Command::Kill { database: self.optional_name()? },
            "reconnect" => Command::Reconnect { database: self.optional_name()? },
            "wait_close" => Command::WaitClose { database: self.optional_name()? },
            "disable" => Command::Disable { database: self.name("a database")? },
            "enable" => Command::Enable { database: self.name("a database")? },
            "kill_client" => Command::KillClient(self.number()?),
            "window" => self.window()?,
            "show" => self.show("SHOW")?,
            "select" => self.show("SELECT")?,
            "set" => self.set()?,
            "reload" => Command::Reload,
            "upgrade" => Command::Upgrade,
            "shutdown" => self.shutdown()?,
            "suspend" => {
                return Err(self.refuse("SUSPEND is not supported", "PAUSE holds clients, and so does WINDOW OPEN"));
            }
            "begin" | "start" => self.whatever_follows(Command::Begin),
            "commit" | "end" => self.whatever_follows(Command::End("COMMIT")),
            "rollback" if self.peek_keyword().is_some_and(|word| word == "to") => self.no_op("ROLLBACK"),
            "rollback" | "abort" => self.whatever_follows(Command::End("ROLLBACK")),
            "savepoint" => self.no_op("SAVEPOINT"),
            "release" => self.no_op("RELEASE"),
            "deallocate" => self.deallocate()?,
            "close" => self.no_op("CLOSE CURSOR"),
            "unlisten" => self.no_op("UNLISTEN"),
            "reset" => self.no_op("RESET"),
            "discard" => self.no_op("DISCARD ALL"),
            _ => {
                self.back_to(0);
                return Err(self.expected(COMMANDS).hinting("SHOW HELP lists the commands"));
            }
        })
    }

    /// What drivers send by habit is answered whatever follows it.
    fn no_op(&mut self, tag: &'static str) -> Command {
        self.whatever_follows(Command::NoOp(tag))
    }

    fn whatever_follows(&mut self, command: Command) -> Command {
        self.skip();
        command
    }

    /// `DEALLOCATE [PREPARE] { name | ALL }`.
    fn deallocate(&mut self) -> Parse<Command> {
        self.take_keyword("prepare");
        let all = self.take_keyword("all");
        Ok(Command::Deallocate(if all { None } else { Some(self.name("the name of a statement, or ALL")?) }))
    }

    fn shutdown(&mut self) -> Parse<Command> {
        if self.is_end() {
            return Ok(Command::Shutdown(Shutdown::Now));
        }
        let how = match self.keyword().as_str() {
            "wait_for_servers" => Shutdown::WaitForServers,
            "wait_for_clients" => Shutdown::WaitForClients,
            _ => {
                return Err(self.expected_last("WAIT_FOR_SERVERS, WAIT_FOR_CLIENTS or the end of the command"));
            }
        };
        Ok(Command::Shutdown(how))
    }

    fn show(&mut self, verb: &str) -> Parse<Command> {
        let word = self.keyword();
        if let Some((_, show)) = SHOWN.iter().find(|(name, _)| *name == word) {
            // Drivers ask `SELECT version()`.
            if *show == Show::Version && self.symbol('(') {
                self.need(')')?;
            }
            return Ok(Command::Show(show.clone()));
        }
        let show = match word.as_str() {
            "window" => Show::Window(self.id()?),
            "held" => Show::Held(self.optional_name()?),
            "blockers" => Show::Blockers(self.optional_name()?),
            "time" if self.keyword() == "zone" => Show::Parameter("timezone".to_owned()),
            "transaction" if self.keyword() == "isolation" && self.keyword() == "level" => {
                Show::Parameter("transaction_isolation".to_owned())
            }
            name if PARAMETERS.contains(&name) => Show::Parameter(word),
            _ => {
                self.back_to(1);
                let words: Vec<String> = SHOWN.iter().map(|(name, _)| name.to_uppercase()).collect();
                let error = self.expected(&format!("what to show after {verb}"));
                return Err(error.hinting(&format!("one of {}, WINDOW id, HELD, BLOCKERS", words.join(", "))));
            }
        };
        Ok(Command::Show(show))
    }

    /// `SET [SESSION | LOCAL] key { = | TO } value`.
    fn set(&mut self) -> Parse<Command> {
        let mut key = self.keyword();
        if matches!(key.as_str(), "session" | "local") {
            key = self.keyword();
        }
        let by_habit = ["transaction", "characteristics", "names", "time", "role"].contains(&key.as_str());
        if by_habit || PARAMETERS.contains(&key.as_str()) {
            return Ok(self.no_op("SET"));
        }
        if key.is_empty() {
            return Err(self.expected_last("the key of a setting").hinting("SHOW CONFIG lists them"));
        }
        if !self.symbol('=') && self.keyword() != "to" {
            return Err(self.expected_last("= or TO"));
        }
        let value = self.value("a value")?;
        Ok(Command::Set { key, value })
    }

    fn window(&mut self) -> Parse<Command> {
        let verb = self.keyword();
        Ok(match verb.as_str() {
            "apply" => {
                let (databases, mut options) = self.window_head()?;
                if !self.take_keyword("as") {
                    return Err(self.expected("WITH (..) or AS $$ SQL $$"));
                }
                self.only(&options, "apply")?;
                let sql = self.change(&mut options)?;
                Command::WindowApply { databases, options, sql }
            }
            "open" => {
                let (databases, options) = self.window_head()?;
                self.only(&options, "open")?;
                Command::WindowOpen { databases, options }
            }
            "renew" => {
                let (id, token) = self.id_and_token()?;
                Command::WindowRenew { id, token }
            }
            "close" => {
                let (id, token) = self.id_and_token()?;
                Command::WindowClose { id, token }
            }
            "abort" => {
                let id = self.id()?;
                let reasoned = |cursor: &Self| cursor.peek_keyword().is_some_and(|word| word == "reason");
                let token = if self.is_end() || reasoned(self) { None } else { Some(self.token()?) };
                let reason = if self.take_keyword("reason") { Some(self.value("why, as a string")?) } else { None };
                Command::WindowAbort { id, token, reason }
            }
            "rehearse" => {
                let (databases, mut options) = self.window_head()?;
                self.only(&options, "rehearse")?;
                let sql = if self.take_keyword("as") { Some(self.change(&mut options)?) } else { None };
                if options.rehearsal == Rehearsal::Rollback && sql.is_none() {
                    return Err(self.expected("AS $$ SQL $$: what is to be rolled back"));
                }
                Command::WindowRehearse { databases, options, sql }
            }
            _ => return Err(self.expected_last("APPLY, OPEN, REHEARSE, RENEW, CLOSE or ABORT")),
        })
    }

    /// Options that this verb has no use for are mistakes.
    fn only(&self, options: &WindowOptions, verb: &str) -> Parse<()> {
        if verb != "rehearse" && options.rehearsal != Rehearsal::Look {
            return Err(
                self.refuse("fire_drill and rollback are options of WINDOW REHEARSE", "WINDOW REHEARSE db WITH (..)")
            );
        }
        if verb != "apply" && options.start_within.is_some() {
            return Err(self.refuse("start_within is an option of WINDOW APPLY", "otherwise, you choose the moment"));
        }
        if verb != "apply" && options.verify.is_some() {
            return Err(self.refuse("verify is for WINDOW APPLY", "by hand, look before WINDOW CLOSE"));
        }
        Ok(())
    }

    fn window_head(&mut self) -> Parse<(Vec<String>, WindowOptions)> {
        let first = if self.symbol('*') { "*".to_owned() } else { self.name("a database, or * for all")? };
        let mut databases = vec![first];
        while self.symbol(',') {
            let name = self.name("another database")?;
            if databases.contains(&name) {
                return Err(self.expected_last("each database once"));
            }
            databases.push(name);
        }
        let options = if self.take_keyword("with") { self.options()? } else { WindowOptions::default() };
        Ok((databases, options))
    }

    fn options(&mut self) -> Parse<WindowOptions> {
        let mut options = WindowOptions::default();
        let mut seen = vec![];
        self.need('(')?;
        loop {
            let key = self.keyword();
            if seen.contains(&key) {
                return Err(self.expected_last("each option once"));
            }
            self.option(&mut options, &key)?;
            seen.push(key);
            if !self.symbol(',') {
                break;
            }
        }
        self.need(')')?;
        Ok(options)
    }

    fn option(&mut self, options: &mut WindowOptions, key: &str) -> Parse<()> {
        match key {
            "drain" => options.drain = Some(self.duration(false)?),
            "apply" => options.apply = Some(self.duration(true)?),
            "hold" => options.hold = Some(self.duration(true)?),
            "tenure" => options.tenure = Some(self.duration(true)?),
            "stragglers" => {
                self.need('=')?;
                let word = self.value("abort, cancel or terminate")?;
                let found = Stragglers::parse(&word).map_err(|expected| self.expected_last(expected))?;
                options.stragglers = Some(found);
            }
            "id" => {
                self.need('=')?;
                options.id = Some(self.id()?);
            }
            "force" => options.force = self.force()?,
            "also" => options.also = self.names("other databases to be held")?,
            "users" => options.users = self.names("users")?,
            "applications" => options.applications = self.names("application names")?,
            "fire_drill" => {
                if self.flag()? {
                    options.rehearsal = options.rehearsal.max(Rehearsal::Drill);
                }
            }
            "rollback" => {
                if self.flag()? {
                    options.rehearsal = Rehearsal::Rollback;
                }
            }
            "verify" => {
                self.need('=')?;
                options.verify = Some(self.sql()?);
            }
            "start_within" => options.start_within = Some(self.duration(true)?),
            _ => return Err(self.expected_last(OPTIONS)),
        }
        Ok(())
    }

    /// A list of names in one string: `key = 'a, b*'`.
    fn names(&mut self, what: &str) -> Parse<Vec<String>> {
        self.need('=')?;
        let text = self.value(what)?;
        let names: Vec<_> =
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        if names.is_empty() { Err(self.expected_last(what)) } else { Ok(names) }
    }

    /// `key`, `key = true` or `key = false`.
    fn flag(&mut self) -> Parse<bool> {
        if !self.symbol('=') {
            return Ok(true);
        }
        match self.value("true or false")?.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" => Ok(true),
            "false" | "off" | "0" => Ok(false),
            _ => Err(self.expected_last("true or false")),
        }
    }

    /// `force`, `force = true`, `force = false`, or `force = 'sessions, transactions'`.
    fn force(&mut self) -> Parse<Force> {
        const EXPECTED: &str = "true, false, or checks of preflight such as 'sessions,transactions'";
        if !self.symbol('=') {
            return Ok(Force::Everything);
        }
        let text = self.value(EXPECTED)?.to_ascii_lowercase();
        match text.as_str() {
            "true" | "on" | "1" | "all" => return Ok(Force::Everything),
            "false" | "off" | "0" => return Ok(Force::Nothing),
            _ => {}
        }
        let checks: Vec<String> = text.split(',').map(|check| check.trim().to_owned()).collect();
        if checks.iter().all(|check| CHECKS.contains(&check.as_str())) {
            Ok(Force::Checks(checks))
        } else {
            Err(self.expected_last(EXPECTED).hinting(&format!("the checks are {}", CHECKS.join(", "))))
        }
    }

    fn duration(&mut self, above_zero: bool) -> Parse<Duration> {
        self.need('=')?;
        let text = self.value("a duration like '2s'")?;
        let found = parse_duration(&text).map_err(|expected| self.expected_last(expected))?;
        if above_zero && found.is_zero() {
            return Err(self.expected_last("a duration above 0"));
        }
        Ok(found)
    }

    /// The change itself: a string that holds more than blanks and comments.
    fn sql(&mut self) -> Parse<String> {
        let Some(Kind::Text(sql)) = self.advance() else {
            return Err(self.expected_last("the SQL as $$ .. $$ or '..'"));
        };
        if super::split(&sql).is_empty() {
            return Err(self.expected_last("SQL that does something"));
        }
        Ok(sql)
    }

    /// `$$ SQL $$`, or `CHANGE 'id' $$ SQL $$ [, CHANGE ..]`: then all of it, one behind the other.
    fn change(&mut self, options: &mut WindowOptions) -> Parse<String> {
        if !self.take_keyword("change") {
            return self.sql();
        }
        options.changes = self.changes(options.id.as_deref())?;
        let sql: Vec<&str> = options.changes.iter().map(|(_, sql)| sql.as_str()).collect();
        Ok(sql.join("\n;\n"))
    }

    /// `'id' $$ SQL $$ [, CHANGE 'id' $$ SQL $$ ..]`, each id once, and none that of the window.
    fn changes(&mut self, window: Option<&str>) -> Parse<Vec<(String, String)>> {
        const ID: &str = "the id of a change: 1 to 200 letters, digits and _ - . :";
        let mut changes: Vec<(String, String)> = vec![];
        loop {
            let id = self.value(ID)?;
            let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
            if !plain || !(1..=200).contains(&id.len()) {
                return Err(self.expected_last(ID));
            }
            if window == Some(id.as_str()) || changes.iter().any(|(known, _)| *known == id) {
                return Err(self.expected_last("ids that differ, also from that of the window"));
            }
            let sql = self.sql().map_err(|error| error.hinting(&format!("this is about change {id}")))?;
            changes.push((id, sql));
            if !self.symbol(',') {
                return Ok(changes);
            }
            if !self.take_keyword("change") {
                return Err(self.expected("CHANGE 'id' $$ SQL $$"));
            }
        }
    }

    fn id_and_token(&mut self) -> Parse<(String, String)> {
        Ok((self.id()?, self.token()?))
    }

    fn token(&mut self) -> Parse<String> {
        if !self.take_keyword("token") {
            return Err(self.expected("TOKEN '..'"));
        }
        let token = self.value("the token that WINDOW OPEN answered")?;
        if token.is_empty() {
            return Err(self.expected_last("the token that WINDOW OPEN answered"));
        }
        Ok(token)
    }
}
