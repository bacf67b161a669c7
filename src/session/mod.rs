//! One application connection, from its first byte to its last.
//!
//! [`greet`] logs it in ([`lookup`] finds users in the database); [`task`] is its life between and in transactions; `wait` is
//! its time in a queue or behind a shut gate; `relay` moves bytes while it has a server, with `translate` and `answers` where
//! prepared statements are concerned; `state` is what of its session is moved from server to server; `reject` answers a
//! request that will not run; [`journey`] takes an idle client to another process, and takes one in.

mod answers;
mod asked;
mod farewell;
pub mod front;
pub mod greet;
pub mod journey;
mod login;
mod look;
pub mod lookup;
mod messages;
pub mod overdue;
pub mod passport;
mod patience;
mod probe;
mod reject;
mod relay;
mod state;
pub mod task;
mod timer;
mod translate;
mod wait;
mod welcome;
