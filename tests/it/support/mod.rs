//! What the tests stand on: one throwaway Postgres, the real binary, a raw client, loads, waiting.

pub(crate) mod between;
pub(crate) mod fake;
pub(crate) mod load;
pub(crate) mod msg;
pub(crate) mod own;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod rng;
pub(crate) mod spec;
pub(crate) mod terminal;
pub(crate) mod tls;
pub(crate) mod wait;
pub(crate) mod wire;
