//! The same message scripts straight to Postgres and through the proxy: the answers must be equal, message for
//! message and byte for byte, but for what `allowed.rs` lists.
//!
//! Written scripts are in `tests/differential/scripts` (the README beside them has the notation), random ones come
//! from a seed. In transaction mode, with one server, two clients take turns: the server changes hands in between.
//!
//! `DIFF_ONLY=part` runs the written scripts whose name has this part, and prints what each got; `DIFF_COUNT` is the
//! number of random ones, `DIFF_SHOW` prints those that get stuck without a proxy; `IT_SEED` repeats a run.

mod allowed;
mod ground;
mod notation;
mod peer;
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use ground::{Difference, Ground, Outcome};
use notation::Script;
use peer::Slices;

use crate::support::postgres::Db;
use crate::support::rng::seed;
use crate::support::wait::ms;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

/// Every written script, by file and place.
fn written() -> Vec<Script> {
    let mut files: Vec<_> =
        fs::read_dir(folder().join("scripts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        notation::scripts(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files.iter().flat_map(read).collect()
}

/// `tests/differential/expected.txt`: the scripts (or families of random ones) that differ until something is built.
fn expected() -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder().join("expected.txt")).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, why) = line.split_once(' ').unwrap_or_else(|| panic!("no reason: {line}"));
            (name.to_owned(), why.trim().to_owned())
        })
        .collect()
}

fn explain(script: &Script, difference: &Difference) -> String {
    let Difference { who, at, direct, proxied } = difference;
    format!("{script}-- {who:?}'s answer {at}:\n   direct  {direct:?}\n   proxied {proxied:?}\n")
}

/// Runs scripts on grounds of their own, some at a time; what `each` says about them.
fn in_parallel<T: Send>(
    scripts: &[Script],
    ground: impl Fn() -> Ground + Sync,
    each: impl Fn(&mut Ground, &Script) -> Option<T> + Sync,
) -> Vec<T> {
    let next = Mutex::new(scripts.iter());
    let found = Mutex::new(vec![]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut ground = ground();
                while let Some(script) = { next.lock().unwrap().next() } {
                    if let Some(one) = each(&mut ground, script) {
                        found.lock().unwrap().push(one);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn plain_ground() -> Ground {
    Ground::new(1, |spec| spec)
}

/// The version of the server.
fn cluster_major() -> u32 {
    Db::new().one("SELECT current_setting('server_version_num')::int / 10000").parse().unwrap()
}

/// Runs every written script in slices of this size; complains about each surprise.
fn run_written(slices: Slices) {
    let only = std::env::var("DIFF_ONLY").ok();
    let expected = expected();
    let major: u32 = cluster_major();
    let from =
        |script: &Script| expected.keys().find_map(|name| name.strip_prefix(script.name.as_str())?.strip_prefix('@'));
    let here = |script: &Script| from(script).is_none_or(|from| major < from.parse::<u32>().unwrap());
    let fits = |script: &Script| here(script) && only.as_ref().is_none_or(|part| script.name.contains(part.as_str()));
    let (wide, narrow): (Vec<_>, Vec<_>) =
        written().into_iter().filter(fits).partition(|script| script.option("pool").is_some());
    let check = |ground: &mut Ground, script: &Script| {
        let known = expected.get(&script.name);
        ground.patience = if known.is_some() { 1 } else { 5 };
        let start = tokio::time::Instant::now();
        let outcome = ground.check(script, slices);
        if only.is_some() || start.elapsed() > ms(500) {
            println!("{:>5} ms {}", start.elapsed().as_millis(), script.name);
        }
        match (outcome, known) {
            (Outcome::Equal, None) | (Outcome::Differs(_), Some(_)) => None,
            (Outcome::Equal, Some(_)) => Some(format!("{}: differs no longer; take it from expected.txt", script.name)),
            (Outcome::Differs(difference), None) => Some(explain(script, &difference)),
            (Outcome::Wrong(why), _) => Some(format!("{script}-- the script itself is wrong: {why}\n")),
        }
    };
    let mut surprises = in_parallel(&narrow, plain_ground, check);
    if !wide.is_empty() {
        surprises.extend(in_parallel(&wide, || Ground::new(2, |spec| spec), check));
    }
    println!("{} written scripts, {} of them expected to differ", narrow.len() + wide.len(), expected.len());
    assert!(surprises.is_empty(), "{} surprises\n{}", surprises.len(), surprises.join("\n"));
}

#[test]
fn written_scripts() {
    run_written(Slices::Whole);
}

#[test]
fn written_scripts_in_small_slices() {
    run_written(Slices::Of(3));
}

/// Mixed batches, byte by byte, are what they are in one piece.
#[test]
fn b18_mixed_batches_are_answered_as_postgres_answers_them() {
    let (mut ground, expected, major) = (plain_ground(), expected(), cluster_major());
    let here = |script: &Script| major < 18 || !expected.contains_key(&format!("{}@18", script.name));
    let mixed = |script: &Script| script.name.starts_with("b18_") && here(script);
    let scripts: Vec<_> = written().into_iter().filter(mixed).collect();
    assert!(scripts.len() >= 4);
    for (script, slices) in scripts.iter().flat_map(|script| [(script, Slices::Whole), (script, Slices::Of(1))]) {
        match ground.check(script, slices) {
            Outcome::Equal => {}
            Outcome::Differs(difference) => panic!("{}", explain(script, &difference)),
            Outcome::Wrong(why) => panic!("{script}{why}"),
        }
    }
}

/// The names are unlike, there are enough of them, and the list of exceptions names nothing that is not there.
#[test]
fn the_written_scripts_are_in_order() {
    let scripts = written();
    let mut names: Vec<&str> = scripts.iter().map(|script| script.name.as_str()).collect();
    let count = names.len();
    names.sort_unstable();
    names.windows(2).for_each(|pair| assert_ne!(pair[0], pair[1], "two scripts of one name"));
    assert!(count >= 500, "only {count} scripts");
    for name in expected().keys() {
        let random = name.strip_prefix("random:").is_some_and(|family| random::FAMILIES.contains(&family));
        assert!(
            random || names.binary_search(&name.split('@').next().unwrap()).is_ok(),
            "expected.txt: no script {name}"
        );
    }
    for allowed in allowed::ALLOWED {
        assert!(!allowed.reason.is_empty(), "{}", allowed.name);
    }
    // What is printed can be read again.
    for script in &scripts {
        for step in &script.steps {
            assert_eq!(notation::step(&step.to_string()).as_ref(), Ok(step));
        }
    }
}

/// Random scripts from one seed; the first that differs is made as small as it can be.
#[test]
fn random_scripts() {
    let count: u64 = std::env::var("DIFF_COUNT").map_or(3000, |text| text.parse().unwrap());
    let seed = seed("random_scripts");
    let expected = expected();
    let families: Vec<&str> =
        random::FAMILIES.into_iter().filter(|name| !expected.contains_key(&format!("random:{name}"))).collect();
    let seeds: Vec<u64> = (0..count).map(|n| seed.wrapping_add(n.wrapping_mul(0x9e37_79b9))).collect();
    let mixing_fails = cluster_major() >= 18;
    let (next, found, wrong) = (Mutex::new(seeds.into_iter()), Mutex::new(vec![]), Mutex::new(0_u64));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut ground = plain_ground();
                ground.patience = 2;
                ground.mixing_fails = mixing_fails;
                while let Some(seed) = { next.lock().unwrap().next() } {
                    let script = random::script(seed, &families);
                    match ground.check(&script, Slices::Whole) {
                        Outcome::Equal => {}
                        Outcome::Wrong(why) if std::env::var_os("DIFF_SHOW").is_some() => println!("{script}{why}"),
                        Outcome::Wrong(_) => *wrong.lock().unwrap() += 1,
                        Outcome::Differs(difference) => {
                            found.lock().unwrap().push(smallest(&script, &difference));
                            if found.lock().unwrap().len() >= 4 {
                                return;
                            }
                        }
                    }
                }
            });
        }
    });
    let (found, wrong) = (found.into_inner().unwrap(), wrong.into_inner().unwrap());
    println!("{count} random scripts of {families:?}; {wrong} did not end by themselves");
    assert!(found.is_empty(), "IT_SEED={seed}\n{}", found.join("\n"));
    assert!(wrong * 20 <= count, "{wrong} of {count} scripts test nothing");
}

