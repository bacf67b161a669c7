//! Whether the database has a change already, and the table in which it is noted: looked at and made before anybody is held.

use super::apply::{Change, ERRAND};
use super::change_table::{ChangeTable, Noted, pending};
use super::witness::{read, value};
use crate::server::conn::{Failure, Server};
use crate::wire::reply::{Report, sqlstate};

/// What the change table says of a change, as far as preflight cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Before {
    /// Nothing: it may be run.
    Never,
    /// Of its parts, some are left to be run; which.
    Pending(String),
    /// It is applied: there is nothing to do.
    Applied(String),
    /// It must not be run, and why.
    Taken(String),
}

/// How the change table is there for us.
struct Table {
    schema: bool,
    table: bool,
    usable: bool,
    role: String,
}

impl Change {
    /// Looks the change up. Changes nothing.
    ///
    /// # Errors
    /// Why it could not be looked up, in words for the operator.
    pub(super) async fn before(&mut self) -> Result<Before, String> {
        let Some(table) = self.note.table.clone() else { return Ok(Before::Never) };
        let found = state(&mut self.server, &table).await.map_err(|failure| refused(&table, "", failure))?;
        if !found.table {
            return Ok(Before::Never);
        }
        let looked = match (found.usable, self.note.look()) {
            (true, Some(look)) => self.server.query_within(look.as_bytes(), ERRAND).await,
            _ => Err(Failure::Refused(Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, NO_RIGHTS))),
        };
        let answer = looked.map_err(|failure| refused(&table, &found.role, failure))?;
        Ok(match read(&self.note, &answer) {
            Noted::Never => Before::Never,
            Noted::Applied(at) => Before::Applied(format!("already applied at {at}: nothing was done")),
            taken => Before::Taken(objection(&self.note.id, &table, &taken)),
        })
    }

    /// Looks its parts up and keeps those that are not applied yet. Changes nothing.
    ///
    /// # Errors
    /// Why they could not be looked up, in words for the operator.
    pub(super) async fn pending(&mut self) -> Result<Before, String> {
        let Some(table) = self.note.table.clone() else {
            return Ok(Before::Taken("which are applied already is not noted: change_table is \"\"".to_owned()));
        };
        let found = state(&mut self.server, &table).await.map_err(|failure| refused(&table, "", failure))?;
        let look = self.note.look_at_parts().filter(|_| found.table);
        let rows = match look {
            Some(look) => self.server.query_within(look.as_bytes(), ERRAND).await.map(|answer| answer.rows),
            None => Ok(Vec::new()),
        };
        let rows = rows.map_err(|failure| refused(&table, &found.role, failure))?;
        let text = |row: &[Option<bytes::Bytes>], column: usize| {
            Some(String::from_utf8_lossy(row.get(column)?.as_ref()?).into_owned())
        };
        let parts = std::mem::take(&mut self.note.parts);
        let left = pending(parts, |part| {
            let row = rows.iter().find(|row| text(row, 3).as_ref() == Some(&part.id));
            let values = row.map(|row| [text(row, 0), text(row, 1), text(row, 2)]);
            self.note.of_part(part).read(values.as_ref().map(|values| values.each_ref().map(Option::as_deref)))
        });
        Ok(match left {
            Ok((left, what)) if left.is_empty() => Before::Applied(what),
            Ok((left, what)) => {
                self.note.parts = left;
                Before::Pending(what)
            }
            Err((id, found)) => Before::Taken(objection(&id, &table, &found)),
        })
    }

    /// Makes the change table where it is not there yet.
    ///
    /// # Errors
    /// Why it could not be made, and what somebody else can do about it.
    pub(super) async fn make_table(&mut self) -> Result<(), String> {
        let Some(table) = self.note.table.clone() else { return Ok(()) };
        let found = state(&mut self.server, &table).await.map_err(|failure| refused(&table, "", failure))?;
        if found.table {
            return Ok(());
        }
        let made = make(&mut self.server, &table, !found.schema).await;
        made.map_err(|failure| refused(&table, &found.role, failure))
    }
}

async fn make(server: &mut Server, table: &ChangeTable, schema_too: bool) -> Result<(), Failure> {
    let Err(failure) = server.query_within(table.create(schema_too).as_bytes(), ERRAND).await else { return Ok(()) };
    // Somebody else may have made it meanwhile by hand, without our lock.
    server.query_within(b"ROLLBACK", ERRAND).await?;
    if state(server, table).await?.usable { Ok(()) } else { Err(failure) }
}

async fn state(server: &mut Server, table: &ChangeTable) -> Result<Table, Failure> {
    let answer = server.query_within(table.ask().as_bytes(), ERRAND).await?;
    let is = |column| value(&answer, column).as_deref() == Some("t");
    Ok(Table { schema: is(0), table: is(1), usable: is(2), role: value(&answer, 3).unwrap_or_default() })
}

const NO_RIGHTS: &str = "it needs the rights to SELECT, INSERT and UPDATE";

fn refused(table: &ChangeTable, role: &str, failure: Failure) -> String {
    let name = table.quoted();
    match failure {
        Failure::Refused(report) if report.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE => format!(
            "the table {name}, in which changes are noted, is not there for role \"{role}\": {}. Let somebody who may run once: \
             {}; or set change_table in [pglull.window]: another table, or \"\" for none",
            report.message,
            table.remedy(role)
        ),
        other => format!("cannot look into the table {name}, in which changes are noted: {other}"),
    }
}

/// Why a change must not run whose id is in the table.
fn objection(id: &str, table: &ChangeTable, found: &Noted) -> String {
    let name = table.quoted();
    match found {
        Noted::Half(at) => format!(
            "change {id} was begun at {at} and has ended its own transaction: part of it may be committed. Look what there \
             is; to let it run again: DELETE FROM {name} WHERE id = '{id}'"
        ),
        Noted::Another(at) | Noted::Applied(at) => {
            format!("another change was applied as {id} at {at}: its SQL was different. Give this one another id")
        }
        Noted::Never => String::new(),
    }
}
