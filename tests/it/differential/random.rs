//! Random scripts from a seed, and the smallest part of one that still differs.

use super::notation::{Script, Step, step};
use crate::support::rng::Rng;

/// Families of messages; a family that the list of expected differences names as `random:NAME` is left out.
pub(crate) const FAMILIES: [&str; 9] =
    ["simple", "unnamed", "unnamed_apart", "named", "sql_prepare", "set", "reset", "copy", "cursor"];

const QUERIES: &[&str] = &[
    "select 1",
    "select 'a', null, 2.5",
    "select * from wide",
    "select id, v from t order by id",
    "select count(*) from t",
    "select generate_series(1, 7)",
    "select repeat('x', 9000)",
    "values (1, 'a'), (2, 'b')",
    "select noisy(2)",
    "select fails('on purpose')",
    "select 1/0",
    "select nothing_such",
    "selec",
    "",
    ";",
    "-- only a comment",
    "select 1; select 2",
    "select 1; select 1/0; select 3",
    "insert into t values (50, 'new')",
    "insert into t values (1, 'twice')",
    "insert into t values (51, 'a'), (52, 'b') returning *",
    "update t set v = v || '!' where id < 3",
    "delete from t where id = 4 returning v",
    "select nextval('seq')",
    "insert into child values (9)",
    "insert into t values (60, 'x'); select 1/0",
    "begin; select 1; commit",
    "begin; insert into t values (61, 'x'); rollback",
    "explain (costs off) select * from t",
    "copy t to stdout",
    "copy (select 1/0) to stdout",
    "do $$begin raise notice 'done'; end$$",
    "vacuum t",
    "create table made(a int); drop table made",
];

const TRANSACTION: &[&str] = &[
    "begin",
    "begin read only",
    "commit",
    "rollback",
    "commit and chain",
    "rollback and chain",
    "savepoint a",
    "savepoint b",
    "release a",
    "rollback to a",
    "rollback to b",
    "end",
    "abort",
];

/// SQL with parameters, and how many.
const PARAMETERS: &[(&str, usize)] = &[
    ("select $1::int4 + 1", 1),
    ("select $1::text, $2::int4", 2),
    ("select id, v from t where id > $1 order by id", 1),
    ("insert into t values ($1, $2)", 2),
    ("select generate_series(1, $1::int4)", 1),
    ("select 10 / (id * 0 + $1::int4) from t where id = 1", 1),
    ("select", 0),
    ("", 0),
    ("select 1/0", 0),
    ("selec", 0),
    ("select * from wide", 0),
    ("select noisy($1)", 1),
    ("update t set v = $2 where id = $1", 2),
    ("begin", 0),
    ("commit", 0),
    ("rollback", 0),
    ("savepoint a", 0),
    ("rollback to a", 0),
    ("copy t to stdout", 0),
];

const SETTINGS: &[&str] = &[
    "set application_name = 'one'",
    "set application_name = 'two'",
    "set timezone = 'Asia/Tokyo'",
    "set timezone = 'nowhere'",
    "set datestyle = 'German'",
    "set intervalstyle = 'iso_8601'",
    "set local timezone = 'America/New_York'",
    "set session timezone = default",
    "reset timezone",
    "select set_config('TimeZone', 'Europe/Oslo', false)",
    "select set_config('application_name', 'three', true)",
    "show timezone",
    "show application_name",
    "show datestyle",
    "select timestamptz '2020-06-01 00:00+00', interval '1 day 2 hours'",
    "set client_encoding = 'LATIN1'",
    "select chr(233)",
    "reset client_encoding",
    "begin; set timezone = 'Asia/Tokyo'; rollback",
    "begin; set timezone = 'Asia/Tokyo'; commit; select 1/0",
];

const VALUES: &[&str] = &["1", "2", "0", "null", "7", "\"x\"", "\"\"", "x'00000005'", "99999999999"];

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[usize::try_from(rng.below(from.len() as u64)).unwrap()]
}

