//! A look at the SQL of a change before anything is held: which statements it has, and which of them cannot run in
//! the one transaction of a window. Pure; it splits text, it does not parse SQL.

/// The beginnings of the statements of a script, comments and blanks folded, `?` for what is quoted.
#[must_use]
pub fn statements(sql: &str) -> Vec<String> {
    let mut scanner = Scanner { rest: sql, ..Scanner::default() };
    while let Some(c) = scanner.rest.chars().next() {
        scanner.step(c);
    }
    scanner.end_word();
    scanner.end_statement();
    scanner.found
}

/// Words of a statement that are kept: enough to know what it is.
const KEPT: usize = 1000;

/// Characters of a word that are looked at one by one: enough for the longest word that matters to the splitting.
const WORD: usize = 8;

#[derive(Default)]
struct Scanner<'a> {
    rest: &'a str,
    words: String,
    found: Vec<String>,
    /// The word that the scanner is in, in upper case, and the one before it.
    word: String,
    before: String,
    /// Brackets that are open; a semicolon in them ends no statement (CREATE RULE .. DO (a; b)).
    brackets: usize,
    /// `BEGIN ATOMIC` and each `CASE` in it that wait for their `END`; nor does a semicolon in them.
    bodies: usize,
}

/// What a name or keyword is made of.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

impl Scanner<'_> {
    fn step(&mut self, c: char) {
        if is_word(c) && !c.is_whitespace() || c == '$' && !self.word.is_empty() {
            return self.letter(c);
        }
        let escapes = self.word == "E";
        self.end_word();
        match c {
            ';' => {
                self.skip(1);
                if self.brackets == 0 && self.bodies == 0 {
                    self.end_statement();
                } else {
                    self.blank();
                }
            }
            // As in Postgres, a carriage return ends a line too.
            '-' if self.rest.starts_with("--") => self.skip_line(),
            '/' if self.rest.starts_with("/*") => self.skip_comment(),
            '\'' => self.skip_quoted('\'', escapes),
            '"' => self.skip_quoted('"', false),
            '$' => self.skip_dollar(),
            c if c.is_whitespace() => {
                self.skip(c.len_utf8());
                self.blank();
            }
            c => {
                match c {
                    '(' => self.brackets += 1,
                    ')' => self.brackets = self.brackets.saturating_sub(1),
                    _ => {}
                }
                self.skip(c.len_utf8());
                self.keep(c);
            }
        }
    }

    fn letter(&mut self, c: char) {
        self.skip(c.len_utf8());
        if self.word.len() < WORD {
            self.word.extend(c.to_uppercase());
        }
        if c != '$' {
            self.keep(c);
        }
    }

    fn keep(&mut self, c: char) {
        if self.words.len() < KEPT {
            self.words.push(c);
        }
    }

    /// The word is over: a body in SQL begins or ends with some.
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let routine =
            ["CREATE FUNCTION ", "CREATE PROCEDURE ", "CREATE OR REPLACE FUNCTION ", "CREATE OR REPLACE PROCEDURE "];
        match self.word.as_str() {
            "ATOMIC" if self.before == "BEGIN" && self.bodies == 0 && self.brackets == 0 => {
                let words = self.words.to_uppercase();
                self.bodies = usize::from(routine.iter().any(|start| words.starts_with(start)));
            }
            "CASE" if self.bodies > 0 => self.bodies += 1,
            "END" => self.bodies = self.bodies.saturating_sub(1),
            _ => {}
        }
        self.before = std::mem::take(&mut self.word);
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once(['\n', '\r']).map_or("", |(_, rest)| rest);
        self.blank();
    }

    /// Block comments nest in Postgres.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(c) = self.rest.chars().next() {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    break;
                }
            } else {
                self.skip(c.len_utf8());
            }
        }
        self.blank();
    }

    fn skip_quoted(&mut self, quote: char, escapes: bool) {
        self.skip(1);
        while let Some(c) = self.rest.chars().next() {
            self.skip(c.len_utf8());
            if c == '\\' && escapes {
                self.skip(self.rest.chars().next().map_or(0, char::len_utf8));
            } else if c == quote {
                if !self.rest.starts_with(quote) {
                    break;
                }
                self.skip(1);
            }
        }
        self.mark();
    }

    fn skip_dollar(&mut self) {
        let tag_end = self.rest.get(1..).and_then(|rest| rest.find('$'));
        let tag = tag_end.and_then(|end| self.rest.get(..end + 2));
        let valid = |tag: &str| {
            let name = tag.trim_matches('$');
            name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        match tag {
            Some(tag) if valid(tag) => {
                let tag = tag.to_owned();
                self.skip(tag.len());
                self.rest = self.rest.split_once(&tag).map_or("", |(_, rest)| rest);
                self.mark();
            }
            _ => self.skip(1),
        }
    }

    /// Something that is not looked into stood here.
    fn mark(&mut self) {
        self.keep('?');
        self.before.clear();
    }

    fn blank(&mut self) {
        if !self.words.is_empty() && !self.words.ends_with(' ') {
            self.keep(' ');
        }
    }

    fn end_statement(&mut self) {
        (self.brackets, self.bodies) = (0, 0);
        let words = std::mem::take(&mut self.words);
        let words = words.trim();
        if !words.is_empty() {
            self.found.push(words.to_owned());
        }
    }
}

