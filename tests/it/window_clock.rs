//! The wall clock moves by years while clients are held. The proxy runs with a wall clock of its own, of libfaketime.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::load::ACCOUNTS;
use crate::support::postgres::Db;
use crate::support::proxy::{Proxy, Spec};
use crate::support::wait::{eventually, let_run, ms, secs};

/// Where packages put it.
const FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib/faketime",
    "/usr/lib64/faketime",
    "/usr/local/lib/faketime",
];

/// What the proxy takes for the time of day; the monotonic clock is the machine's.
struct WallClock {
    library: PathBuf,
    dir: TempDir,
}

impl WallClock {
    fn find() -> Option<Self> {
        let library = FOLDERS.map(|folder| Path::new(folder).join("libfaketimeMT.so.1"));
        let library = library.into_iter().find(|file| file.exists())?;
        let clock = Self { library, dir: tempfile::tempdir().unwrap() };
        clock.set("+0d");
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("now")
    }

    /// So much is it ahead of the machine's from now on.
    fn set(&self, ahead: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, format!("{ahead}\n")).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn rule(&self, spec: Spec) -> Spec {
        let spec = spec.var("LD_PRELOAD", &self.library.to_string_lossy());
        let spec = spec.var("FAKETIME_TIMESTAMP_FILE", &self.file().to_string_lossy()).var("FAKETIME_NO_CACHE", "1");
        spec.var("DONT_FAKE_MONOTONIC", "1").var("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }
}

/// The year that the proxy's log has got to.
fn year(proxy: &Proxy) -> u32 {
    proxy.admin("SHOW VERSION");
    let log = proxy.log();
    log.lines().last().unwrap()[..4].parse().unwrap()
}

#[test]
fn w29_a_wall_clock_that_moves_by_years_moves_nothing_else() {
    let Some(clock) = WallClock::find() else {
        // Past the harness, which keeps what a test that passes has printed.
        let _ = writeln!(std::io::stderr(), "SKIPPED: w29 needs libfaketime (apt-get install faketime)");
        return;
    };
    let db = Db::with(ACCOUNTS);
    let proxy = clock.rule(Spec::of(&db).pool(3)).start();
    let now = year(&proxy);
    for (id, ahead) in [("w1", "+7300d"), ("w2", "-7300d"), ("w3", "+0d")] {
        let open = proxy.open(id, "hold='60s', tenure='30s'");
        let mut held = proxy.client().login();
        held.start("SELECT 'served'").unwrap();
        proxy.until_held(1);
        clock.set(ahead);
        let there = |year| {
            if id == "w1" {
                year > now + 10
            } else if id == "w2" {
                year < now - 10
            } else {
                year == now
            }
        };
        eventually("the proxy's clock is there", secs(10), || there(year(&proxy)));
        let_run(ms(300));
        let window = proxy.window(id);
        assert_eq!((window["phase"].as_str(), window["held_now"].as_str()), ("holding", "1"), "{window:?}");
        let left: u64 = window["tenure_left_ms"].parse().unwrap();
        assert!((10_000..=30_000).contains(&left), "{window:?}");
        proxy.admin(&format!("WINDOW RENEW {id} TOKEN '{}'", open["token"]));
        proxy.close(id, &open["token"]);
        assert_eq!(held.finish().unwrap().one(), "served");
        let window = proxy.closed(id);
        assert_eq!((window["outcome"].as_str(), window["released"].as_str()), ("applied", "1"), "{window:?}");
        for figure in ["hold_ms", "stall_max_ms", "elapsed_ms"] {
            let figure: u64 = window[figure].parse().unwrap();
            assert!((300..20_000).contains(&figure), "{window:?}");
        }
    }
    // Bounds are kept to: a hold ends at its own.
    let began = Instant::now();
    proxy.open("bound", "hold='2s', tenure='1500ms'");
    clock.set("+7300d");
    assert_eq!(proxy.closed("bound")["outcome"], "aborted");
    assert!((ms(800)..secs(4)).contains(&began.elapsed()), "{:?}", began.elapsed());
    // So does a change, whatever the time is when it ends.
    let mut window = proxy.apply("change", "", "ALTER TABLE accounts ADD COLUMN extra int; SELECT pg_sleep(0.5)");
    proxy.until_phase("change", "applying");
    clock.set("-7300d");
    assert_eq!(window.finish().unwrap().maps()[0]["outcome"], "applied");
    assert_eq!(proxy.closed("change")["outcome"], "applied");
    let windows = proxy.admin("SHOW WINDOWS").maps();
    let ids: Vec<_> = windows.iter().map(|row| row["id"].as_str()).collect();
    assert_eq!(ids, ["w1", "w2", "w3", "bound", "change"], "in the order in which they ran");
}
