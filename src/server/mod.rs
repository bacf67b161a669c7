//! One connection to Postgres: how it is made, what it owes, how it is cancelled and cleaned.

pub mod ask;
pub mod cancel;
pub mod conn;
pub mod connect;
pub mod names;
pub mod parameters;
pub mod progress;
pub mod recover;
pub mod renew;
pub mod residue;
pub mod roster;
pub mod tls;
