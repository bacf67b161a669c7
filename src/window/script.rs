//! A look at the SQL of a change before anything is held: which statements it has, and which of them cannot run in
//! the one transaction of a window. Pure; it splits text, it does not parse SQL.

/// The beginnings of the statements of a script, comments and blanks folded, `?` for what is quoted.
#[must_use]
pub fn statements(sql: &str) -> Vec<String> {
    let mut scanner = Scanner { rest: sql, words: String::new(), found: Vec::new() };
    while let Some(c) = scanner.rest.chars().next() {
        scanner.step(c);
    }
    scanner.end_statement();
    scanner.found
}

/// Words of a statement that are kept: enough to know what it is.
const KEPT: usize = 200;

struct Scanner<'a> {
    rest: &'a str,
    words: String,
    found: Vec<String>,
}

impl Scanner<'_> {
    fn step(&mut self, c: char) {
        match c {
            ';' => {
                self.skip(1);
                self.end_statement();
            }
            '-' if self.rest.starts_with("--") => self.skip_past("\n"),
            '/' if self.rest.starts_with("/*") => self.skip_comment(),
            '\'' => {
                let escapes = self.words.ends_with(['e', 'E']) && !self.in_longer_word();
                self.skip_quoted('\'', escapes);
            }
            '"' => self.skip_quoted('"', false),
            '$' => self.skip_dollar(),
            c if c.is_whitespace() => {
                self.skip(c.len_utf8());
                self.blank();
            }
            c => {
                self.skip(c.len_utf8());
                if self.words.len() < KEPT {
                    self.words.push(c);
                }
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn skip_past(&mut self, end: &str) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
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

    /// Whether the last word has more letters than one: then it is no prefix of a string.
    fn in_longer_word(&self) -> bool {
        self.words.chars().rev().nth(1).is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    fn skip_dollar(&mut self) {
        let inside_word = self.words.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let tag_end = self.rest.get(1..).and_then(|rest| rest.find('$'));
        let tag = tag_end.and_then(|end| self.rest.get(..end + 2));
        let valid = |tag: &str| {
            let name = tag.trim_matches('$');
            name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit())
        };
        match tag {
            Some(tag) if !inside_word && valid(tag) => {
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
        self.words.push('?');
    }

    fn blank(&mut self) {
        if !self.words.is_empty() && !self.words.ends_with(' ') {
            self.words.push(' ');
        }
    }

    fn end_statement(&mut self) {
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
    statements.iter().find_map(|statement| object(statement))
}

fn object(statement: &str) -> Option<String> {
    let upper = statement.to_uppercase();
    let words: Vec<&str> = upper.split(' ').collect();
    let has = |word: &str| words.contains(&word);
    let advice = match words.first().copied().unwrap_or_default() {
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
            ("select 1", vec!["select 1"]),
            ("ALTER table a add b int; drop view v;", vec!["ALTER table a add b int", "drop view v"]),
            ("select ';', $$;$$, $x$;$$;$x$, \";\"; x", vec!["select ?, ?, ?, ?", "x"]),
            ("-- a;\nb /* ; /* ; */ ; */ c;", vec!["b c"]),
            ("select E'\\';', 'it''s;'; y", vec!["select E?, ?", "y"]),
            ("select like'\\'; z", vec!["select like?", "z"]),
            ("select $1, a$b; z", vec!["select 1, ab", "z"]),
            ("  ;; ; ", vec![]),
            ("select 'unterminated ;", vec!["select ?"]),
        ] {
            assert_eq!(statements(sql), expected, "{sql}");
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
            "select 1; end",
        ] {
            assert!(objection(sql).is_some(), "{sql}");
        }
        for sql in [
            "alter table a add begin_at timestamptz",
            "create index i on t (a)",
            "do $$ begin perform 1; end $$",
            "create function f() returns int language sql as $$ select 1; $$",
            "insert into log values ('commit; vacuum')",
            "savepoint a; release a",
            "cluster t using i",
            "refresh materialized view concurrently v",
            "create view v as select 'concurrently'",
        ] {
            assert_eq!(objection(sql), None, "{sql}");
        }
    }

    #[test]
    fn any_text_is_scanned_to_its_end() {
        for sql in ["$", "$$", "$a", "'", "\"", "/*", "*/", "--", "E'\\", "é;ß$é$;$é$;", "/*/*/"] {
            let _ = statements(sql);
        }
    }
}
