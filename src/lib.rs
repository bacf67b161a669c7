//! pglull
pub mod ids;
pub mod wire;
pub mod server;