/// Why a script cannot run in the one transaction of a window, with advice. `None`: nothing speaks against it.
#[must_use]
pub fn objection(sql: &str) -> Option<String> {
    let statements = statements(sql);
    if statements.is_empty() {
        return Some("the change has no statement".to_owned());
    }
    statements.iter().find_map(|statement| object(statement)).or_else(|| way_back(sql))
}

/// What some tools write into a comment, in lower case, above the statements that undo a change.
const DOWN: [&str; 8] = [
    "+goose down",
    "+migrate down",
    "+micrate down",
    "migrate:down",
    "rambler down",
    "//@undo",
    "down migration",
    "create above / drop below",
];

/// Run as a whole, a file with its way back in it undoes what it does.
fn way_back(sql: &str) -> Option<String> {
    let mut rest = sql;
    sql.split_inclusive(['\n', '\r']).find_map(|line| {
        rest = rest.get(line.len()..).unwrap_or_default();
        let comment = line.trim().strip_prefix("--")?.trim_start_matches('-').trim();
        let marks = DOWN.iter().any(|mark| comment.to_ascii_lowercase().starts_with(mark));
        (marks && !statements(rest).is_empty()).then(|| {
            format!("behind \"{}\" stands what undoes the change, and it would be run too: leave it out", line.trim())
        })
    })
}

/// The same of what is to be verified in the transaction of a change; it may be empty.
#[must_use]
pub fn verify_objection(sql: &str) -> Option<String> {
    statements(sql).iter().find_map(|statement| object(statement)).map(|objection| format!("verify: {objection}"))
}

