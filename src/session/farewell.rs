//! What is said when a session ends: to the client, in the log, in the metrics. Pure.

use super::relay::End;
use crate::wire::reply::{Report, sqlstate};

/// What the client is told at the end, if anything; what the log says, in PgBouncer's words where they fit; the metric's label.
pub(super) fn farewell(end: &End) -> (Option<Report>, String, &'static str) {
    match end {
        End::ClientGone => (None, "client unexpected eof".to_owned(), "client_lost"),
        End::ClientLeft => (None, "client close request".to_owned(), "client_close"),
        End::ServerGone(error, told) => {
            let report = Report::new(sqlstate::CONNECTION_FAILURE, "server conn crashed?")
                .detail("The connection to Postgres was lost. Whether the last request had an effect is not known.");
            ((!told).then_some(report), format!("server conn crashed? ({error})"), "server_error")
        }
        End::ServerBroken(unexpected) => {
            let report = Report::new(sqlstate::CONNECTION_FAILURE, unexpected.to_string());
            (Some(report), unexpected.to_string(), "server_error")
        }
        End::Malformed(bad) => {
            (Some(Report::new(sqlstate::PROTOCOL_VIOLATION, bad.to_string())), bad.to_string(), "protocol_error")
        }
        End::Violation(tag) => {
            let text = format!("invalid frontend message type {tag}");
            (Some(Report::new(sqlstate::PROTOCOL_VIOLATION, text.clone())), text, "protocol_error")
        }
        End::Dismissed(report) => (Some(report.clone()), report.message.clone(), "dismissed"),
        End::Moves => (None, "client goes on in another process".to_owned(), "moved"),
        End::Boundary(_) | End::Wants | End::Errand => (None, "internal".to_owned(), "internal"),
    }
}
