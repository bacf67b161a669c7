//! What the Rust programmes share: values, and how a step's result is printed (see ../../README.md).

use std::env::var;
use std::fmt::{Debug, Display};

pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

pub const TAGS: [Option<&str>; 8] =
    [Some("plain"), Some("quo\"te"), Some("comma,"), Some("back\\slash"), Some(""), None, Some("NULL"), Some("ü")];
pub const TEXT: &str = "naïve 漢字 😀 \u{301} 'quoted' \\ \t";
pub const BIG: usize = 4 << 20;

pub fn all_bytes() -> Vec<u8> {
    (0..=255).collect()
}

pub fn setting(name: &str) -> String {
    var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

pub fn table() -> String {
    setting("TABLE")
}

/// The version of a crate that this was built with.
pub fn version(name: &str) -> &'static str {
    let entry = include_str!("../Cargo.lock").split_once(&format!("name = \"{name}\"\nversion = \""));
    entry.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?")
}

pub fn laps() -> usize {
    var("LAPS").ok().and_then(|laps| laps.parse().ok()).unwrap_or(1)
}

pub fn same<T: PartialEq + Debug>(got: T, want: T) -> Result {
    if got == want {
        Ok(())
    } else {
        Err(format!("got {:.80}, expected {:.80}", format!("{got:?}"), format!("{want:?}")).into())
    }
}

/// Fails the step unless the result is an error of that SQLSTATE (without one: any error).
pub fn raises<T, E: Display>(
    want: &str,
    result: std::result::Result<T, E>,
    state: impl Fn(&E) -> Option<String>,
) -> Result {
    match result {
        Ok(_) => Err(format!("no error, expected {want}").into()),
        Err(error) if want.is_empty() || state(&error).as_deref() == Some(want) => Ok(()),
        Err(error) => Err(format!("{error}, expected {want}").into()),
    }
}

/// Prints a step's result; true if it failed.
pub fn report(name: &str, result: Result) -> bool {
    let Err(error) = result else {
        println!("ok {name}");
        return false;
    };
    // The causes say more than the error itself.
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    println!("FAIL {name} {:.160}", text.split_whitespace().collect::<Vec<_>>().join(" "));
    true
}

/// Runs the named steps in turn on one connection, some times; after a failure the next step gets a new one.
#[macro_export]
macro_rules! run {
    ($opened:expr; $($step:ident)+) => {{
        let mut failed = false;
        for _ in 0..$crate::laps() {
            let mut connection = None;
            $(
                if connection.is_none() {
                    connection = Some($opened.await?);
                }
                let name = stringify!($step).trim_end_matches('_');
                if $crate::report(name, $step(connection.as_mut().expect("just opened")).await) {
                    failed = true;
                    connection = None;
                }
            )+
            drop(connection);
        }
        if failed { std::process::exit(1) }
        Ok(())
    }};
}
