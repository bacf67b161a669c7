//! pglull
pub mod ids;
pub mod pool;
pub mod server;
pub mod window;
pub mod wire;
pub mod net;
pub mod clients;
pub mod clock;
pub mod config;
pub mod auth;
