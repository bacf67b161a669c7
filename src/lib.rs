//! x
pub mod ids;
pub mod telemetry;