/// A random script of these families.
pub(crate) fn script(seed: u64, families: &[&str]) -> Script {
    let mut rng = Rng::new(seed);
    let mut lines = vec![];
    let steps = 2 + rng.below(9);
    let mut who = 'A';
    // A script is mostly about one or two things.
    let about = [pick(&mut rng, families), pick(&mut rng, families)];
    for _ in 0..steps {
        if rng.below(3) == 0 {
            who = if who == 'A' { 'B' } else { 'A' };
        }
        let family = if rng.below(8) == 0 { pick(&mut rng, families) } else { pick(&mut rng, &about) };
        lines.push(format!("{who}: {}", messages(&mut rng, family)));
    }
    let steps = lines.iter().map(|line| step(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    Script { name: format!("random_{seed}"), options: vec!["settle".to_owned()], steps }
}

fn messages(rng: &mut Rng, family: &str) -> String {
    match family {
        "simple" => (0..1 + rng.below(2)).map(|_| simple(rng)).collect::<Vec<_>>().join(" "),
        "set" => {
            let sql = pick(rng, SETTINGS);
            if rng.below(3) == 0 { format!("P \"{sql}\" B E S") } else { format!("Q \"{sql}\"") }
        }
        "reset" => {
            let sql = ["set application_name = 'x'", "reset application_name", "reset all", "discard all"];
            format!("Q \"{}\"", pick(rng, &sql))
        }
        "copy" => copy(rng),
        "cursor" => {
            let sql = [
                "declare c cursor for select generate_series(1, 9)",
                "fetch 2 from c",
                "fetch all from c",
                "move 1 from c",
                "close c",
                "begin",
                "commit",
            ];
            format!("Q \"{}\"", pick(rng, &sql))
        }
        "sql_prepare" => {
            let sql = [
                "prepare q1 as select 1",
                "prepare q1(int) as select $1 + 1",
                "execute q1",
                "execute q1(2)",
                "deallocate q1",
                "deallocate all",
                "discard all",
                "begin",
                "commit",
            ];
            format!("Q \"{}\"", pick(rng, &sql))
        }
        "unnamed" => extended(rng, &[""], true),
        "unnamed_apart" => extended(rng, &[""], false),
        _ => extended(rng, &["", "s1", "s2"], false),
    }
}

fn simple(rng: &mut Rng) -> String {
    let sql = if rng.below(3) == 0 { pick(rng, TRANSACTION) } else { pick(rng, QUERIES) };
    format!("Q \"{sql}\"")
}

fn bound(rng: &mut Rng, count: usize) -> String {
    // Now and then one too many.
    let count = count + usize::from(rng.below(25) == 0);
    let values: Vec<_> = (0..count).map(|_| pick(rng, VALUES)).collect();
    let formats = pick(rng, &["", "", "", " :b", " :t"]);
    format!("[{}]{formats}", values.join(" "))
}

/// A pipeline of the extended protocol. With `whole`, every Bind of a batch follows a Parse of the same batch.
fn extended(rng: &mut Rng, names: &[&str], whole: bool) -> String {
    let mut words: Vec<String> = vec![];
    for _ in 0..1 + rng.below(3) {
        let (mut sql, mut count) = pick(rng, PARAMETERS);
        if whole {
            words.push(format!("P \"{sql}\""));
        }
        let mut bound_here = false;
        for _ in 0..rng.below(6) {
            let name = pick(rng, names);
            let mut portal = pick(rng, &["", "", "p1"]);
            if !bound_here {
                // Postgres 15 crashes where the portal that a failed simple query has left is executed.
                portal = "p1";
            }
            words.push(match rng.below(12) {
                0..=2 => {
                    (sql, count) = pick(rng, PARAMETERS);
                    format!("P {name} \"{sql}\"")
                }
                3..=5 => {
                    bound_here = true;
                    format!("B /{name} {}", bound(rng, count))
                }
                6..=7 => format!("E {portal}"),
                8 => format!("E \"{portal}\" {}", 1 + rng.below(3)),
                9 => format!("DP {portal}"),
                10 if whole => format!("B p1/ {}", bound(rng, count)),
                10 => format!("DS {name}"),
                _ if whole => format!("CP {portal}"),
                _ => format!("{} {name}", pick(rng, &["CS", "CP"])),
            });
        }
        match rng.below(10) {
            0 => words.push("H".to_owned()),
            1 => words.push(simple(rng)),
            _ => words.push("S".to_owned()),
        }
    }
    words.join(" ")
}

fn copy(rng: &mut Rng) -> String {
    let data = ["70\\tone\\n", "71\\ttwo\\n", "1\\tagain\\n", "no number\\tx\\n", "72", "\\\\.\\n"];
    let mut words = vec![match rng.below(4) {
        0 => "P \"copy t from stdin\" B E".to_owned(),
        1 => "P \"copy t from stdin\" B E S".to_owned(),
        _ => "Q \"copy t from stdin\"".to_owned(),
    }];
    // Where a Sync stands amid data that fail, nobody can tell whether it is answered.
    let syncs = rng.below(4) == 0;
    for _ in 0..rng.below(4) {
        words.push(if syncs { "S".to_owned() } else { format!("d \"{}\"", pick(rng, &data)) });
    }
    words.push(pick(rng, &["c", "c", "c", "f \"gone\""]).to_owned());
    if rng.below(4) != 0 {
        words.push("S".to_owned());
    }
    words.join(" ")
}

/// Takes away steps, then messages, as long as what is left still `fails`.
pub(crate) fn shrink(script: &Script, mut fails: impl FnMut(&Script) -> bool) -> Script {
    let mut best = script.clone();
    loop {
        let before = best.steps.len() + best.steps.iter().map(|step| step.messages.len()).sum::<usize>();
        let mut size = best.steps.len().max(1);
        while size > 0 {
            let mut at = 0;
            while at < best.steps.len() {
                let mut less = best.clone();
                less.steps.drain(at..(at + size).min(best.steps.len()));
                if !less.steps.is_empty() && fails(&less) { best = less } else { at += size }
            }
            size /= 2;
        }
        for at in 0..best.steps.len() {
            let mut n = 0;
            while n < best.steps[at].messages.len() {
                let mut less = best.clone();
                drop_message(&mut less.steps[at], n);
                if fails(&less) { best = less } else { n += 1 }
            }
        }
        if best.steps.len() + best.steps.iter().map(|step| step.messages.len()).sum::<usize>() == before {
            return best;
        }
    }
}

fn drop_message(step: &mut Step, n: usize) {
    step.messages.remove(n);
}
