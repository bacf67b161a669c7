//! What a request may leave behind on a server, as far as its text and its command tags tell.
//!
//! A hint costs a question at the next boundary, no more: Postgres itself is asked what is there
//! (`server::residue`). Doubt means yes. A function that does such things inside is not seen here: for that there is
//! `server_reset_query_always`.

/// A set of things that may have been left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hints(u16);

impl Hints {
    /// Settings of the session: SET, RESET, `set_config`.
    pub const SETTINGS: Self = Self(1);
    /// Advisory locks of the session.
    pub const LOCKS: Self = Self(2);
    /// Temporary tables and what else can stand in the temporary schema.
    pub const TEMPORARY: Self = Self(4);
    /// Statements prepared by SQL.
    pub const PREPARED: Self = Self(8);
    /// Channels that are listened on.
    pub const CHANNELS: Self = Self(16);
    /// Cursors WITH HOLD.
    pub const CURSORS: Self = Self(32);
    /// A library was loaded: nothing undoes it.
    pub const LIBRARY: Self = Self(64);
    /// The text says TEMP: a `CREATE` in it, or a `SELECT` without rows, counts as [`TEMPORARY`](Self::TEMPORARY).
    pub const SAYS_TEMP: Self = Self(128);
    /// SET SESSION AUTHORIZATION; found with the settings.
    pub const AUTHORIZATION: Self = Self(256);
    /// Settings that have a prefix, by a name that is not in the text: Postgres cannot list them.
    pub const HIDDEN_SETTINGS: Self = Self(512);
    /// It asks for the last value of a sequence in this session.
    pub const SEQUENCES: Self = Self(1024);
    /// It may name or end prepared statements: [`Uses::of`](super::uses::Uses::of) is to be asked.
    pub const NAMES: Self = Self(2048);
    /// Code has run that may have made settings under names that nobody knows: they cannot be carried along, but the next client
    /// must not find them.
    pub const UNLISTED: Self = Self(4096);
    /// Its text changes settings: what is parsed behind it in the same go is read by others than those that are known.
    pub const SAYS_SET: Self = Self(8192);
    /// Whatever code can do.
    pub const ANYTHING: Self = Self(1 + 2 + 4 + 8 + 16 + 32 + 4096);

