//! A schema-change window: preflight, drain, hold, apply, heal, release.
pub mod event;
pub mod machine;
pub mod plan;
