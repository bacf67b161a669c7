//! Prepared statements and portals of one connection to the console, as Postgres would keep them.
//!
//! Source: "Extended Query" in the protocol chapter; errors as in `postgres.c` and `pquery.c`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;

use super::command::{self, Command};
use super::console::{Answer, Console, Env, Problem, malformed, mistaken};
use super::operator::COMMAND_MAX;
use super::table::{Column, Formats, Table, describe};
use super::{rehearse, show, windows};
use crate::wire::extended::{self, About, Bind, Execute, Parse, Short};
use crate::wire::reply::{self, Report, Severity, sqlstate};
use crate::wire::tags::client;

/// Statements, and portals, that one connection may have; drivers keep some hundreds.
const MOST: usize = 1000;

/// What a driver has prepared and bound.
#[derive(Default)]
pub(super) struct Extended {
    statements: BTreeMap<String, Arc<Statement>>,
    portals: BTreeMap<String, Portal>,
}

struct Statement {
    command: Command,
    columns: Option<Vec<Column>>,
    /// Types that were declared for parameters, which no command has.
    types: Vec<u32>,
    /// Bytes of its text.
    size: usize,
}

struct Portal {
    statement: Arc<Statement>,
    formats: Formats,
    state: State,
}

enum State {
    /// Not run yet.
    Bound,
    /// Rows from here on are still to be fetched.
    Rows(Table, &'static str, usize),
    /// Run, and without rows.
    Done,
}

/// The columns that a command answers, if it answers rows.
fn columns(command: &Command) -> Option<Vec<Column>> {
    match command {
        Command::Show(show) => show::columns(show),
        Command::WindowApply { .. } | Command::WindowClose { .. } | Command::WindowAbort { .. } => {
            Some(windows::SUMMARY.to_vec())
        }
        Command::WindowRehearse { .. } => Some(rehearse::FINDINGS.to_vec()),
        Command::WindowOpen { .. } => Some(windows::OPENED.to_vec()),
        _ => None,
    }
}

impl Extended {
    /// Portals end with the request that made them.
    pub(super) fn end_portals(&mut self) {
        self.portals.clear();
    }

    /// `DEALLOCATE name`, or all of them.
    pub(super) fn deallocate(&mut self, name: Option<&str>) -> Result<Answer, Problem> {
        match name {
            None => {
                self.statements.clear();
                Ok(Answer::Done("DEALLOCATE ALL"))
            }
            Some(name) if self.statements.remove(name).is_some() => Ok(Answer::Done("DEALLOCATE")),
            Some(name) => Err(no_statement(name).into()),
        }
    }

    fn parse(&mut self, asked: Parse) -> Result<(), Report> {
        let Parse { name, text, types } = asked;
        if !name.is_empty() && self.statements.contains_key(&name) {
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(Report::new(sqlstate::DUPLICATE_PREPARED_STATEMENT, text));
        }
        self.statements.remove("");
        let kept: usize = self.statements.values().map(|statement| statement.size).sum();
        if self.statements.len() >= MOST || kept + text.len() > COMMAND_MAX {
            let text = "too many prepared statements on this connection";
            return Err(Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, text).hint("Close those that are not needed."));
        }
        let command = match &command::split(&text)[..] {
            [] => Command::Empty,
            [one] => command::parse(one.text).map_err(mistaken)?,
            _ => {
                let text = "cannot insert multiple commands into a prepared statement";
                return Err(Report::new(sqlstate::SYNTAX_ERROR, text));
            }
        };
        let statement = Statement { columns: columns(&command), command, types, size: text.len() };
        self.statements.insert(name, Arc::new(statement));
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<&Arc<Statement>, Report> {
        self.statements.get(name).ok_or_else(|| no_statement(name))
    }

    fn portal(&mut self, name: &str) -> Result<&mut Portal, Report> {
        let none = || Report::new(sqlstate::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"));
        self.portals.get_mut(name).ok_or_else(none)
    }

    fn bind(&mut self, asked: Bind) -> Result<(), Report> {
        let Bind { portal, statement: name, parameters, formats } = asked;
        let statement = Arc::clone(self.statement(&name)?);
        let needed = statement.types.len();
        let violation = |text: String| Err(Report::new(sqlstate::PROTOCOL_VIOLATION, text));
        if parameters != needed {
            return violation(format!(
                "bind message supplies {parameters} parameters, but prepared statement \"{name}\" requires {needed}"
            ));
        }
        let width = statement.columns.as_ref().map_or(0, Vec::len);
        if formats.len() > 1 && formats.len() != width {
            let given = formats.len();
            return violation(format!("bind message has {given} result formats but query has {width} columns"));
        }
        if let Some(bad) = formats.iter().find(|format| !matches!(format, 0 | 1)) {
            return Err(Report::new(sqlstate::INVALID_PARAMETER_VALUE, format!("unsupported format code: {bad}")));
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Report::new(sqlstate::DUPLICATE_CURSOR, format!("cursor \"{portal}\" already exists")));
        }
        if self.portals.len() >= MOST {
            return Err(Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "too many portals on this connection"));
        }
        self.portals.insert(portal, Portal { statement, formats: Formats(formats), state: State::Bound });
        Ok(())
    }

