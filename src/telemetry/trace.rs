//! Logs: lines of text, of JSON, or in PgBouncer's shape.
//!
//! Whatever a client sends can end up in a field of a log line (its user name, application name, a
//! statement), so every line passes `Visible`: one event is one line, and no control character reaches a
//! terminal raw. There are no colours, so that nothing in the output is an escape sequence at all.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use super::shape::Bouncer;
use super::sink::Sink;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

/// The form of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// `2026-01-01T00:00:00.000000Z  INFO pglull::net: message field=value`
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// `2026-01-01 00:00:00.000 UTC [pid] LOG C-0x1: database/user@address message field=value`
    Bouncer,
}

/// Why the logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The level of the config or of `RUST_LOG` is none.
    #[error("{origin}: {text:?} is not a log level or filter: {cause}")]
    Filter {
        /// Where it was written: `log_level` or `RUST_LOG`.
        origin: &'static str,
        /// What was written there.
        text: String,
        /// What is wrong with it.
        cause: ParseError,
    },
    /// This process has a subscriber already.
    #[error("logs are set up already")]
    Twice,
}

/// The logs of this process: what a reload may change of them.
pub struct Logs {
    sink: Sink,
    filter: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Logs").field("sink", &self.sink).finish_non_exhaustive()
    }
}

impl Logs {
    /// Opens the file anew. The first step of a reload: it may fail, and then the former file stays.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn reopen(&self, file: Option<&Path>) -> io::Result<()> {
        self.sink.reopen(file)
    }

    /// Lets other lines through: `level` as for [`install`]. One that cannot be read changes nothing.
    pub fn level(&self, level: &str) {
        let rust_log = std::env::var("RUST_LOG").ok();
        if let Ok(fresh) = filter(level, rust_log.as_deref()) {
            (self.filter)(fresh);
        }
    }
}

/// Sends the logs of this process to `sink`. `level` is a level or a filter such as
/// `info,pglull::pool=debug`; `RUST_LOG`, if set and not empty, wins over it. Call it once, first of all.
///
/// # Errors
/// If the filter cannot be read, or if it was called before.
pub fn install(format: Format, level: &str, sink: Sink) -> Result<Logs, TraceError> {
    let rust_log = std::env::var("RUST_LOG").ok();
    let (subscriber, filter) = subscriber(format, filter(level, rust_log.as_deref())?, sink.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TraceError::Twice)?;
    Ok(Logs { sink, filter })
}

fn filter(level: &str, rust_log: Option<&str>) -> Result<EnvFilter, TraceError> {
    let (origin, text) = match rust_log {
        Some(text) if !text.trim().is_empty() => ("RUST_LOG", text),
        _ => ("log_level", level),
    };
    EnvFilter::try_new(text).map_err(|cause| TraceError::Filter { origin, text: text.to_owned(), cause })
}

/// A subscriber, and what gives it another filter.
type Subscribed = (Box<dyn Subscriber + Send + Sync>, Box<dyn Fn(EnvFilter) + Send + Sync>);

fn subscriber<W>(format: Format, filter: EnvFilter, writer: W) -> Subscribed
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // It can only fail if the subscriber is gone, and with it all lines.
    match format {
        Format::Text => {
            let lines = lines.with_writer(Visible { inner: writer, format }).with_filter_reloading();
            let handle = lines.reload_handle();
            (Box::new(lines.finish()), Box::new(move |filter| drop(handle.reload(filter))))
        }
        Format::Bouncer => {
            let lines = lines.event_format(Bouncer).with_writer(Visible { inner: writer, format });
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            (Box::new(lines.finish()), Box::new(move |filter| drop(handle.reload(filter))))
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_writer(Visible { inner: writer, format });
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            (Box::new(lines.finish()), Box::new(move |filter| drop(handle.reload(filter))))
        }
    }
}

