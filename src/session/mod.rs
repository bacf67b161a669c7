//! One application connection, from its first byte to its last.
//!
//! [`greet`] logs it in ([`lookup`] finds users in the database); [`task`] is its life between and in transactions; `wait` is its time in a queue or behind a
//! shut gate; `relay` moves bytes while it has a server; `reject` answers a request that will not run.

pub mod front;
pub mod greet;
mod login;
mod look;
pub mod lookup;
mod reject;
mod relay;
pub mod task;
mod wait;
mod welcome;
