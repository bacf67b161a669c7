//! Bytes and frames: what the protocol says about lengths, tags and start-up packets.
//!
//! Everything here is a plain function over bytes; nothing here knows sockets, tasks or clocks. Relayed
//! messages are never decoded: their five-byte header is walked and the bytes pass through unchanged.
//! Source: PostgreSQL documentation, chapter "Frontend/Backend Protocol"; limits as in `postgres.c` and `pqcomm.h`.

pub mod extended;
pub mod frame;
pub mod reply;
pub mod startup;
pub mod tags;
