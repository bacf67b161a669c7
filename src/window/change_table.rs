//! The table in which a database notes the changes that windows have made to it: its name, and the SQL that makes it,
//! looks into it and writes to it. Pure.
//!
//! A change's row is inserted when its transaction begins, so that two operators with the same id wait for each other,
//! and completed as the last thing before COMMIT. A row that is there and complete is therefore a change that is
//! committed as a whole; one that is not complete was left by a change that ended its own transaction.

use std::sync::Arc;

/// The name of a table, with its schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeTable {
    schema: String,
    table: String,
}

/// What is written of a change, and looked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Note {
    /// The id that its operator gave it, or that of its window.
    pub id: String,
    /// The hash of its SQL, in hexadecimal digits.
    pub sha256: String,
    /// Who asked for it.
    pub owner: String,
    /// Where it is noted. `None`: nowhere, as the configuration wants it.
    pub table: Option<ChangeTable>,
    /// The changes that it is made of, if it is made of several.
    pub parts: Vec<Part>,
}

/// One of several changes that a window applies together; each is noted under an id of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its id.
    pub id: String,
    /// The hash of its SQL, in hexadecimal digits.
    pub sha256: String,
    /// Its SQL.
    pub sql: Arc<str>,
}

/// So many parts are named in a sentence.
const NAMED: usize = 20;

/// Which of these are left to be applied, by what is noted of each, and a sentence about it.
///
/// # Errors
/// The first that must not be run, and why.
pub fn pending(parts: Vec<Part>, noted: impl Fn(&Part) -> Noted) -> Result<(Vec<Part>, String), (String, Noted)> {
    let (mut left, mut done, mut before) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match noted(&part) {
            Noted::Never => left.push(part),
            Noted::Applied(_) => {
                // A change of another branch may have come between.
                before = left.iter().map(|part: &Part| part.id.clone()).collect();
                done.push(part.id);
            }
            other => return Err((part.id, other)),
        }
    }
    let ids: Vec<String> = left.iter().map(|part| part.id.clone()).collect();
    let mut text = match (ids.len(), done.len()) {
        (0, all) => return Ok((left, format!("already applied, all {all}: nothing was done"))),
        (_, 0) => format!("to be applied: {}", named(&ids)),
        _ => format!("to be applied: {}; applied before: {}", named(&ids), named(&done)),
    };
    if let Some(last) = done.last().filter(|_| !before.is_empty()) {
        text.push_str(&format!("; out of order: {} should have come before {last}", named(&before)));
    }
    Ok((left, text))
}

fn named(ids: &[String]) -> String {
    let more = ids.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", ids.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", "))
}

/// What the table says of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Noted {
    /// Nothing.
    Never,
    /// It is committed, since then.
    Applied(String),
    /// Another change has this id, since then.
    Another(String),
    /// A change with this id has begun then and ended its transaction by itself: part of it may be committed.
    Half(String),
}

/// The key of the advisory lock under which the table is made: the letters of `pglull`.
const LOCK: i64 = 0x7067_6c75_6c6c;

impl ChangeTable {
    /// Reads `schema.table`. Both are taken as they are written, and quoted wherever they are used.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (schema, table) = name.split_once('.')?;
        Some(Self { schema: schema.to_owned(), table: table.to_owned() })
    }

    /// As it is configured.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }

    /// As SQL takes it.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", name(&self.schema), name(&self.table))
    }

    /// Asks, in one row: is the schema there, is the table there, may we use it, who are we.
    #[must_use]
    pub fn ask(&self) -> String {
        let privileges = ["SELECT", "INSERT", "UPDATE"];
        let may = privileges.map(|what| format!("pg_catalog.has_table_privilege(t.oid, '{what}')")).join(" AND ");
        format!(
            "SELECT pg_catalog.to_regnamespace({}) IS NOT NULL, t.oid IS NOT NULL, {may}, current_user \
             FROM (SELECT pg_catalog.to_regclass({})::pg_catalog.oid AS oid) t",
            literal(&name(&self.schema)),
            literal(&self.quoted()),
        )
    }

    /// Makes what is not there. Two that do it at once wait for each other.
    #[must_use]
    pub fn create(&self, schema_too: bool) -> String {
        let schema = if schema_too { self.create_schema() } else { String::new() };
        format!(
            "BEGIN; SET LOCAL lock_timeout = '2s'; SELECT pg_catalog.pg_advisory_xact_lock({LOCK}); {schema}{}; COMMIT",
            self.create_table()
        )
    }

    /// What somebody who may can run once, where we may not.
    #[must_use]
    pub fn remedy(&self, role: &str) -> String {
        let (schema, role) = (self.create_schema(), name(role));
        format!(
            "{schema}{}; GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT, INSERT, UPDATE ON {} TO {role}",
            self.create_table(),
            name(&self.schema),
            self.quoted()
        )
    }

    fn create_schema(&self) -> String {
        format!("CREATE SCHEMA IF NOT EXISTS {}; ", name(&self.schema))
    }

    fn create_table(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (id pg_catalog.text PRIMARY KEY, sha256 pg_catalog.text NOT NULL, \
             owner pg_catalog.text NOT NULL, \
             began_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), \
             applied_at pg_catalog.timestamptz)",
            self.quoted()
        )
    }
}

