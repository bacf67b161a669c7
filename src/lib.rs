//! pglull
pub mod ids;
pub mod wire;
