//! Arguments, config, logs, then the library.
fn main() {}
