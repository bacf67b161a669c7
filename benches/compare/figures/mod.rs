//! The figures, one file each.

pub(crate) mod null;
