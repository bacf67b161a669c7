//! Who may log in, how they prove it, and what servers are logged in to with.
pub mod credential;
pub mod rules;
pub mod scram;
pub mod scram_client;
pub mod users;
