//! What is dangerous in a change although it can run in a window: statements that hold everybody for as long as a table is
//! large, and those that break applications which still know the old schema. Pure; warnings only.
//!
//! It reads the words of statements, it does not parse SQL: what it does not know it says nothing of. Tables that the change
//! itself makes are empty, and nobody uses them. (The crate squawk-linter knows more; but its advice is for changes without a
//! window, and it would bring a parser of all SQL and twenty crates into the proxy.)

use super::script::statements;

/// What is said of one statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lint {
    /// The beginning of the statement.
    pub statement: String,
    /// What is dangerous, and what to do instead.
    pub advice: &'static str,
}

/// How much of a statement is shown.
const SHOWN: usize = 60;

/// Functions without arguments in a default that are the same for all rows: no rewrite.
const STABLE: [&str; 6] =
    ["NOW()", "CURRENT_TIMESTAMP()", "TRANSACTION_TIMESTAMP()", "STATEMENT_TIMESTAMP()", "CURRENT_DATE()", "VERSION()"];

/// All warnings, in the order of the statements.
#[must_use]
pub fn lints(sql: &str) -> Vec<Lint> {
    let (mut found, mut made) = (Vec::new(), Vec::new());
    for statement in statements(sql) {
        let text = Text::new(&statement);
        if let Some(table) = text.made() {
            made.push(table);
            continue;
        }
        if text.table().is_some_and(|table| made.contains(&table)) {
            continue;
        }
        let shown: String = statement.chars().take(SHOWN).collect();
        found.extend(text.advice().into_iter().map(|advice| Lint { statement: shown.clone(), advice }));
    }
    found
}

/// One statement in upper case, each bracket and comma a word of its own.
struct Text {
    upper: String,
    words: Vec<String>,
}

impl Text {
    fn new(statement: &str) -> Self {
        let upper = statement.to_uppercase();
        let spaced = upper.replace('(', " ( ").replace(')', " ) ").replace(',', " , ");
        Self { upper, words: spaced.split_whitespace().map(str::to_owned).collect() }
    }

    /// Whether these words stand there, one after the other. `*` is any one word.
    fn has(&self, words: &str) -> bool {
        let wanted: Vec<&str> = words.split(' ').collect();
        let fits =
            |there: &[String]| there.iter().zip(&wanted).all(|(there, wanted)| *wanted == "*" || there == wanted);
        self.words.windows(wanted.len()).any(fits)
    }

    fn begins(&self, words: &str) -> bool {
        words.split(' ').zip(&self.words).all(|(wanted, there)| wanted == there)
            && words.split(' ').count() <= self.words.len()
    }

    /// The word after these, and after the noise that may follow them.
    fn after(&self, words: &str) -> Option<String> {
        let wanted: Vec<&str> = words.split(' ').collect();
        let at = self.words.windows(wanted.len()).position(|there| there == wanted)? + wanted.len();
        let noise = |word: &&String| matches!(word.as_str(), "IF" | "NOT" | "EXISTS" | "ONLY");
        // What was quoted has no name here.
        self.words.get(at..)?.iter().find(|word| !noise(word)).filter(|word| !word.contains('?')).cloned()
    }

    /// The table that it makes.
    fn made(&self) -> Option<String> {
        let head = self.words.iter().take(4).any(|word| word == "TABLE");
        if self.begins("CREATE") && head { self.after("TABLE") } else { None }
    }

    /// The table that it changes.
    fn table(&self) -> Option<String> {
        match self.words.first()?.as_str() {
            "ALTER" | "DROP" | "LOCK" | "TRUNCATE" => self.after("TABLE"),
            "CREATE" => self.after("ON"),
            "UPDATE" => self.after("UPDATE"),
            "DELETE" => self.after("DELETE FROM"),
            _ => None,
        }
    }

