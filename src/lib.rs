//! x
pub mod cli;
pub mod demo;
pub mod ids;
