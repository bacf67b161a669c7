//! Rows as text: a table that fits the terminal, one record below the other where it does not, or JSON lines.
//!
//! Nothing is cut: in a table that is too wide the last column goes on in the next line, or the table is turned into records.
//! Control characters are shown, not sent: a client chooses its own application name, and must not steer the operator's terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::client::Rows;

/// Width of what is printed where there is no terminal: as wide as it gets.
pub(crate) const UNLIMITED: usize = usize::MAX;

/// The last column is broken into lines if it has at least so many columns of the terminal.
const LAST_MIN: usize = 30;

/// The rows as a table of at most `width` characters a line, or as records. Ends with a line end.
#[must_use]
pub(crate) fn render(rows: &Rows, width: usize) -> String {
    if rows.columns.is_empty() {
        return String::new();
    }
    let heads: Vec<String> = rows.columns.iter().map(|c| visible(c)).collect();
    let cells: Vec<Vec<String>> = rows
        .rows
        .iter()
        .map(|row| row.iter().map(|v| v.as_deref().map(visible).unwrap_or_default()).collect())
        .collect();
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(at, head)| cells.iter().filter_map(|r| r.get(at)).map(|v| len(v)).fold(len(head), usize::max))
        .collect();
    let total = widths.iter().map(|w| w + 3).sum::<usize>().saturating_sub(1);
    if total <= width || cells.is_empty() {
        return table(&heads, &cells, &widths, cells.len());
    }
    match broken(&cells, &widths, width) {
        Some((lines, widths)) => table(&heads, &lines, &widths, cells.len()),
        None => records(&heads, &cells, width),
    }
}

/// The rows with the last column broken into lines, where the others leave enough room for that.
fn broken(cells: &[Vec<String>], widths: &[usize], width: usize) -> Option<(Vec<Vec<String>>, Vec<usize>)> {
    let (_, others) = widths.split_last()?;
    let taken: usize = others.iter().map(|w| w + 3).sum();
    let room = width.checked_sub(taken + 2).filter(|room| *room >= LAST_MIN)?;
    let mut lines = Vec::new();
    for row in cells {
        let (last, before) = row.split_last()?;
        for (at, piece) in pieces(last, room).into_iter().enumerate() {
            let before = before.iter().map(|cell| if at == 0 { cell.clone() } else { String::new() });
            lines.push(before.chain([piece]).collect());
        }
    }
    Some((lines, others.iter().copied().chain([room]).collect()))
}

fn table(heads: &[String], cells: &[Vec<String>], widths: &[usize], count: usize) -> String {
    let right: Vec<bool> = (0..heads.len())
        .map(|at| {
            let mut values = cells.iter().filter_map(|r| r.get(at)).filter(|v| !v.is_empty()).peekable();
            values.peek().is_some() && values.all(|v| v.parse::<f64>().is_ok())
        })
        .collect();
    let mut out = line(heads, widths, &right);
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
    out.push_str(&rule.join("+"));
    out.push('\n');
    for row in cells {
        out.push_str(&line(row, widths, &right));
    }
    let plural = if count == 1 { "row" } else { "rows" };
    out.push_str(&format!("({count} {plural})\n"));
    out
}

fn line(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .zip(right)
        .map(|((cell, width), right)| {
            let space = " ".repeat(width.saturating_sub(len(cell)));
            if *right { format!(" {space}{cell} ") } else { format!(" {cell}{space} ") }
        })
        .collect();
    let mut out = padded.join("|").trim_end().to_owned();
    out.push('\n');
    out
}

fn records(heads: &[String], cells: &[Vec<String>], width: usize) -> String {
    let margin = heads.iter().map(|h| len(h)).max().unwrap_or(0);
    let room = width.saturating_sub(margin + 3).max(10);
    let mut out = String::new();
    for (number, row) in cells.iter().enumerate() {
        let title = format!("-[ {} ]", number + 1);
        let dashes = width.min(78).saturating_sub(len(&title));
        out.push_str(&format!("{title}{}\n", "-".repeat(dashes)));
        for (head, value) in heads.iter().zip(row) {
            pair(&mut out, head, value, (margin, room));
        }
    }
    out
}