    fn advice(&self) -> Vec<&'static str> {
        match self.words.first().map(String::as_str) {
            Some("ALTER") if self.begins("ALTER TABLE") => self.of_table(),
            Some("ALTER") if self.begins("ALTER TYPE") && self.has("ADD VALUE") => {
                vec!["the new value cannot be used before the change is committed"]
            }
            Some("ALTER") if self.has("RENAME TO") => vec![RENAMED],
            Some("CREATE") if self.has("INDEX") && !self.has("CONCURRENTLY") && self.is_index() => {
                vec!["holds everybody while the index is built: CREATE INDEX CONCURRENTLY beside the window, before it"]
            }
            Some("DROP") => self.of_drop(),
            Some("LOCK") => vec!["a window has no transactions of clients beside it: the lock is not needed"],
            Some("UPDATE" | "DELETE") if !self.has("WHERE") => {
                vec!["touches every row and holds everybody meanwhile: do it in parts, before or after the window"]
            }
            Some("TRUNCATE") => vec!["all rows of the table are lost"],
            Some("REINDEX" | "CLUSTER" | "REFRESH") => {
                vec!["holds everybody for as long as the table is large: run it CONCURRENTLY, or beside the window"]
            }
            _ => Vec::new(),
        }
    }

    fn is_index(&self) -> bool {
        self.begins("CREATE INDEX") || self.begins("CREATE UNIQUE INDEX")
    }

    fn of_drop(&self) -> Vec<&'static str> {
        match self.words.get(1).map(String::as_str) {
            Some("TABLE" | "VIEW" | "MATERIALIZED" | "FUNCTION" | "PROCEDURE" | "TYPE" | "SCHEMA" | "SEQUENCE") => {
                vec![DROPPED]
            }
            _ => Vec::new(),
        }
    }

    fn of_table(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        let mut say = |when: bool, advice| {
            if when {
                found.push(advice);
            }
        };
        let type_change =
            ["ALTER * TYPE", "ALTER COLUMN * TYPE", "ALTER * SET DATA TYPE", "ALTER COLUMN * SET DATA TYPE"];
        say(
            type_change.iter().any(|words| self.has(words)),
            "may rewrite the table and its indexes and holds everybody meanwhile: rehearse it with rollback=true",
        );
        say(
            self.rewrites(),
            "the values differ from row to row, so the table is rewritten: add the column without, fill it in parts",
        );
        say(
            self.has("SET NOT NULL"),
            "reads the whole table, unless a valid CHECK (.. IS NOT NULL) is there: add that NOT VALID, VALIDATE it beside, then this",
        );
        let checks = self.has("FOREIGN KEY") || (self.has("ADD CHECK") || self.has("ADD CONSTRAINT * CHECK"));
        say(
            checks && !self.has("NOT VALID"),
            "reads the whole table: add it NOT VALID, and VALIDATE CONSTRAINT beside the window, after it",
        );
        let keys = [
            "ADD PRIMARY KEY",
            "ADD UNIQUE",
            "ADD CONSTRAINT * PRIMARY KEY",
            "ADD CONSTRAINT * UNIQUE",
            "ADD CONSTRAINT * EXCLUDE",
        ];
        say(
            keys.iter().any(|words| self.has(words)) && !self.has("USING INDEX"),
            "builds an index and holds everybody meanwhile: CREATE UNIQUE INDEX CONCURRENTLY before, then ADD .. USING INDEX",
        );
        say(
            self.has("VALIDATE CONSTRAINT"),
            "reads the whole table and does not need a window: run it beside, after it",
        );
        say(
            self.has("SET LOGGED") || self.has("SET UNLOGGED") || self.has("SET TABLESPACE"),
            "rewrites the whole table",
        );
        let constraint = self.has("DROP CONSTRAINT") || self.has("DROP DEFAULT") || self.has("DROP NOT NULL");
        say(self.has("DROP COLUMN") || self.has("DROP *") && !constraint && !self.has("DROP IDENTITY"), DROPPED);
        say(self.has("RENAME"), RENAMED);
        found
    }

    /// Whether it adds a column whose values are computed for each row.
    fn rewrites(&self) -> bool {
        if !self.has("ADD") {
            return false;
        }
        let serial = ["SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL4", "SERIAL8", "SERIAL2"];
        let computed = self.has("STORED") || self.has("AS IDENTITY");
        let mut defaults = self.upper.split(" DEFAULT ").skip(1);
        let volatile = defaults.any(|rest| {
            let value: String = rest.chars().take_while(|c| !c.is_whitespace() && *c != ',').collect();
            let value = value.trim_start_matches("PG_CATALOG.");
            value.contains('(') && !value.starts_with('(') && !STABLE.iter().any(|stable| value.starts_with(stable))
        });
        computed || volatile || serial.iter().any(|word| self.has(word))
    }
}