    fn describe(&mut self, about: &About, out: &mut BytesMut) -> Result<(), Report> {
        let (columns, formats) = match about {
            About::Statement(name) => {
                let statement = self.statement(name)?;
                extended::parameter_description(&statement.types, out);
                (&statement.columns, &Formats::default())
            }
            About::Portal(name) => {
                let portal = self.portal(name)?;
                (&portal.statement.columns, &portal.formats)
            }
        };
        match columns {
            Some(columns) => describe(columns, formats, out),
            None => Short::NoData.write(out),
        }
        Ok(())
    }
}

fn no_statement(name: &str) -> Report {
    let text = match name {
        "" => "unnamed prepared statement does not exist".to_owned(),
        name => format!("prepared statement \"{name}\" does not exist"),
    };
    Report::new(sqlstate::INVALID_SQL_STATEMENT_NAME, text)
}

impl Console {
    /// Answers one message of the extended protocol.
    pub(super) async fn extended_message(&mut self, tag: u8, body: &[u8], env: &Env) -> Result<(), Problem> {
        let mut out = BytesMut::new();
        match tag {
            client::PARSE => {
                self.extended.parse(extended::parse(body).map_err(|_| malformed())?)?;
                Short::ParseComplete.write(&mut out);
            }
            client::BIND => {
                self.extended.bind(extended::bind(body).map_err(|_| malformed())?)?;
                Short::BindComplete.write(&mut out);
            }
            client::DESCRIBE => {
                let about = extended::about(body).map_err(|_| malformed())?;
                self.extended.describe(&about, &mut out)?;
            }
            client::CLOSE => {
                // One that is not there is closed as well.
                match extended::about(body).map_err(|_| malformed())? {
                    About::Statement(name) => drop(self.extended.statements.remove(&name)),
                    About::Portal(name) => drop(self.extended.portals.remove(&name)),
                }
                Short::CloseComplete.write(&mut out);
            }
            _ => {
                let asked = extended::execute(body).map_err(|_| malformed())?;
                self.execute(asked, env, &mut out).await?;
            }
        }
        self.operator.send(&out).await
    }

    async fn execute(&mut self, asked: Execute, env: &Env, out: &mut BytesMut) -> Result<(), Problem> {
        let portal = self.extended.portal(&asked.portal)?;
        match portal.state {
            State::Bound => {
                let command = portal.statement.command.clone();
                let answer = self.run(command, env).await?;
                self.keep(&asked.portal, answer, out);
            }
            State::Done => {
                let text = format!("portal \"{}\" cannot be run", asked.portal);
                return Err(Report::new(sqlstate::NOT_IN_PREREQUISITE_STATE, text).into());
            }
            State::Rows(..) => {}
        }
        if let Some(portal) = self.extended.portals.get_mut(&asked.portal) {
            portal.fetch(asked.limit.unwrap_or(usize::MAX), out);
        }
        Ok(())
    }

    /// Keeps what a portal has come to; answers now what has no rows.
    fn keep(&mut self, name: &str, answer: Answer, out: &mut BytesMut) {
        let state = match answer {
            Answer::Rows(table, tag) => State::Rows(table, tag, 0),
            Answer::Done("") => {
                reply::empty_query(out);
                State::Done
            }
            Answer::Done(tag) => {
                reply::command_complete(tag, out);
                State::Done
            }
            Answer::Say(text, tag) => {
                Report::new("00000", text).write(Severity::Notice, out);
                reply::command_complete(tag, out);
                State::Done
            }
        };
        if let Some(portal) = self.extended.portals.get_mut(name) {
            portal.state = state;
        }
    }
}

impl Portal {
    /// Writes rows up to a limit. At their end, and at each fetch after it, stands the tag.
    fn fetch(&mut self, limit: usize, out: &mut BytesMut) {
        let State::Rows(table, tag, next) = &mut self.state else { return };
        *next += table.write_rows(*next, limit, &self.formats, out);
        if *next < table.rows.len() {
            Short::PortalSuspended.write(out);
        } else {
            reply::command_complete(tag, out);
        }
    }
}
