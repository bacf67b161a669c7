//! The console: what operators ask, and what they are answered.
//!
//! [`command`] reads, purely; [`console`] is a client's connection to the console, with what a driver prepares on it in
//! `extended` and who is at its other end in `operator`; `windows` are the verbs of windows and pauses, `verbs` all others;
//! `show` fills the tables of `table`, which [`status`] puts on a page; [`exporter`] gives their figures the names that PgBouncer's
//! exporter does; `upgrade` has another process take over; [`averages`] keeps the periods of the figures; [`reload`] puts another
//! configuration in force.

pub mod averages;
pub mod command;
pub mod console;
pub mod exporter;
mod extended;
mod findings;
mod operator;
mod rehearse;
pub mod reload;
mod show;
mod start;
pub mod status;
mod table;
mod upgrade;
mod verbs;
mod windows;
