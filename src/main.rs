<<<<<<< HEAD
=======
//! Arguments, config, logs, then the library.
>>>>>>> telemetry
fn main() {}
