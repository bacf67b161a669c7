//! Just enough reading of Rust for the checks: text without comments, string contents and tests, and the rooms
//! that its paths name. No parser: the compiler has already made sure that the text is Rust.

use std::collections::BTreeSet;

/// One file of the tree.
pub(crate) struct Source {
    /// Relative to the folder that is checked, with `/`.
    pub(crate) path: String,
    /// Whether only tests compile it, by its name.
    pub(crate) only_tests: bool,
    /// As it is written.
    pub(crate) text: String,
    /// Line by line the same, but without comments, contents of strings, and what only tests compile.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: String, text: String) -> Self {
        let only_tests = path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/");
        let code = if only_tests { String::new() } else { without_tests(&without_words(&text)) };
        Self { path, only_tests, text, code }
    }

    /// The top-level module that the file belongs to; none for `lib.rs` and `main.rs`.
    pub(crate) fn room(&self) -> Option<&str> {
        let first = self.path.split('/').next()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (room != "lib" && room != "main").then_some(room)
    }
}

/// Lines that hold anything.
pub(crate) fn count_code_lines(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

/// Comments become blanks; what is between the quotes of a string or character becomes `_`. Newlines stay.
fn without_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (length, kind) = token(rest, &out);
        let (taken, after) = rest.split_at(length);
        match kind {
            Token::Code => out.push(first),
            Token::Comment => out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            Token::Words => out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { '_' })),
        }
        rest = after;
    }
    out
}

enum Token {
    Code,
    Comment,
    Words,
}

/// What stands at the front of `rest`, and how many bytes of it.
fn token(rest: &str, before: &str) -> (usize, Token) {
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Token::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Token::Comment);
    }
    let raw = rest.trim_start_matches(['b', 'c']);
    if !in_word && raw.starts_with('r') && raw[1..].trim_start_matches('#').starts_with('"') {
        let hashes = raw[1..].len() - raw[1..].trim_start_matches('#').len();
        let start = rest.len() - raw.len() + 1 + hashes + 1;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len());
        return (length, Token::Words);
    }
    if rest.starts_with('"') {
        return (quoted(rest, '"'), Token::Words);
    }
    if rest.starts_with('\'') && is_char(rest) {
        return (quoted(rest, '\''), Token::Words);
    }
    (rest.chars().next().map_or(1, char::len_utf8), Token::Code)
}

/// A quote that begins a character and not a lifetime: `'x'` or `'\`.
fn is_char(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) => true,
        (_, second) => second == Some('\''),
    }
}

fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// Blanks every item under `#[cfg(test)]`: to its closing brace, or to the semicolon if that comes first.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        let (mut braces, mut brackets, mut end) = (0_usize, 0_usize, item.len());
        for (at, c) in item.char_indices() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets = brackets.saturating_sub(1),
                '{' => braces += 1,
                '}' => braces = braces.saturating_sub(1),
                _ => {}
            }
            if braces == 0 && brackets == 0 && (c == '}' || c == ';') {
                end = at + 1;
                break;
            }
        }
        out.push_str(before);
        out.extend(item[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// Whether `word` stands in a path: `tokio` in `tokio::time`, `Instant` in `std::time::Instant`, or a name in the
/// group of a `use`. A variable of that name is none of our business.
pub(crate) fn names_in_path(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        let whole = !before.ends_with(is_word) && !after.starts_with(is_word);
        let head = before.trim_end();
        let statement = code[..at].rsplit(';').next().unwrap_or_default();
        let in_use = statement.split_whitespace().any(|word| word == "use");
        let in_group = in_use && head.ends_with(['{', ',']);
        let in_path = after.trim_start().starts_with("::") || head.ends_with("::") || in_group;
        whole && in_path
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The rooms that paths from the crate's root name, whether they begin with `crate::` or climb there with `super::`.
pub(crate) fn rooms_used(path: &str, code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let depth = stem.split('/').count();
    for (at, _) in code.match_indices("crate") {
        let whole = !code[..at].ends_with(is_word);
        if let Some(rest) = code[at + "crate".len()..].trim_start().strip_prefix("::").filter(|_| whole) {
            names(rest, &mut rooms);
        }
    }
    for (at, _) in code.match_indices("super") {
        // Only where a climb begins: the second `super` of `super::super` is part of the first one's.
        if code[..at].ends_with(is_word) || code[..at].trim_end().ends_with("::") {
            continue;
        }
        let (mut climbed, mut rest) = (0, &code[at..]);
        while let Some(after) = rest.strip_prefix("super").and_then(|r| r.trim_start().strip_prefix("::")) {
            climbed += 1;
            rest = after.trim_start();
        }
        if climbed == depth {
            names(rest, &mut rooms);
        }
    }
    rooms
}

/// The first names behind a `::`: one, or those of a group.
fn names(rest: &str, rooms: &mut BTreeSet<String>) {
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        rooms.extend(first_name(rest));
        return;
    };
    let (mut depth, mut start) = (1_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            rooms.extend(first_name(&group[start..at]));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.trim_start().chars().take_while(|c| is_word(*c)).collect();
    (!name.is_empty()).then_some(name)
}
