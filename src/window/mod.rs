//! A schema-change window: preflight, drain, hold, apply, heal, release.
//!
//! [`plan`], [`event`] and [`machine`] decide, purely; [`driver`] performs; [`people`] looks at the clients; [`registry`]
//! knows which windows there are; `apply` runs a change; [`receipt`] is what stays; [`watchdog`] ends what nobody ends.

mod apply;
pub mod driver;
pub mod event;
pub mod machine;
pub mod people;
pub mod plan;
pub mod receipt;
pub mod registry;
pub mod script;
pub mod watchdog;