const DROPPED: &str = "what still uses it fails from then on: make sure that no application does";
const RENAMED: &str = "applications that know the old name fail from then on: add the new one beside the old one";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dangerous_is_said() {
        for (sql, parts) in [
            ("create index i on t (a)", vec!["CONCURRENTLY"]),
            ("CREATE UNIQUE INDEX i ON t (a)", vec!["CONCURRENTLY"]),
            ("alter table t alter column a type bigint", vec!["rewrite"]),
            ("alter table t alter a set data type text using a::text", vec!["rewrite"]),
            ("alter table t add column a uuid default gen_random_uuid()", vec!["row to row"]),
            ("alter table t add a bigserial", vec!["row to row"]),
            ("alter table t add a int generated always as (b + 1) stored", vec!["row to row"]),
            ("alter table t alter a set not null", vec!["NOT VALID"]),
            ("alter table t add constraint c check (a > 0)", vec!["NOT VALID"]),
            ("alter table t add foreign key (a) references u (b)", vec!["NOT VALID"]),
            ("alter table t add constraint c unique (a)", vec!["USING INDEX"]),
            ("alter table t add primary key (a)", vec!["USING INDEX"]),
            ("alter table t validate constraint c", vec!["beside"]),
            ("alter table t drop column a", vec!["no application"]),
            ("alter table t drop a", vec!["no application"]),
            ("alter table t rename column a to b", vec!["old name"]),
            ("alter table t rename to u", vec!["old name"]),
            ("drop table t", vec!["no application"]),
            ("lock table t", vec!["not needed"]),
            ("update t set a = 1", vec!["every row"]),
            ("delete from t", vec!["every row"]),
            ("truncate t", vec!["lost"]),
            ("refresh materialized view v", vec!["large"]),
            ("alter type e add value 'x'", vec!["committed"]),
            ("alter table t add a int, alter b type text, add check (a > 0)", vec!["rewrite", "NOT VALID"]),
        ] {
            let found = lints(sql);
            assert_eq!(found.len(), parts.len(), "{sql}: {found:#?}");
            for (lint, part) in found.iter().zip(parts) {
                assert!(lint.advice.contains(part), "{sql}: {lint:?}");
            }
        }
    }

    #[test]
    fn what_is_harmless_is_not() {
        for sql in [
            "",
            "alter table t add column a int",
            "alter table t add column a int not null default 7",
            "alter table t add column a timestamptz default now()",
            "alter table t add column a text default 'drop column'",
            "alter table t add constraint c check (a > 0) not valid",
            "alter table t add constraint c unique using index i",
            "alter table t alter a drop not null",
            "alter table t drop constraint c",
            "create table t (a int primary key); create index i on t (a); alter table t alter a type text; update t set a = 1",
            "update t set a = 1 where b = 2",
            "insert into t values (1)",
            "drop index i",
            "create view v as select 1",
            "create function f() returns int language sql as $$ delete from t $$",
            "grant select on t to u",
        ] {
            assert_eq!(lints(sql), [], "{sql}");
        }
    }

    #[test]
    fn any_text_is_read_to_its_end() {
        for sql in ["alter", "alter table", "create", "drop", "alter table ? add ( ,", "update", "create table"] {
            let _ = lints(sql);
        }
    }
}
