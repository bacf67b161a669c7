//! Who may log in, and how they prove it.
pub mod scram;
pub mod users;
