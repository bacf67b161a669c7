//! The console: what operators ask, and what they are answered.
//!
//! [`command`] reads, purely; [`console`] is a client's connection to the console; `windows` are the verbs of windows and
//! pauses; `show` fills tables; [`reload`] puts another configuration in force.

pub mod command;
pub mod console;
pub mod reload;
mod show;
mod windows;
