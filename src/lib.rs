//! The library behind the `pglull` binary. What follows is `ARCHITECTURE.md`: read it first.
//!
#![doc = include_str!("ARCHITECTURE.md")]

pub mod clock;
pub mod ids;

pub mod auth;
pub mod config;
pub mod net;
pub mod page;
pub mod prepared;
pub mod wire;

pub mod clients;
pub mod pool;
pub mod process;
pub mod server;
pub mod session;
pub mod upgrade;
pub mod window;

pub mod admin;
pub mod app;
pub mod telemetry;

pub mod cli;
pub mod demo;
