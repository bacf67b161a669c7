//! pglull
pub mod ids;
pub mod pool;
pub mod server;
pub mod window;
pub mod wire;
