//! What the parts and whole transactions cost in instructions, counted by callgrind: the same on a busy machine as on a quiet
//! one, so that a few percent can be seen. `make instructions` compares with `benches/expected-instructions.txt` and fails if
//! anything has become dearer; `make instructions-write` writes that file. Both build it in the way that it must be built.

#[path = "../compare/backend.rs"]
mod backend;
mod counting;
mod expected;
#[expect(dead_code, reason = "the comparison uses the rest of it")]
#[path = "../compare/wire.rs"]
mod wire;
#[path = "../work/mod.rs"]
mod work;

use std::process::ExitCode;

use expected::Expected;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [counting::ROLE, name] => counting::play(name).map(|()| ExitCode::SUCCESS),
        ["--check"] => check(),
        ["--write"] => {
            let toolchain = expected::toolchain()?;
            Expected { toolchain, counts: counting::count_all()? }.write()?;
            Ok(ExitCode::SUCCESS)
        }
        [] => {
            counting::count_all()?.iter().for_each(|(name, count)| println!("{name:<24}{count:>10}"));
            Ok(ExitCode::SUCCESS)
        }
        _ => Err("--check, --write, or nothing: print the counts of this build".into()),
    }
}

/// Compares with what is expected, where that can be compared at all.
fn check() -> Result<ExitCode> {
    if !counting::is_possible() {
        println!("SKIPPED: instructions are counted with valgrind: apt-get install valgrind");
        return Ok(ExitCode::SUCCESS);
    }
    let (expected, toolchain) = (Expected::read()?, expected::toolchain()?);
    if toolchain != expected.toolchain {
        println!("SKIPPED: instructions are known for {}; this is {toolchain}", expected.toolchain);
        return Ok(ExitCode::SUCCESS);
    }
    let (table, good) = expected.compare(&counting::count_all()?);
    println!("{table}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
