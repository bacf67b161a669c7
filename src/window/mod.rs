//! A schema-change window: preflight, drain, hold, apply, heal, release.
//!
//! [`plan`], [`event`], [`machine`] and [`preflight`] decide, purely; [`driver`] performs; `facts` looks before a start; [`people`] looks at the clients; [`registry`]
//! knows which windows there are; `apply` runs a change; [`receipt`] is what stays; [`watchdog`] ends what nobody ends.

mod apply;
pub mod driver;
pub mod event;
mod facts;
pub mod machine;
pub mod people;
pub mod plan;
pub mod preflight;
pub mod receipt;
pub mod registry;
pub mod script;
pub mod watchdog;