/// The smallest part of a script that differs on ground that no script was on before.
fn smallest(script: &Script, difference: &Difference) -> String {
    let mut ground = plain_ground();
    ground.patience = 1;
    ground.mixing_fails = cluster_major() >= 18;
    let mut last = None;
    let small = random::shrink(script, |part| match ground.check(part, Slices::Whole) {
        // Of the same kind: a part may differ in another way, which may be a known one.
        Outcome::Differs(smaller) if smaller.kind() == difference.kind() => {
            last = Some(smaller);
            true
        }
        _ => false,
    });
    match last {
        Some(difference) => explain(&small, &difference),
        None => format!("only after the scripts before it:\n{}", explain(script, difference)),
    }
}

/// The comparison's own sharpness: answers that are another's, in another order or incomplete are noticed.
#[test]
fn a_difference_is_noticed() {
    let mut ground = plain_ground();
    // What no proxy can make equal: the number of the server process, a clock, a name of the database.
    for sql in ["select pg_backend_pid()", "select clock_timestamp()", "select current_database()"] {
        let text = format!("== a\nA: Q \"select 1\"\nB: Q \"{sql}\"\n");
        let script = notation::scripts(&text).unwrap().remove(0);
        assert!(matches!(ground.check(&script, Slices::Whole), Outcome::Differs(_)), "{sql}");
    }
    let same = notation::scripts("== a\nA: Q \"select 1\"\n").unwrap().remove(0);
    assert!(matches!(ground.check(&same, Slices::Whole), Outcome::Equal));
    let endless = notation::scripts("== a\nA: P \"select 1\" B E S >Zs\n").unwrap().remove(0);
    ground.patience = 1;
    assert!(matches!(ground.check(&endless, Slices::Whole), Outcome::Wrong(_)));
}

/// A failing script is made small.
#[test]
fn a_script_is_shrunk_to_what_matters() {
    let text = "== a\nA: Q \"1\" Q \"2\"\nB: Q \"3\"\nA: Q \"4\" Q \"5\" Q \"6\"\nB: Q \"7\"\n";
    let script = notation::scripts(text).unwrap().remove(0);
    let small = random::shrink(&script, |part| {
        let text = part.to_string();
        text.contains("\"2\"") && text.contains("\"5\"")
    });
    assert_eq!(small.to_string(), "== a \nA: Q \"2\"\nA: Q \"5\"\n");
}
