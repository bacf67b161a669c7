//! A schema-change window: preflight, drain, hold, apply, heal, release.
//!
//! [`plan`], [`event`], [`machine`] and [`preflight`] decide, purely; [`driver`] performs; `facts` looks before a start,
//! `lookout` while a change runs; `stragglers` cuts those who may be cut; [`rehearse`] predicts with [`predict`]; [`people`]
//! looks at the clients; [`registry`] knows which windows there are; `apply` runs a change, [`witness`] asks what became of
//! it, [`change_table`] is where a database notes it; [`receipt`] is what stays, in a [`record`]; [`recover`] settles what an
//! earlier process has left open; [`watchdog`] ends what nobody ends.

mod apply;
pub mod change_table;
pub mod driver;
mod ending;
pub mod event;
mod facts;
pub mod lints;
mod lookout;
pub mod machine;
mod noting;
pub mod opportunity;
pub mod people;
pub mod plan;
pub mod predict;
pub mod preflight;
pub mod receipt;
pub mod record;
pub mod recover;
pub mod registry;
pub mod rehearse;
pub mod samples;
pub mod script;
pub mod status;
pub mod store;
mod stragglers;
pub mod verify;
pub mod watchdog;
pub mod witness;