fn object(statement: &str) -> Option<String> {
    let upper = statement.to_uppercase();
    let words: Vec<&str> = upper.split(' ').collect();
    let has = |word: &str| words.contains(&word);
    let advice = match words.first().copied().unwrap_or_default() {
        "ROLLBACK" if words.iter().skip(1).take(2).any(|word| *word == "TO") => return None,
        "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" => {
            "the window runs the change in one transaction of its own: leave it out"
        }
        "SAVEPOINT" | "RELEASE" => return None,
        "PREPARE" if words.get(1) == Some(&"TRANSACTION") => {
            "a prepared transaction would outlive the window: leave it out"
        }
        "CREATE" | "DROP" | "REINDEX" | "REFRESH" if has("CONCURRENTLY") && words.first() != Some(&"REFRESH") => {
            "it cannot run in a transaction and does not need a window: run it beside, before or after"
        }
        "ALTER" if has("DETACH") && has("CONCURRENTLY") => {
            "it cannot run in a transaction and does not need a window: run it beside, before or after"
        }
        "VACUUM" | "CLUSTER" if words.len() == 1 || words.first() == Some(&"VACUUM") => {
            "it cannot run in a transaction: run it beside, after the window"
        }
        "CLUSTER" if words.iter().skip(1).all(|word| word.trim_matches(['(', ')']) == "VERBOSE") => {
            "it cannot run in a transaction: run it beside, after the window"
        }
        "REINDEX" if words.iter().skip(1).take(3).any(|word| matches!(*word, "DATABASE" | "SYSTEM" | "SCHEMA")) => {
            "it cannot run in a transaction: run it beside, after the window"
        }
        "DISCARD" if has("ALL") => "it cannot run in a transaction: leave it out",
        command if command.starts_with('\\') => {
            "it is a command of psql, not SQL: leave it out, or run psql: pglull window apply DB -- psql -f FILE"
        }
        "CREATE" | "DROP" | "ALTER"
            if matches!(words.get(1), Some(&("DATABASE" | "TABLESPACE" | "SYSTEM" | "SUBSCRIPTION"))) =>
        {
            "it cannot run in a transaction, or changes more than this database: run it beside"
        }
        "COPY" if has("STDIN") || has("STDOUT") => {
            "there is nobody to give or take its data: use INSERT, or a table filled before"
        }
        _ => return None,
    };
    let shown: String = statement.chars().take(60).collect();
    Some(format!("\"{shown}\": {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_that_are_sql() {
        for (sql, expected) in [
            ("select 1", vec!["SELECT 1"]),
            ("alter table a add b int; drop view v;", vec!["ALTER TABLE A ADD B INT", "DROP VIEW V"]),
            ("select ';', $$;$$, $x$;$$;$x$, \";\"; x", vec!["SELECT ?, ?, ?, ?", "X"]),
            ("-- a;\nb /* ; /* ; */ ; */ c;", vec!["B C"]),
            ("select E'\\';', 'it''s;'; y", vec!["SELECT E?, ?", "Y"]),
            ("select $1, a$b; z", vec!["SELECT 1, AB", "Z"]),
            ("  ;; ; ", vec![]),
            ("select 'unterminated ;", vec!["SELECT ?"]),
            ("a -- b;\rc;d", vec!["A C", "D"]),
            ("select a like'\\'; b", vec!["SELECT A LIKE?", "B"]),
            ("create rule r as on insert to t do (a; b); c", vec!["CREATE RULE R AS ON INSERT TO T DO (A B)", "C"]),
            (
                "create function f() returns int begin atomic select case when a then b end; x; end; c",
                vec!["CREATE FUNCTION F() RETURNS INT BEGIN ATOMIC SELECT CASE WHEN A THEN B END X END", "C"],
            ),
            ("create table t(begin atomic); c", vec!["CREATE TABLE T(BEGIN ATOMIC)", "C"]),
            ("e$a$; b", vec!["EA", "B"]),
        ] {
            let found: Vec<String> = statements(sql).iter().map(|statement| statement.to_uppercase()).collect();
            assert_eq!(found, expected, "{sql}");
        }
    }

    #[test]
    fn what_cannot_run_in_a_window_is_found() {
        for sql in [
            "",
            "-- nothing",
            "begin; alter table a add b int; commit",
            "COMMIT",
            "create index concurrently i on t (a)",
            "create unique index /* x */ concurrently i on t (a)",
            "vacuum full t",
            "drop database x",
            "alter system set a = 1",
            "copy t from stdin",
            "prepare transaction 'x'",
            "alter table p detach partition q concurrently",
            "cluster",
            "cluster verbose",
            "cluster (verbose)",
            "reindex database x",
            "reindex (verbose) schema s",
            "discard all",
            "\\set ON_ERROR_STOP on\nselect 1",
            "select 1;\n\\restrict a\nselect 2;",
            "-- +goose Up\nalter table a add b int;\n-- +goose Down\nalter table a drop b;",
            "-- migrate:up\nselect 1;\r\n  --  Migrate:Down transaction:false\r\nselect 2",
            "select 1;\n---- create above / drop below ----\nselect 2;",
            "select 1; end",
            "rollback and chain",
            "select 'x' like'\\'; commit; --'",
            "-- note\rcommit",
        ] {
            assert!(objection(sql).is_some(), "{sql}");
        }
        for sql in [
            "alter table a add begin_at timestamptz",
            "create index i on t (a)",
            "do $$ begin perform 1; end $$",
            "create function f() returns int language sql as $$ select 1; $$",
            "insert into log values ('commit; vacuum')",
            "savepoint a; rollback to a; rollback work to savepoint a; release a",
            "create or replace procedure p() begin atomic insert into t values (1); end",
            "cluster t using i",
            "refresh materialized view concurrently v",
            "create view v as select 'concurrently'",
            "reindex table t",
            "discard plans",
            "select '\\x00'::bytea",
            "-- migrate:up\nselect 1;\n-- migrate:down\n-- nothing\n",
            "select 1; -- the migrate:down of this is nothing\nselect 2",
        ] {
            assert_eq!(objection(sql), None, "{sql}");
        }
    }

    #[test]
    fn what_is_far_into_a_statement_is_read_like_its_beginning() {
        let columns = "column_name_of_some_length, ".repeat(20);
        for sql in [
            format!("select {columns} E'don\\'t; commit'"),
            format!("select {columns} case'a\\', 'b;commit'"),
            format!("create function f() returns int as $x$; commit; {columns} $x$; select 1"),
        ] {
            assert_eq!(objection(&sql), None, "{sql}");
        }
        assert!(objection(&format!("select {columns} E'a\\''; commit; --'")).is_some());
    }

    #[test]
    fn any_text_is_scanned_to_its_end() {
        for sql in ["$", "$$", "$a", "'", "\"", "/*", "*/", "--", "E'\\", "é;ß$é$;$é$;", "/*/*/"] {
            let _ = statements(sql);
        }
    }
}
