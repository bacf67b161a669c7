//! What is measured with a fine scale: by time in `micro`, by instructions in `instructions`, by allocations in `tests/alloc.rs`.

pub(crate) mod machines;
pub(crate) mod rig;
