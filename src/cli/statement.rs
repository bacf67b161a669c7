//! Console commands as text: names and values in, one statement out.
//!
//! Whatever an operator types as a name, a value or a change is quoted so that it cannot become another command.
//! Pure: the time for a made-up id is an argument.

use super::args::BoundsArgs;

/// What is to be applied.
pub(crate) struct Change<'a> {
    pub(crate) database: &'a str,
    pub(crate) bounds: &'a BoundsArgs,
    pub(crate) id: &'a str,
    pub(crate) sql: &'a str,
    /// Several changes, each with its id, instead of the one.
    pub(crate) parts: &'a [(String, String)],
    /// What must hold before COMMIT.
    pub(crate) verify: Option<&'a str>,
    /// How long to wait for a good moment.
    pub(crate) start_within: Option<&'a str>,
}

/// A database's name, quoted where it is not a plain word.
#[must_use]
pub(crate) fn name(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// A value in single quotes.
#[must_use]
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A text between dollar signs, with a tag that does not occur in it.
#[must_use]
pub(crate) fn dollars(text: &str) -> String {
    let mut tag = String::new();
    let mut number = 0;
    while text.contains(&format!("${tag}$")) || (tag.is_empty() && text.ends_with('$')) {
        number += 1;
        tag = format!("change{number}");
    }
    format!("${tag}${text}${tag}$")
}

/// The bounds that were given, as ` WITH (...)`; the others are the proxy's to decide.
fn with(bounds: &BoundsArgs, id: &str, verify: Option<&str>, start_within: Option<&str>) -> String {
    let given = [
        ("drain", bounds.drain.as_deref()),
        ("apply", bounds.apply.as_deref()),
        ("hold", bounds.hold.as_deref()),
        ("tenure", bounds.tenure.as_deref()),
        ("stragglers", bounds.stragglers.map(super::args::Stragglers::word)),
        ("also", bounds.also.as_deref()),
        ("users", bounds.users.as_deref()),
        ("applications", bounds.applications.as_deref()),
        ("start_within", start_within),
        ("force", bounds.force.as_deref()),
        ("id", Some(id)),
    ];
    let given = given.iter().filter_map(|(key, value)| value.map(|v| format!("{key}={}", quoted(v))));
    let options: Vec<String> = given.chain(verify.map(|sql| format!("verify={}", dollars(sql)))).collect();
    format!(" WITH ({})", options.join(", "))
}

/// `WINDOW APPLY`.
#[must_use]
pub(crate) fn apply(change: &Change<'_>) -> String {
    let Change { database, bounds, id, sql, parts, verify, start_within } = *change;
    let sql = if parts.is_empty() { dollars(sql) } else { several(parts) };
    format!("WINDOW APPLY {}{} AS {sql}", name(database), with(bounds, id, verify, start_within))
}

fn several(parts: &[(String, String)]) -> String {
    let parts: Vec<String> = parts.iter().map(|(id, sql)| format!("CHANGE {} {}", quoted(id), dollars(sql))).collect();
    parts.join(", ")
}

/// `WINDOW OPEN`.
#[must_use]
pub(crate) fn open(database: &str, bounds: &BoundsArgs, id: &str) -> String {
    format!("WINDOW OPEN {}{}", name(database), with(bounds, id, None, None))
}

/// `WINDOW REHEARSE`, as real as `how` says.
#[must_use]
pub(crate) fn rehearse(
    database: &str,
    bounds: &BoundsArgs,
    (id, how): (&str, Option<&str>),
    (sql, parts): (Option<&str>, &[(String, String)]),
) -> String {
    let with = with(bounds, id, None, None);
    let with = how.map_or_else(|| with.clone(), |how| with.replacen('(', &format!("({how}=true, "), 1));
    let sql = if parts.is_empty() { sql.map(dollars) } else { Some(several(parts)) };
    let sql = sql.map(|sql| format!(" AS {sql}")).unwrap_or_default();
    format!("WINDOW REHEARSE {}{with}{sql}", name(database))
}

/// `WINDOW ABORT` by its owner, who says why.
#[must_use]
pub(crate) fn give_up(id: &str, token: &str, reason: &str) -> String {
    format!("{} REASON {}", steer("ABORT", id, Some(token)), quoted(reason))
}

/// `WINDOW CLOSE`, `RENEW` or `ABORT`.
#[must_use]
pub(crate) fn steer(verb: &str, id: &str, token: Option<&str>) -> String {
    let token = token.map(|t| format!(" TOKEN {}", quoted(t))).unwrap_or_default();
    format!("WINDOW {verb} {id}{token}")
}

/// An id for a change that was given none: the time in UTC to the second, and four digits against collisions.
#[must_use]
pub(crate) fn made_up_id(unix_seconds: u64, salt: u32) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("w-{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z-{:04x}", salt & 0xffff)
}