impl Note {
    /// Looks the change up: its hash, when it began, when it was complete. Gives no row if there is no table.
    #[must_use]
    pub fn look(&self) -> Option<String> {
        let time =
            |column: &str| format!("pg_catalog.to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
        let (began, applied) = (time("began_at"), time("applied_at"));
        let table = self.table.as_ref()?.quoted();
        Some(format!("SELECT sha256, {began}, {applied} FROM {table} WHERE id = {}", literal(&self.id)))
    }

    /// Looks its parts up: the columns of [`look`](Self::look), and the id behind them.
    #[must_use]
    pub fn look_at_parts(&self) -> Option<String> {
        let ids: Vec<String> = self.parts.iter().map(|part| literal(&part.id)).collect();
        let look = self.look()?;
        let (head, _) = look.split_once(" FROM ")?;
        Some(format!("{head}, id FROM {} WHERE id IN ({})", self.table.as_ref()?.quoted(), ids.join(", ")))
    }

    /// The note of one part alone.
    #[must_use]
    pub fn of_part(&self, part: &Part) -> Self {
        Self { id: part.id.clone(), sha256: part.sha256.clone(), parts: Vec::new(), ..self.clone() }
    }

    /// How many rows are written of it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        1 + u64::try_from(self.parts.len()).unwrap_or(u64::MAX - 1)
    }

    /// What the row of [`look`](Self::look) means.
    #[must_use]
    pub fn read(&self, row: Option<[Option<&str>; 3]>) -> Noted {
        match row {
            None => Noted::Never,
            Some([_, began, None]) => Noted::Half(began.unwrap_or_default().to_owned()),
            Some([sha256, _, Some(applied)]) if sha256 == Some(&self.sha256) => Noted::Applied(applied.to_owned()),
            Some([_, _, Some(applied)]) => Noted::Another(applied.to_owned()),
        }
    }

    /// Notes that the change begins.
    #[must_use]
    pub fn begin(&self) -> String {
        let Some(table) = &self.table else { return String::new() };
        let row = |id: &str, sha256: &str| format!("({})", [id, sha256, &self.owner].map(literal).join(", "));
        let parts = self.parts.iter().map(|part| row(&part.id, &part.sha256));
        let rows: Vec<String> = std::iter::once(row(&self.id, &self.sha256)).chain(parts).collect();
        format!("INSERT INTO {} (id, sha256, owner) VALUES {}; ", table.quoted(), rows.join(", "))
    }

    /// Notes that it is complete, and gives one row: the id of the transaction, and how many rows were completed, which are
    /// [`rows`](Self::rows). As ourselves: a change may have taken another role.
    #[must_use]
    pub fn complete(&self) -> String {
        let Some(table) = &self.table else {
            return format!("SELECT pg_catalog.pg_current_xact_id(), {}", self.rows());
        };
        let parts = self.parts.iter().map(|part| literal(&part.id));
        let ids: Vec<String> = std::iter::once(literal(&self.id)).chain(parts).collect();
        format!(
            "RESET SESSION AUTHORIZATION; RESET ROLE; WITH noted AS (UPDATE {} SET applied_at = pg_catalog.clock_timestamp() \
             WHERE id IN ({}) AND applied_at IS NULL RETURNING 1) \
             SELECT pg_catalog.pg_current_xact_id(), (SELECT pg_catalog.count(*) FROM noted)",
            table.quoted(),
            ids.join(", ")
        )
    }
}