/// One `key | value` line, and lines below it for what does not fit.
fn pair(out: &mut String, key: &str, value: &str, (margin, room): (usize, usize)) {
    let mut pieces = pieces(value, room).into_iter();
    let first = pieces.next().unwrap_or_default();
    let space = " ".repeat(margin.saturating_sub(len(key)));
    out.push_str(format!("{key}{space} | {first}").trim_end());
    out.push('\n');
    for piece in pieces {
        out.push_str(&format!("{} | {piece}\n", " ".repeat(margin)));
    }
}

/// The text in pieces of at most so many columns, broken between words where one is near.
fn pieces(text: &str, room: usize) -> Vec<String> {
    let (mut out, mut piece, mut used) = (Vec::new(), String::new(), 0);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > room {
            // A word goes to the next line as a whole, if not too much of this one stays empty.
            let at = piece.rfind(' ').map(|at| at + 1).filter(|at| len(&piece[*at..]) * 3 <= room);
            let rest = piece.split_off(at.unwrap_or(piece.len()));
            used = len(&rest);
            out.push(std::mem::replace(&mut piece, rest).trim_end().to_owned());
            if c == ' ' && piece.is_empty() {
                continue;
            }
        }
        piece.push(c);
        used += wide;
    }
    out.push(piece);
    out
}

/// Keys and values below each other, the keys aligned; empty values are left out. Ends with a line end.
#[must_use]
pub(crate) fn pairs(list: &[(String, String)], width: usize) -> String {
    let list: Vec<(String, String)> = list.iter().map(|(k, v)| (visible(k), visible(v))).collect();
    let margin = list.iter().map(|(k, _)| len(k)).max().unwrap_or(0);
    let room = width.saturating_sub(margin + 3).max(10);
    let mut out = String::new();
    for (key, value) in list.iter().filter(|(_, v)| !v.is_empty()) {
        pair(&mut out, key, value, (margin, room));
    }
    out
}

/// One JSON object a row, a line each. Numbers stay numbers, so that a reader need not convert them.
#[must_use]
pub(crate) fn json(rows: &Rows) -> String {
    objects(rows).iter().map(|object| format!("{object}\n")).collect()
}

/// One JSON object a row.
#[must_use]
pub(crate) fn objects(rows: &Rows) -> Vec<serde_json::Value> {
    let object = |row: &Vec<Option<String>>| {
        let pairs = rows.columns.iter().zip(row);
        pairs.map(|(column, value)| (column.clone(), json_value(value.as_deref()))).collect()
    };
    rows.rows.iter().map(object).map(serde_json::Value::Object).collect()
}

/// A number, a nested document, or a string.
#[must_use]
pub(crate) fn json_value(text: Option<&str>) -> serde_json::Value {
    let Some(text) = text else {
        return serde_json::Value::Null;
    };
    let number = text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    if number || text.starts_with(['{', '[']) {
        serde_json::from_str(text).unwrap_or_else(|_| text.into())
    } else {
        text.into()
    }
}