    /// As a number, for an atomic.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From such a number.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that both have.
    #[must_use]
    pub const fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether they share one.
    #[must_use]
    pub const fn any_of(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Without those that say nothing alone.
    #[must_use]
    pub const fn residue(self) -> Self {
        Self(self.0 & !Self::SAYS_TEMP.0 & !Self::SEQUENCES.0 & !Self::NAMES.0 & !Self::SAYS_SET.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What the tag of a command hints at. `rows`: it has sent rows or their description; a `SELECT` without may have
    /// been `CREATE TABLE AS`, which has that tag.
    #[must_use]
    pub fn of_tag(self, tag: &[u8], rows: bool) -> Self {
        let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
        let hint = match tag {
            b"SET" | b"RESET" => Self::SETTINGS,
            b"PREPARE" => Self::PREPARED,
            b"LISTEN" => Self::CHANNELS,
            b"DECLARE CURSOR" => Self::CURSORS,
            b"LOAD" => Self::LIBRARY,
            b"DO" | b"CALL" => Self::ANYTHING,
            // Extensions and their like may run any code.
            b"CREATE EXTENSION" | b"ALTER EXTENSION" => Self::ANYTHING,
            // EXPLAIN ANALYZE of a CREATE TABLE AS makes the table.
            _ if self.any_of(Self::SAYS_TEMP) && (tag.starts_with(b"CREATE ") || tag == b"EXPLAIN") => Self::TEMPORARY,
            _ if self.any_of(Self::SAYS_TEMP) && !rows && tag.starts_with(b"SELECT ") => Self::TEMPORARY,
            _ => Self::default(),
        };
        self.with(hint)
    }

    /// Whether a command with this tag may have ended something that keeps a client on its server.
    #[must_use]
    pub fn may_end_residue(tag: &[u8]) -> bool {
        let tag = tag.strip_suffix(&[0]).unwrap_or(tag);
        matches!(
            tag,
            b"DISCARD ALL" | b"DISCARD TEMP" | b"DEALLOCATE" | b"DEALLOCATE ALL" | b"UNLISTEN" | b"DO" | b"CALL"
        ) || tag.starts_with(b"CLOSE CURSOR")
            || tag.starts_with(b"DROP ")
    }
}

/// What a request may leave behind: the hints, and the names of settings with a prefix (`app.tenant`), which Postgres does not list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaves {
    /// The hints.
    pub hints: Hints,
    /// The names, as they are written.
    pub settings: Vec<Box<[u8]>>,
}

/// So many names are remembered.
const SETTINGS_MAX: usize = 100;

impl Leaves {
    /// Nothing is known.
    #[must_use]
    pub fn anything() -> Self {
        Self { hints: Hints::ANYTHING, settings: Vec::new() }
    }

    /// What the text of a request hints at.
    #[must_use]
    pub fn of_text(text: &[u8]) -> Self {
        let mut leaves = Self::default();
        // Behind the semicolon that ends a text no other statement begins.
        let end = text.iter().rposition(|byte| !matches!(byte, b';' | b' ' | b'\n' | 0));
        let text = text.get(..end.map_or(0, |last| last + 1)).unwrap_or_default();
        leaves.set(text);
        each_word(text, |word, end| {
            let behind = || text.get(end..).unwrap_or_default();
            match word.hint {
                Hints::SETTINGS => leaves.call(behind()),
                _ if word.text == SEMICOLON => leaves.set(behind()),
                hint => leaves.hints = leaves.hints.with(hint),
            }
        });
        leaves
    }

    /// Adds what another request may leave.
    pub fn add(&mut self, other: &Self) {
        self.hints = self.hints.with(other.hints);
        for name in &other.settings {
            if self.settings.len() >= SETTINGS_MAX {
                self.hints = self.hints.with(Hints::HIDDEN_SETTINGS);
            } else if !self.settings.contains(name) {
                self.settings.push(name.clone());
            }
        }
    }

    /// The arguments of a call of `set_config`: one for this transaction only leaves nothing.
    fn call(&mut self, rest: &[u8]) {
        let arguments = arguments(rest);
        // One with a prefix says nothing to Postgres.
        if !arguments.first().is_some_and(|name| name.contains(&b'.')) {
            self.hints = self.hints.with(Hints::SAYS_SET);
        }
        if arguments.get(2).is_some_and(|third| third.trim_ascii().eq_ignore_ascii_case(b"true")) {
            return;
        }
        self.hints = self.hints.with(Hints::SETTINGS);
        let first = arguments.first().map_or(&b""[..], |first| first.trim_ascii());
        match first.strip_prefix(b"'").and_then(|name| name.strip_suffix(b"'")) {
            // More than one literal, or none at all.
            Some(name) if name.contains(&b'\'') => self.hints = self.hints.with(Hints::HIDDEN_SETTINGS),
            Some(name) if name.contains(&b'.') => self.settings.push(name.into()),
            Some(_) => {}
            None => self.hints = self.hints.with(Hints::HIDDEN_SETTINGS),
        }
    }

    /// A text whose first statement may be SET: the tag of the command gives the hint, the name stands only here.
    fn set(&mut self, statement: &[u8]) {
        let mut at = skip_space(statement, 0);
        // The words below begin with one of these; most texts do not.
        let Some(begins) = statement.get(at..).and_then(<[u8]>::first_chunk::<3>) else { return };
        if !matches!(&begins.map(|byte| byte.to_ascii_lowercase()), b"set" | b"res" | b"dis" | b"rol") {
            return;
        }
        let first = word(statement, at);
        if [&b"reset"[..], b"discard", b"rollback"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
            let all = first.eq_ignore_ascii_case(b"discard");
            self.hints = self.hints.with(Hints::SAYS_SET).with(if all { Hints::NAMES } else { Hints::default() });
        }
        if !first.eq_ignore_ascii_case(b"set") {
            return;
        }
        at = skip_space(statement, at + 3);
        if word(statement, at).eq_ignore_ascii_case(b"session") {
            at = skip_space(statement, at + b"session".len());
        }
        let mut name = Vec::new();
        while let Some((length, part)) = statement.get(at..).and_then(identifier) {
            name.extend(part);
            at = skip_space(statement, at + length);
            if statement.get(at) != Some(&b'.') {
                break;
            }
            name.push(b'.');
            at = skip_space(statement, at + 1);
        }
        if !name.contains(&b'.') {
            self.hints = self.hints.with(Hints::SAYS_SET);
        }
        if statement.get(at) == Some(&b'&') {
            // U&"..": who writes such a name has something to hide.
            self.hints = self.hints.with(Hints::HIDDEN_SETTINGS);
        } else if name.contains(&b'.') {
            self.settings.push(name.into());
        }
    }
}

/// The arguments of a call, up to the third; `rest` begins behind the function's name. They end early where the text cannot be
/// read at a glance: comments, dollar quotes, backslashes in quotes.
fn arguments(rest: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let open = skip_blanks(rest, usize::from(rest.first() == Some(&b'"')));
    if rest.get(open) != Some(&b'(') {
        return found;
    }
    let (mut depth, mut quoted, mut from) = (0_usize, false, open + 1);
    for (at, &byte) in rest.iter().enumerate().skip(open + 1) {
        match (byte, rest.get(at + 1)) {
            (b'\'', _) => quoted = !quoted,
            (b'\\', _) if quoted => break,
            _ if quoted => {}
            (b'-', Some(b'-')) | (b'/', Some(b'*')) => break,
            (b'$', next) if !next.is_some_and(u8::is_ascii_digit) => break,
            (b'(', _) => depth += 1,
            (b')', _) if depth > 0 => depth -= 1,
            (b',' | b')', _) if depth == 0 => {
                found.push(rest.get(from..at).unwrap_or_default());
                from = at + 1;
                if byte == b')' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// A word that hints at something, wherever it stands in a text: also within a longer one.
#[derive(Debug)]
struct Word {
    /// In small letters.
    text: &'static [u8],
    /// Where its mark is: two letters that seldom stand together in SQL. [`may_have_marks`] knows them all.
    mark: usize,
    hint: Hints,
}

const SEMICOLON: &[u8] = b";";

const WORDS: [Word; 8] = [
    Word { text: b"set_config", mark: 3, hint: Hints::SETTINGS },
    Word { text: b"advisory", mark: 1, hint: Hints::LOCKS },
    Word { text: b"temp", mark: 2, hint: Hints::SAYS_TEMP },
    Word { text: b"currval", mark: 3, hint: Hints::SEQUENCES },
    Word { text: b"lastval", mark: 3, hint: Hints::SEQUENCES },
    Word { text: b"deallocate", mark: 4, hint: Hints::NAMES },
    Word { text: b"execute", mark: 1, hint: Hints::NAMES },
    // Another statement begins.
    Word { text: SEMICOLON, mark: 0, hint: Hints(0) },
];

/// For each byte, of which [`WORDS`] it may be the first byte of the mark, a bit for each word; and of which the second.
const MARKS: [[u8; 256]; 2] = {
    let mut marks = [[0; 256]; 2];
    let mut word = 0;
    while word < WORDS.len() {
        let Word { text, mark, .. } = WORDS[word];
        let mut second = 0;
        while second < 2 {
            let mut byte = 0;
            while byte < 256 {
                // Of a word of one byte any byte may be the second.
                let fits = mark + second >= text.len() || (byte as u8).eq_ignore_ascii_case(&text[mark + second]);
                marks[second][byte] |= (fits as u8) << word;
                byte += 1;
            }
            second += 1;
        }
        word += 1;
    }
    marks
};

/// So many bytes are looked at in one go.
const AT_ONCE: usize = 16;

/// Whether a word may have its mark in the first [`AT_ONCE`] of these bytes. A loop without a branch: the compiler makes a few
/// instructions of it that look at all of them side by side.
fn may_have_marks(bytes: &[u8; AT_ONCE + 1]) -> bool {
    const UNDERSCORE: u8 = b'_' | 0x20;
    let mut found = 0;
    for at in 0..AT_ONCE {
        // Capital letters become small ones, and some signs become others: the word is looked at anyway.
        let (one, two) = (bytes[at] | 0x20, bytes[at + 1] | 0x20);
        let is = |pair: (u8, u8)| u8::from(one == pair.0) & u8::from(two == pair.1);
        found |= u8::from(one == b';')
            | is((UNDERSCORE, b'c'))
            | is((b'd', b'v'))
            | is((b'm', b'p'))
            | is((b'r', b'v'))
            | is((b't', b'v'))
            | is((b'l', b'o'))
            | is((b'x', b'e'));
    }
    found != 0
}

/// The end of a text, with nothing behind it.
fn padded(rest: &[u8]) -> [u8; AT_ONCE + 1] {
    let mut bytes = [0; AT_ONCE + 1];
    bytes.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
    bytes
}

/// Tells each word that is in a text, and where it ends.
fn each_word(text: &[u8], mut found: impl FnMut(&'static Word, usize)) {
    let mut from = 0;
    while let Some(rest) = text.get(from..).filter(|rest| !rest.is_empty()) {
        let to = text.len().min(from + AT_ONCE);
        let may = rest.first_chunk().map_or_else(|| may_have_marks(&padded(rest)), may_have_marks);
        for at in from..if may { to } else { from } {
            let second = text.get(at + 1).copied().unwrap_or_default();
            let mut words = MARKS[0][usize::from(text[at])] & MARKS[1][usize::from(second)];
            while let Some(word) = WORDS.get(words.trailing_zeros() as usize) {
                words &= words - 1;
                if let Some(begin) = at.checked_sub(word.mark)
                    && let Some(there) = text.get(begin..begin + word.text.len())
                    && there.eq_ignore_ascii_case(word.text)
                {
                    found(word, begin + word.text.len());
                }
            }
        }
        from = to;
    }
}

/// The end of the comment that begins at `at`, or `at` if none does. Source: `scan.l` (those with a star nest).
pub(super) fn comment(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    if rest.starts_with(b"--") {
        return at + rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    }
    if !rest.starts_with(b"/*") {
        return at;
    }
    let (mut depth, mut end) = (0_usize, 0);
    while let Some(pair) = rest.get(end..end + 2) {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                end += 1;
                continue;
            }
        }
        end += 2;
        if depth == 0 {
            return at + end;
        }
    }
    text.len()
}

/// Skips blanks and comments.
pub(super) fn skip_space(text: &[u8], from: usize) -> usize {
    let mut at = skip_blanks(text, from);
    loop {
        let behind = comment(text, at);
        if behind == at {
            return at;
        }
        at = skip_blanks(text, behind);
    }
}

fn skip_blanks(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b).count()
}

pub(super) fn word(text: &[u8], from: usize) -> &[u8] {
    let rest = text.get(from..).unwrap_or_default();
    let length =
        rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)).count();
    rest.get(..length).unwrap_or_default()
}

/// An identifier at the front: its length in the text and its value. Source: `scan.l` (folding, doubled quotes).
pub(super) fn identifier(text: &[u8]) -> Option<(usize, Vec<u8>)> {
    if text.first() != Some(&b'"') {
        let plain = word(text, 0);
        let good = plain.first().is_some_and(|byte| !byte.is_ascii_digit() && *byte != b'$');
        return good.then(|| (plain.len(), plain.to_ascii_lowercase()));
    }
    let (mut name, mut at) = (Vec::new(), 1);
    loop {
        match (*text.get(at)?, text.get(at + 1)) {
            (b'"', Some(b'"')) => {
                name.push(b'"');
                at += 2;
            }
            (b'"', _) => return (!name.is_empty()).then_some((at + 1, name)),
            (byte, _) => {
                name.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_may_leave_something() {
        for (text, expected) in [
            ("select 1", Hints::default()),
            ("SELECT Set_Config('a.b', $1, false)", Hints::SETTINGS),
            ("select pg_try_advisory_lock(1)", Hints::LOCKS),
            ("create temp table t()", Hints::SAYS_TEMP),
            ("select temperature, pg_catalog.set_config('x', f('),'), TRUE)", Hints::SAYS_TEMP),
            ("select set_config ( 'x' , 'true' , 'f' )", Hints::SETTINGS),
            ("select set_config($1, $2, $3)", Hints::SETTINGS.with(Hints::HIDDEN_SETTINGS)),
            ("select set_config('a' || 'b', '', true), set_config('work_mem', 'x', false)", Hints::SETTINGS),
            ("select set_config('a' || '.b', '', false)", Hints::SETTINGS.with(Hints::HIDDEN_SETTINGS)),
            ("select set_config('a.b', $$x, true, y$$, false)", Hints::SETTINGS),
            ("select set_config('a.b', E'\\', true, ', false)", Hints::SETTINGS),
            ("select set_config('a.b', '', /*, */true /*, */ and false)", Hints::SETTINGS),
            ("select set_config('a.b', $1, true)", Hints::default()),
            ("select set_config('a.b', $1, true) ;; \n\0", Hints::default()),
            ("select pg_advisory_lock(1);\0", Hints::LOCKS),
            ("select temp;\0", Hints::SAYS_TEMP),
            (" ; \0", Hints::default()),
            ("set u&\"a\".b = 1", Hints::HIDDEN_SETTINGS),
        ] {
            let hints = Leaves::of_text(text.as_bytes()).hints;
            assert_eq!(Hints::from_bits(hints.bits() & !Hints::SAYS_SET.bits()), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_changes_settings_says_so() {
        for (text, says) in [
            ("set TimeZone = 'UTC'", true),
            ("select 1; SET LOCAL time zone 'UTC'", true),
            ("RESET ALL", true),
            ("discard all", true),
            ("rollback", true),
            ("select set_config('DateStyle', $1, true)", true),
            ("select set_config($1, $2, true)", true),
            ("set app.tenant = 7", false),
            ("select set_config('app.tenant', $1, true)", false),
            ("select 'set'", false),
        ] {
            assert_eq!(Leaves::of_text(text.as_bytes()).hints.any_of(Hints::SAYS_SET), says, "{text}");
        }
    }

    #[test]
    fn a_text_that_may_name_a_statement_says_so() {
        for (text, names) in [
            ("DEALLOCATE a", true),
            ("select 1; Execute b", true),
            ("/* */ discard all", true),
            ("select discard", false),
            ("select 1", false),
        ] {
            assert_eq!(Leaves::of_text(text.as_bytes()).hints.any_of(Hints::NAMES), names, "{text}");
        }
    }

    #[test]
    fn settings_with_a_prefix_are_known_by_their_names() {
        for (text, expected) in [
            ("set app.tenant = 'x'", vec!["app.tenant"]),
            ("SET SESSION App.\"Tenant\" TO 1; set work_mem='1MB' ; set b.c.d to default", vec!["app.Tenant", "b.c.d"]),
            ("select set_config('app.x', $1, false)", vec!["app.x"]),
            ("set local app.y = 1", vec![]),
            ("/* a; /* b */ */ -- c; d\n set /**/app . /**/ \"x\"='1'", vec!["app.x"]),
            ("select 1; -- so; what\nset app.x=1", vec!["app.x"]),
            ("select set_config('app.x', $$a, true, b$$, false)", vec!["app.x"]),
            ("/*", vec![]),
            ("set -- x", vec![]),
            ("update t set a.b = 1", vec![]),
        ] {
            let leaves = Leaves::of_text(text.as_bytes());
            let names: Vec<&str> = leaves.settings.iter().map(|name| std::str::from_utf8(name).unwrap()).collect();
            assert_eq!(names, expected, "{text}");
        }
        let mut all = Leaves::default();
        for n in 0..150 {
            all.add(&Leaves::of_text(format!("set a.b{n} = 1").as_bytes()));
        }
        assert!(all.settings.len() == SETTINGS_MAX && all.hints.any_of(Hints::HIDDEN_SETTINGS));
    }

    fn words(text: &[u8]) -> Vec<(&[u8], usize)> {
        let mut found = Vec::new();
        each_word(text, |word, end| found.push((word.text, end)));
        found
    }

    #[test]
    fn a_word_is_found_wherever_it_stands_and_however_it_is_written() {
        for word in &WORDS {
            let upper = word.text.to_ascii_uppercase();
            for before in 0..40 {
                for text in [word.text, &upper, &[word.text, &upper[..], b"s ("].concat()] {
                    let text = [&b"pg_catalog.pg_try_select_from_where_x_or"[..before], text].concat();
                    let found = words(&text).into_iter().filter(|(found, _)| *found == word.text);
                    let lower = text.to_ascii_lowercase();
                    let expected = (0..=text.len()).filter(|&end| lower[..end].ends_with(word.text));
                    let (found, expected): (Vec<_>, Vec<_>) = (found.map(|(_, end)| end).collect(), expected.collect());
                    assert_eq!(found, expected, "{}", text.escape_ascii());
                    assert!(!found.is_empty());
                    assert_eq!(words(&text[..before + word.text.len() - 1]), [], "{}", text.escape_ascii());
                }
            }
        }
        assert_eq!(words(b"xxooVV__mm'--tem p;"), [(SEMICOLON, 19)]);
    }

    #[test]
    fn commands_that_leave_state_are_known_by_their_tags() {
        let none = Hints::default();
        for tag in ["SET\0", "RESET\0", "PREPARE\0", "LISTEN\0", "DECLARE CURSOR\0", "LOAD\0", "DO\0", "CALL\0"] {
            assert!(!none.of_tag(tag.as_bytes(), true).residue().is_empty(), "{tag}");
        }
        for tag in ["SELECT 1\0", "INSERT 0 1\0", "BEGIN\0", "COMMIT\0", "PREPARE TRANSACTION\0", "CREATE TABLE\0"] {
            assert!(none.of_tag(tag.as_bytes(), false).residue().is_empty(), "{tag}");
        }
        let temp = Hints::SAYS_TEMP;
        assert!(temp.residue().is_empty() && temp.of_tag(b"SELECT 3\0", true).residue().is_empty());
        assert_eq!(temp.of_tag(b"CREATE VIEW\0", false).residue(), Hints::TEMPORARY);
        assert_eq!(temp.of_tag(b"SELECT 3\0", false).residue(), Hints::TEMPORARY, "CREATE TEMP TABLE AS");
    }
}
