//! One connection to Postgres.
pub mod progress;
