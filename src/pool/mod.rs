//! Servers of one (database, user), and who may use them.
//!
//! [`ledger`] decides, purely; [`database`] puts it behind its lock and wakes those it names; [`lease`] is a server in a
//! client's hands; [`connect`] opens servers; [`wait`] is a client in the queue; [`upkeep`] closes the old and keeps the minimum.

mod auto;
pub mod caps;
pub mod connect;
pub mod database;
pub mod databases;
mod failing;
pub mod gate;
pub mod groups;
mod heal;
mod holds;
mod known;
pub mod lease;
pub mod ledger;
mod places;
mod recycle;
mod reload;
pub mod schema;
mod settings;
pub mod stats;
pub mod upkeep;
pub mod wait;
