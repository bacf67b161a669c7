#![doc = include_str!("ARCHITECTURE.md")]

pub mod ids;
pub mod clock;

pub mod wire;
pub mod config;
pub mod auth;
pub mod net;

pub mod server;
pub mod pool;
pub mod clients;
pub mod window;

pub mod admin {
    //! The console.
    pub mod command;
}
pub mod telemetry;