/// The text with what steers written out: control characters, what turns the direction of writing, what is not seen.
#[must_use]
pub(crate) fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push(' '),
            c if c.is_control() || steers(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Marks and overrides of direction, separators of lines, and what has no width and could hide in a name.
fn steers(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text in at most `width` columns, the last of them an ellipsis where something is missing.
#[must_use]
pub(crate) fn cut(text: &str, width: usize) -> String {
    if len(text) <= width {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 0);
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used >= width {
            break;
        }
        out.push(c);
    }
    out.push('…');
    out
}

/// How many columns of a terminal the text takes: some characters take two, some none.
pub(crate) fn len(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(columns: &[&str], values: &[&[Option<&str>]]) -> Rows {
        Rows {
            columns: columns.iter().map(ToString::to_string).collect(),
            rows: values.iter().map(|r| r.iter().map(|v| v.map(str::to_owned)).collect()).collect(),
            tag: String::new(),
        }
    }

    #[test]
    fn a_table_is_aligned_and_numbers_stand_right() {
        let given = rows(&["id", "held"], &[&[Some("w-1"), Some("7")], &[Some("w-22"), Some("1234")], &[None, None]]);
        let expect = [" id   | held", "------+------", " w-1  |    7", " w-22 | 1234", "      |", "(3 rows)", ""];
        assert_eq!(render(&given, 80), expect.join("\n"));
    }

    #[test]
    fn no_rows_and_no_columns() {
        assert_eq!(render(&rows(&["id"], &[]), 80), " id\n----\n(0 rows)\n");
        assert_eq!(render(&rows(&[], &[]), 80), "");
    }

    #[test]
    fn too_wide_becomes_records_and_loses_nothing() {
        let given = rows(&["id", "statement"], &[&[Some("1"), Some("SELECT aaaaaaaaaaaaaaaaaaaa FROM b")]]);
        let expect = "\
-[ 1 ]------------------
id        | 1
statement | SELECT aaaaa
          | aaaaaaaaaaaa
          | aaa FROM b
";
        assert_eq!(render(&given, 24), expect);
        assert!(render(&given, UNLIMITED).contains("SELECT aaaaaaaaaaaaaaaaaaaa FROM b"));
    }

    #[test]
    fn where_only_the_last_column_is_long_it_goes_on_in_the_next_line() {
        let reason = "about 1 ms of 2.0 s: 0 open transactions";
        let given = rows(&["check", "reason"], &[&[Some("drain"), Some(reason)], &[Some("hours"), Some("now")]]);
        let expect = " check | reason
-------+--------------------------------
 drain | about 1 ms of 2.0 s: 0 open
       | transactions
 hours | now
(2 rows)
";
        assert_eq!(render(&given, 40), expect);
        assert!(expect.lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(visible("a\x1b[2Jb\nc\td"), "a\\u{1b}[2Jb\\nc d");
        assert!(!render(&rows(&["n"], &[&[Some("\x1b]0;x\x07")]]), 80).contains('\x1b'));
    }

    #[test]
    fn json_lines() {
        let given = rows(
            &["id", "n", "none", "list", "bad", "zeros"],
            &[&[Some("w"), Some("-12"), None, Some("[{\"a\":1}]"), Some("{no"), Some("007")]],
        );
        let expect = "{\"bad\":\"{no\",\"id\":\"w\",\"list\":[{\"a\":1}],\"n\":-12,\"none\":null,\"zeros\":\"007\"}\n";
        assert_eq!(json(&given), expect);
    }

    #[test]
    fn pairs_leave_out_what_is_empty() {
        let list = [("outcome", "applied"), ("reason", ""), ("id", "w-1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pairs(&list, 80), "outcome | applied\nid      | w-1\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!((len("日本"), len("e\u{301}"), len("é")), (4, 1, 1));
        assert_eq!(
            (cut("日本語", 6).as_str(), cut("日本語", 5).as_str(), cut("日本語", 4).as_str()),
            ("日本語", "日本…", "日…")
        );
        let given = rows(&["db", "n"], &[&[Some("日本"), Some("1")], &[Some("shop"), Some("2")]]);
        assert_eq!(
            render(&given, 80),
            [" db   | n", "------+---", " 日本 | 1", " shop | 2", "(2 rows)", ""].join("\n")
        );
    }

    #[test]
    fn a_name_cannot_turn_the_line_around_or_hide() {
        assert_eq!(visible("a\u{202e}b\u{200b}c"), "a\\u{202e}b\\u{200b}c");
        assert_eq!(visible("مرحبا"), "مرحبا");
    }

    #[test]
    fn long_values_break_between_words() {
        assert_eq!(pieces("transactions were still open", 14), ["transactions", "were still", "open"]);
        assert_eq!(pieces("aaaaaaaaaaaa", 5), ["aaaaa", "aaaaa", "aa"]);
        assert_eq!(pieces("", 5), [""]);
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!((cut("abc", 3).as_str(), cut("äöüß", 3).as_str(), cut("abc", 0).as_str()), ("abc", "äö…", "…"));
    }
}
