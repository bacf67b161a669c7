//! Sockets. Only here and in `app.rs` stand the names of tokio's socket types.
pub mod listen;
pub mod stream;
pub mod tls;
pub mod watched;
