//! One process of ours takes over from another, and no client notices: `UPGRADE`.
//!
//! The *elder* starts the *heir* with one end of a socket pair as its standard input and sends it the `words` of
//! this module over it: what listens, then, when the heir is ready, each idle client. The heir accepts, from the
//! same sockets, when the elder does not any more; who comes in between waits in them, so nobody is refused. Clients with TLS and those in a transaction stay with the elder until they have left or
//! are idle; it ends after the last. If the heir dies first, the elder goes on as before.

pub mod giving;
mod link;
pub mod taking;
mod words;

pub use words::{Key, Last, PoolKey, STATE};
