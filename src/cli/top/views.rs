//! The columns of each view: where a value comes from, how it is shown, and which is left out first where there is no room.

use crate::cli::args::TopView;
use crate::cli::client::Rows;
use crate::cli::live::exact;

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As it is.
    Text,
    /// The first that is not empty.
    Either,
    /// `address:port`
    Address,
    /// A count, the sum of its columns.
    Count,
    /// A count, less what the other column counts.
    Less,
    /// Seconds and microseconds of them.
    Wait,
    /// Milliseconds.
    Millis,
    /// 0 is open.
    Gate,
    /// 0 is nothing, 1 is this column's title.
    Flag,
}

/// A column of a view.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// The console's columns that it is made of.
    pub(super) keys: &'static [&'static str],
    pub(super) how: How,
    /// The smallest goes first where there is no room; 9 stays.
    pub(super) rank: u8,
}

const fn column(title: &'static str, keys: &'static [&'static str], how: How, rank: u8) -> Column {
    Column { title, keys, how, rank }
}

const POOLS: &[Column] = &[
    column("database", &["database"], How::Text, 9),
    column("user", &["user"], How::Text, 8),
    column("gate", &["paused"], How::Gate, 8),
    column("clients", &["cl_active"], How::Count, 9),
    column("waiting", &["cl_waiting", "cl_held"], How::Less, 9),
    column("held", &["cl_held"], How::Count, 9),
    column("longest", &["maxwait", "maxwait_us"], How::Wait, 6),
    column("servers", &["sv_active"], How::Count, 9),
    column("idle", &["sv_idle", "sv_used", "sv_tested"], How::Count, 7),
    column("login", &["sv_login"], How::Count, 4),
    column("mode", &["pool_mode"], How::Text, 3),
];

const CLIENTS: &[Column] = &[
    column("id", &["id"], How::Text, 8),
    column("user", &["user"], How::Text, 8),
    column("database", &["database"], How::Text, 9),
    column("state", &["state"], How::Text, 9),
    column("held", &["held"], How::Flag, 9),
    column("transaction", &["transaction_ms"], How::Millis, 7),
    column("wait", &["wait", "wait_us"], How::Wait, 7),
    column("application", &["application_name"], How::Text, 6),
    column("address", &["addr", "port"], How::Address, 5),
    column("pinned", &["pinned"], How::Text, 3),
    column("statements", &["prepared_statements"], How::Count, 2),
    column("tls", &["tls"], How::Text, 1),
    column("since", &["connect_time"], How::Text, 1),
];

const SERVERS: &[Column] = &[
    column("pid", &["remote_pid"], How::Text, 8),
    column("user", &["user"], How::Text, 8),
    column("database", &["database"], How::Text, 9),
    column("state", &["state"], How::Text, 9),
    column("used", &["request_time"], How::Text, 6),
    column("application", &["application_name"], How::Text, 5),
    column("address", &["addr", "port"], How::Address, 5),
    column("statements", &["prepared_statements"], How::Count, 3),
    column("to close", &["close_needed"], How::Flag, 4),
    column("since", &["connect_time"], How::Text, 2),
    column("tls", &["tls"], How::Text, 1),
];

const WINDOWS: &[Column] = &[
    column("window", &["id"], How::Text, 9),
    column("database", &["database"], How::Text, 8),
    column("outcome", &["outcome", "phase"], How::Either, 9),
    column("started", &["started_at"], How::Text, 4),
    column("took", &["elapsed_ms"], How::Millis, 5),
    column("drain", &["drain_ms"], How::Millis, 5),
    column("hold", &["hold_ms"], How::Millis, 7),
    column("apply", &["apply_ms"], How::Millis, 5),
    column("held", &["held_peak"], How::Count, 7),
    column("stall", &["stall_max_ms"], How::Millis, 8),
    column("reason", &["reason"], How::Text, 6),
];

/// Those of a view, in their order.
pub(super) const fn columns(view: TopView) -> &'static [Column] {
    match view {
        TopView::Pools => POOLS,
        TopView::Clients => CLIENTS,
        TopView::Servers => SERVERS,
        TopView::Windows => WINDOWS,
    }
}

/// A value, and what it is ordered by.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) shown: String,
    pub(super) number: f64,
}

impl Column {
    /// Whether it is a number, which stands at the right.
    pub(super) const fn is_number(&self) -> bool {
        matches!(self.how, How::Count | How::Less | How::Wait | How::Millis)
    }

    /// What stands in this row.
    pub(super) fn value(&self, rows: &Rows, row: &[Option<String>]) -> Value {
        let text = |at: usize| self.keys.get(at).map_or("", |key| rows.value(row, key));
        let number = |at: usize| text(at).parse::<f64>().unwrap_or_default();
        let amount = |number: f64| Value { shown: number.to_string(), number };
        let time = |us: f64| Value { shown: if us == 0.0 { "-".into() } else { exact((us / 1e3) as u64) }, number: us };
        let words = |shown: String| Value { shown, number: 0.0 };
        match self.how {
            How::Text => Value { shown: text(0).to_owned(), number: number(0) },
            How::Either => words(if text(0).is_empty() { text(1) } else { text(0) }.to_owned()),
            How::Address => {
                words(if text(0) == "unix" { "unix".to_owned() } else { format!("{}:{}", text(0), text(1)) })
            }
            How::Count => amount((0..self.keys.len()).map(number).sum()),
            How::Less => amount((number(0) - number(1)).max(0.0)),
            How::Wait => time(number(0) * 1e6 + number(1)),
            How::Millis => time(number(0) * 1e3),
            How::Gate => words(if number(0) == 0.0 { "open" } else { "shut" }.to_owned()),
            How::Flag => Value { shown: if number(0) == 0.0 { "" } else { self.title }.to_owned(), number: number(0) },
        }
    }
}