/// Makes writers that show control characters instead of sending them. The layer hands over each event as one
/// buffer that ends with its newline; that one stays, any other is shown as `\n`.
#[derive(Debug)]
struct Visible<W> {
    inner: W,
    format: Format,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Visible<W> {
    type Writer = VisibleWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        VisibleWriter { inner: self.inner.make_writer(), format: self.format }
    }
}

#[derive(Debug)]
struct VisibleWriter<W> {
    inner: W,
    format: Format,
}

impl<W: Write> Write for VisibleWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        // One call for the whole line, so that the lines of two threads do not mix.
        self.inner.write_all(visible(&text, self.format).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn visible(line: &str, format: Format) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    let mut out = String::with_capacity(line.len());
    for c in body.chars() {
        // Writing to a String cannot fail.
        let _ = match (c, format) {
            (c, _) if !is_hidden(c) => out.write_char(c),
            // All of them are in the Basic Multilingual Plane, so one escape is enough for JSON.
            (c, Format::Json) => write!(out, "\\u{:04x}", u32::from(c)),
            (c, _) => write!(out, "{}", c.escape_default()),
        };
    }
    out.push_str(end);
    out
}

/// Characters that steer a terminal or a reader instead of being seen: the controls C0, DEL and C1, line and
/// paragraph separators, and those that turn the direction of writing.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, level: &str, rust_log: Option<&str>, act: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(format, filter(level, rust_log).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(subscriber.0, act);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    /// Everything that must not reach a terminal, as a client could send it in its application name.
    const HOSTILE: &str = "a\x1b]0;owned\x07\x1b[2Jb\r\n2026 ERROR forged\x08\x00\x7f\u{9b}31m\u{202e}\u{2028}end";

    #[test]
    fn hostile_fields_and_messages_stay_visible_on_one_line() {
        for format in [Format::Text, Format::Json, Format::Bouncer] {
            let out = logged(format, "info", None, || {
                tracing::info!(application_name = HOSTILE, "field");
                tracing::info!(application_name = %HOSTILE, "display field");
                tracing::info!(application_name = ?HOSTILE, "debug field");
                tracing::info!("message {HOSTILE}");
                let error: Box<dyn std::error::Error> = HOSTILE.into();
                tracing::info!(error = &*error, "error field");
                tracing::info_span!("session", user = %HOSTILE).in_scope(|| tracing::info!("in a span"));
            });
            assert_eq!(out.lines().count(), 6, "{format:?}: one event, one line:\n{out}");
            assert!(out.ends_with('\n'));
            for c in out.chars() {
                assert!(c == '\n' || !is_hidden(c), "{format:?}: {c:?} reached the output:\n{out:?}");
            }
            assert!(out.lines().all(|line| line.contains("owned")), "shown, not dropped:\n{out}");
        }
    }

    #[test]
    fn json_lines_are_json_and_keep_the_text() {
        let out = logged(Format::Json, "info", None, || tracing::info!(user = HOSTILE, held = 3, "hello"));
        let line: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(line["message"], "hello");
        assert_eq!(line["user"], HOSTILE);
        assert_eq!(line["held"], 3);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn rust_log_wins_unless_it_is_empty() {
        let act = || {
            tracing::info!("told");
            tracing::debug!("whispered");
        };
        assert!(!logged(Format::Text, "info", None, act).contains("whispered"));
        assert!(logged(Format::Text, "info", Some("debug"), act).contains("whispered"));
        assert!(logged(Format::Text, "debug", Some(""), act).contains("whispered"));
        assert!(!logged(Format::Text, "debug", Some("warn"), act).contains("told"));
    }

    #[test]
    fn mistakes_say_where_they_are() {
        let wrong = filter("info", Some("pglull=loud")).unwrap_err().to_string();
        assert!(wrong.starts_with("RUST_LOG: \"pglull=loud\" is not a log level"), "{wrong}");
        let wrong = filter("pglull=loud", None).unwrap_err().to_string();
        assert!(wrong.starts_with("log_level: "), "{wrong}");
    }
}