/// Days since 1970 as year, month and day: counted in years that start in March, so that the leap day comes last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Stragglers;

    #[test]
    fn names_and_values_cannot_break_out() {
        for (given, expect) in [
            ("bench", "bench"),
            ("bench_2", "bench_2"),
            ("Bench", "\"Bench\""),
            ("2b", "\"2b\""),
            ("a\"; SHUTDOWN", "\"a\"\"; SHUTDOWN\""),
            ("", "\"\""),
        ] {
            assert_eq!(name(given), expect);
        }
        assert_eq!(quoted("a'b"), "'a''b'");
    }

    #[test]
    fn dollar_quotes_avoid_what_is_inside() {
        for (given, expect) in [
            ("SELECT 1", "$$SELECT 1$$"),
            ("DO $$ x $$", "$change1$DO $$ x $$$change1$"),
            ("a $$ b $change1$ c", "$change2$a $$ b $change1$ c$change2$"),
            ("ends in $", "$change1$ends in $$change1$"),
        ] {
            assert_eq!(dollars(given), expect);
        }
    }

    #[test]
    fn whole_commands() {
        let bounds = BoundsArgs {
            drain: Some("2s".into()),
            stragglers: Some(Stragglers::Cancel),
            users: Some("a, b'".into()),
            ..BoundsArgs::default()
        };
        assert_eq!(
            apply(&Change {
                database: "bench",
                bounds: &bounds,
                id: "w-1",
                sql: "SELECT 1",
                parts: &[],
                verify: Some("SELECT true"),
                start_within: None,
            }),
            "WINDOW APPLY bench WITH (drain='2s', stragglers='cancel', users='a, b''', id='w-1', verify=$$SELECT true$$) AS $$SELECT 1$$"
        );
        let parts = [("001_a".to_owned(), "SELECT 1".to_owned()), ("b".to_owned(), "DO $$ x $$".to_owned())];
        let several = Change {
            database: "b",
            bounds: &BoundsArgs::default(),
            id: "w-1",
            sql: "",
            parts: &parts,
            verify: None,
            start_within: None,
        };
        assert_eq!(
            apply(&several),
            "WINDOW APPLY b WITH (id='w-1') AS CHANGE '001_a' $$SELECT 1$$, CHANGE 'b' $change1$DO $$ x $$$change1$"
        );
        assert_eq!(
            rehearse("b", &BoundsArgs::default(), ("w-1", Some("rollback")), (Some("SELECT 1"), &[])),
            "WINDOW REHEARSE b WITH (rollback=true, id='w-1') AS $$SELECT 1$$"
        );
        assert_eq!(
            rehearse("b", &BoundsArgs::default(), ("w-1", None), (None, &[])),
            "WINDOW REHEARSE b WITH (id='w-1')"
        );
        assert_eq!(
            rehearse("b", &BoundsArgs::default(), ("w-1", None), (None, &parts[..1])),
            "WINDOW REHEARSE b WITH (id='w-1') AS CHANGE '001_a' $$SELECT 1$$"
        );
        assert_eq!(open("b", &BoundsArgs::default(), "w-1"), "WINDOW OPEN b WITH (id='w-1')");
        assert_eq!(steer("ABORT", "w-1", None), "WINDOW ABORT w-1");
        assert_eq!(give_up("w-1", "t", "it's"), "WINDOW ABORT w-1 TOKEN 't' REASON 'it''s'");
        assert_eq!(steer("CLOSE", "w-1", Some("t'")), "WINDOW CLOSE w-1 TOKEN 't'''");
    }

    #[test]
    fn ids_tell_the_time() {
        for (seconds, expect) in [
            (0, "w-19700101T000000Z-002a"),
            (951_782_399, "w-20000228T235959Z-002a"),
            (951_782_400, "w-20000229T000000Z-002a"),
            (1_795_361_400, "w-20261122T153000Z-002a"),
            (4_107_542_400, "w-21000301T000000Z-002a"),
        ] {
            assert_eq!(made_up_id(seconds, 0x2a), expect);
        }
    }
}
