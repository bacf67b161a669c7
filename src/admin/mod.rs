//! The console: what operators ask, and what they are answered.
//!
//! [`command`] reads, purely; [`console`] is a client's connection to the console; `windows` are the verbs of windows and
//! pauses; `show` fills tables.

pub mod command;
pub mod console;
mod show;
mod windows;
