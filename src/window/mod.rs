//! A schema-change window: preflight, drain, hold, apply, heal, release.
//!
//! [`plan`], [`event`], [`machine`] and [`preflight`] decide, purely; [`driver`] performs; `facts` looks before a start,
//! `lookout` while a change runs; `stragglers` cuts those who may be cut; [`rehearse`] predicts with [`predict`]; [`people`] looks at the clients; [`registry`]
//! knows which windows there are; `apply` runs a change; [`receipt`] is what stays; [`watchdog`] ends what nobody ends.

mod apply;
pub mod driver;
pub mod event;
mod facts;
pub mod lints;
mod lookout;
pub mod machine;
pub mod opportunity;
pub mod people;
pub mod plan;
pub mod predict;
pub mod preflight;
pub mod receipt;
pub mod registry;
pub mod rehearse;
pub mod script;
mod stragglers;
pub mod watchdog;
