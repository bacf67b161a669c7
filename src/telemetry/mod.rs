//! What pglull tells about itself: metrics, health over HTTP, and logs.
//!
//! This room is a leaf: it knows no pool, session or window. Whoever has something to tell resolves its
//! handles here once and records into them; whoever is asked at scrape time fills plain structs. Nothing
//! here is process-wide except the tracing subscriber of the program itself, so that several proxies can
//! live in one test process.

pub mod http;
pub mod metrics;
pub mod seldom;
mod shape;
pub mod sink;
pub mod trace;
