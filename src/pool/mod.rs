//! Servers of one (database, user), and who may use them.
pub mod gate;
pub mod ledger;
