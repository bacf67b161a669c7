//! Log lines in PgBouncer's shape, for the tools that read its log (pgbadger and others).
//!
//! `2026-01-01 00:00:00.000 UTC [pid] LOG C-0x7: database/user@127.0.0.1:5678 message key=value`. The part before the message is
//! there where the event has a client or its address. Source: `lib/usual/logging.c` and `src/util.c` of PgBouncer 1.25.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes events as PgBouncer does.
pub(super) struct Bouncer;

impl<S, N> FormatEvent<S, N> for Bouncer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut now = String::new();
        SystemTime.format_time(&mut Writer::new(&mut now))?;
        let mut parts = Parts::default();
        event.record(&mut parts);
        for span in ctx.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(parts.rest, " {fields}")?;
            }
        }
        writeln!(out, "{}", line(&now, std::process::id(), event.metadata().level(), &parts))
    }
}

/// What an event has, apart by what PgBouncer puts where.
#[derive(Default, Debug)]
struct Parts {
    message: String,
    client: String,
    database: String,
    user: String,
    peer: String,
    rest: String,
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let place = match field.name() {
            "message" => &mut self.message,
            "client" => &mut self.client,
            "database" => &mut self.database,
            "user" => &mut self.user,
            "peer" => &mut self.peer,
            name => {
                // Writing to a String cannot fail.
                let _ = write!(self.rest, " {name}={value:?}");
                return;
            }
        };
        let _ = write!(place, "{value:?}");
    }
}

fn line(now: &str, pid: u32, level: &Level, parts: &Parts) -> String {
    let word = match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "NOISE",
    };
    let Parts { message, rest, .. } = parts;
    // To the millisecond, as PgBouncer has it.
    let (day, time) = now.split_once('T').unwrap_or((now, ""));
    let time = time.get(..12).unwrap_or(time);
    format!("{day} {time} UTC [{pid}] {word} {}{message}{rest}", who(parts))
}

/// Who it is about: the client's number, database and user, address; nothing if it is about no client.
fn who(parts: &Parts) -> String {
    if parts.peer.is_empty() && parts.client.is_empty() {
        let named = [("database", &parts.database), ("user", &parts.user)];
        // Not a client's, but worth a word.
        return named
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name} {value}: "))
            .collect();
    }
    let or = |value: &str, none: &str| if value.is_empty() { none.to_owned() } else { value.to_owned() };
    let number = parts.client.parse::<u64>().unwrap_or_default();
    // `unix(uid 7)` is unix(7) there.
    let peer = parts.peer.replace("(uid ", "(");
    format!("C-0x{number:x}: {}/{}@{} ", or(&parts.database, "(nodb)"), or(&parts.user, "(nouser)"), or(&peer, "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pgbouncers() {
        let now = "2026-01-31T07:08:09.123456Z";
        let of = |change: fn(&mut Parts)| {
            let mut parts = Parts { message: "closing because: x (age=1s)".to_owned(), ..Parts::default() };
            change(&mut parts);
            line(now, 7, &Level::INFO, &parts)
        };
        let head = "2026-01-31 07:08:09.123 UTC [7] LOG";
        assert_eq!(of(|_| {}), format!("{head} closing because: x (age=1s)"));
        let known = of(|parts| {
            parts.client = "31".to_owned();
            parts.database = "shop".to_owned();
            parts.user = "app".to_owned();
            parts.peer = "127.0.0.1:5678".to_owned();
            parts.rest = " error=gone".to_owned();
        });
        assert_eq!(known, format!("{head} C-0x1f: shop/app@127.0.0.1:5678 closing because: x (age=1s) error=gone"));
        let early = of(|parts| parts.peer = "unix(uid 0)".to_owned());
        assert_eq!(early, format!("{head} C-0x0: (nodb)/(nouser)@unix(0) closing because: x (age=1s)"));
        let about = of(|parts| parts.database = "shop".to_owned());
        assert_eq!(about, format!("{head} database shop: closing because: x (age=1s)"));
    }
}