/// A name in double quotes.
fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A text as a constant, whatever `standard_conforming_strings` is.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        let table = ChangeTable::parse("pglull.change");
        Note { id: "a".to_owned(), sha256: "00".to_owned(), owner: "it's \\ me".to_owned(), table, parts: vec![] }
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(ChangeTable::parse("no_schema"), None);
        assert_eq!(ChangeTable::parse("My.\"x\"").unwrap().quoted(), "\"My\".\"\"\"x\"\"\"");
        assert_eq!(literal("it's \\ me"), "E'it''s \\\\ me'");
        let sql = note().begin();
        assert_eq!(
            sql,
            "INSERT INTO \"pglull\".\"change\" (id, sha256, owner) VALUES (E'a', E'00', E'it''s \\\\ me'); "
        );
    }

    #[test]
    fn a_row_means_one_thing() {
        let (began, applied) = (Some("then"), Some("later"));
        for (row, noted) in [
            (None, Noted::Never),
            (Some([Some("00"), began, applied]), Noted::Applied("later".to_owned())),
            (Some([Some("ff"), began, applied]), Noted::Another("later".to_owned())),
            (Some([Some("00"), began, None]), Noted::Half("then".to_owned())),
            (Some([Some("ff"), began, None]), Noted::Half("then".to_owned())),
        ] {
            assert_eq!(note().read(row), noted, "{row:?}");
        }
    }

    fn part(id: &str) -> Part {
        Part { id: id.to_owned(), sha256: format!("hash of {id}"), sql: Arc::from("SELECT 1") }
    }

    #[test]
    fn parts_have_rows_of_their_own() {
        let note = Note { parts: vec![part("x"), part("y")], ..note() };
        let rows = "(E'a', E'00', E'it''s \\\\ me'), (E'x', E'hash of x', E'it''s \\\\ me'), (E'y', E'hash of y', E'it''s \\\\ me')";
        assert!(note.begin().ends_with(&format!("VALUES {rows}; ")), "{}", note.begin());
        assert!(note.complete().contains("WHERE id IN (E'a', E'x', E'y') AND"), "{}", note.complete());
        assert!(note.look_at_parts().unwrap().ends_with(", id FROM \"pglull\".\"change\" WHERE id IN (E'x', E'y')"));
        assert_eq!(note.rows(), 3);
    }

    #[test]
    fn what_is_left_is_told_apart_from_what_is_done() {
        let done = |ids: &'static [&'static str]| {
            move |part: &Part| match part.id.as_str() {
                "half" => Noted::Half("t".to_owned()),
                "other" => Noted::Another("t".to_owned()),
                id if ids.contains(&id) => Noted::Applied("t".to_owned()),
                _ => Noted::Never,
            }
        };
        let parts = |ids: &[&str]| ids.iter().map(|id| part(id)).collect::<Vec<_>>();
        for (ids, applied, left, text) in [
            (&["a", "b"][..], &[][..], &["a", "b"][..], "to be applied: a, b"),
            (&["a", "b"], &["a"], &["b"], "to be applied: b; applied before: a"),
            (&["a", "b"], &["a", "b"], &[], "already applied, all 2: nothing was done"),
            (
                &["a", "b", "c"],
                &["b"],
                &["a", "c"],
                "to be applied: a, c; applied before: b; out of order: a should have come before b",
            ),
        ] {
            assert_eq!(pending(parts(ids), done(applied)), Ok((parts(left), text.to_owned())), "{ids:?}");
        }
        for id in ["half", "other"] {
            assert_eq!(pending(parts(&["a", id]), done(&[])).unwrap_err().0, id);
        }
        let many: Vec<String> = (0..22).map(|number| number.to_string()).collect();
        assert!(named(&many).ends_with(", 19 and 2 more"));
    }

    #[test]
    fn without_a_table_nothing_is_written() {
        let note = Note { table: None, ..note() };
        assert_eq!((note.look(), note.begin()), (None, String::new()));
        assert_eq!(note.complete(), "SELECT pg_catalog.pg_current_xact_id(), 1");
    }
}
