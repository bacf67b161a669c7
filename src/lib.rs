//! x

/// What the demo needs and the tests borrow.
pub mod demo {
    pub mod cluster;
}
