//! pglull
pub mod ids;
pub mod wire;
pub mod server;
pub mod pool;
