//! Frames are looked at as lines of text.

use std::time::Duration;

use super::*;
use crate::cli::top::state::Key;

fn made(columns: &[&str], values: &[&[&str]]) -> Rows {
    Rows {
        columns: columns.iter().map(ToString::to_string).collect(),
        rows: values.iter().map(|row| row.iter().map(|value| Some((*value).to_owned())).collect()).collect(),
        tag: String::new(),
    }
}

fn data() -> Data {
    let pools = [
        "database",
        "user",
        "cl_active",
        "cl_waiting",
        "cl_held",
        "maxwait",
        "maxwait_us",
        "sv_active",
        "sv_idle",
        "pool_mode",
        "paused",
    ];
    let window = made(
        &["key", "value"],
        &[
            &["id", "w-1"],
            &["database", "shop"],
            &["phase", "draining"],
            &["drain_ms", "1500"],
            &["drain_limit_ms", "2000"],
            &["tenure_limit_ms", "25000"],
            &["tenure_left_ms", "20000"],
            &["held_now", "9"],
        ],
    );
    Data {
        version: "PgBouncer 1.25.2 (pglull 0.1.0)".into(),
        pools: made(
            &pools,
            &[
                &["billing", "app", "2", "0", "0", "0", "0", "2", "1", "transaction", "0"],
                &["shop", "app", "1", "12", "9", "1", "500000", "1", "7", "session", "1"],
            ],
        ),
        windows: made(
            &["id", "outcome", "phase", "reason"],
            &[&["old", "aborted", "closed", "\x1b[2Jx"], &["w-1", "", "draining", ""]],
        ),
        clients: made(&["id", "user"], &[["7", "a"], ["8", "b"], ["10", "c"]].each_ref().map(|row| &row[..])),
        running: vec![Status::from_rows(&window)],
        rates: [1234.5, 20_000.0, 2_500_000.0, 3.25],
        ..Data::default()
    }
}

fn state(view: TopView) -> State {
    State::new(view, None, Duration::from_secs(1))
}

fn drawn(looked: &Looked, state: &State, (width, height): (usize, usize)) -> Vec<String> {
    let lines = frame(looked, state, "/run/admin.sock", Paper { width, height, style: Style::Plain });
    assert_eq!(lines.len(), height);
    for line in &lines {
        assert!(line.chars().count() <= width, "{line}");
        assert!(!line.contains('\x1b'), "{line:?}");
    }
    lines
}

fn looked() -> Looked {
    Looked { data: Some(data()), trouble: None }
}

#[test]
fn a_frame_of_pools() {
    let lines = drawn(&looked(), &state(TopView::Pools), (80, 24));
    let text = lines.join("\n");
    for part in [
        "pglull 0.1.0 at /run/admin.sock, every 1 s",
        "clients 3  waiting 3  held 9  servers 3/11  1.2k tx/s  20.0k q/s  in 2.5MB/s",
        "window w-1 on shop: draining, 9 held, 0 open",
        "drain 1.50/2.00 s  apply 0.00 s  hold 0.00 s  tenure 20.0 s left",
        "[1 pools]  2 clients",
        "shop      app   shut        1        3     9   1.50 s        1     7",
        "q quit",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn every_view_fits_every_paper() {
    for (view, _) in VIEWS {
        for size in [(80, 24), (20, 5), (1, 1), (200, 50), (10, 3)] {
            drawn(&looked(), &state(view), size);
            drawn(&Looked::default(), &state(view), size);
            let mut helped = state(view);
            helped.key(Key::Char('?'));
            drawn(&looked(), &helped, size);
        }
    }
    // The least wanted columns go first.
    let narrow = drawn(&looked(), &state(TopView::Pools), (50, 24)).join("\n");
    assert!(!narrow.contains("mode") && narrow.contains("database") && narrow.contains("held"), "{narrow}");
}

#[test]
fn sorted_and_filtered() {
    let mut clients = state(TopView::Clients);
    clients.sort_by("id").unwrap();
    let lines = drawn(&looked(), &clients, (80, 24)).join("\n");
    let place = |id: &str| lines.find(&format!("\n{id} ")).unwrap();
    assert!(place("7") < place("8") && place("8") < place("10"), "as numbers:\n{lines}");
    clients.key(Key::Char('r'));
    let lines = drawn(&looked(), &clients, (80, 24)).join("\n");
    assert!(lines.find("\n10 ").unwrap() < lines.find("\n7 ").unwrap(), "{lines}");
    let pools = State::new(TopView::Pools, Some("bill".into()), Duration::from_secs(1));
    let lines = drawn(&looked(), &pools, (80, 24)).join("\n");
    assert!(lines.contains("\nbilling") && !lines.contains("\nshop ") && lines.contains("filter: bill"), "{lines}");
    let none = State::new(TopView::Pools, Some("xyz".into()), Duration::from_secs(1));
    assert!(drawn(&looked(), &none, (80, 24)).join("\n").contains("nothing with this text"));
    let windows = drawn(&looked(), &state(TopView::Windows), (80, 24)).join("\n");
    assert!(windows.find("\nw-1 ").unwrap() < windows.find("\nold ").unwrap(), "the last first:\n{windows}");
}

#[test]
fn trouble_is_said() {
    let lost = Looked { data: Some(data()), trouble: Some("nobody there\x1b[2J".into()) };
    let text = drawn(&lost, &state(TopView::Pools), (80, 24)).join("\n");
    assert!(text.contains("cannot connect, trying again (what follows is old): nobody there"), "{text}");
    let long = Looked {
        data: None,
        trouble: Some("no such file: is pglull running? name its socket with --socket PATH".into()),
    };
    let text = drawn(&long, &state(TopView::Pools), (40, 24)).join("\n");
    assert!(text.contains("again: no such\nfile: is pglull") && text.contains("\nwith --socket PATH"), "{text}");
    let never = Looked { data: None, trouble: Some("nobody there".into()) };
    assert!(drawn(&never, &state(TopView::Pools), (80, 24))[1].starts_with("cannot connect, trying again: nobody"));
}

#[test]
fn numbers_are_short() {
    for (number, text) in [
        (0.0, "0"),
        (3.25, "3.2"),
        (999.6, "1.0k"),
        (12_345.0, "12.3k"),
        (123_456.0, "123k"),
        (2.5e6, "2.5M"),
        (3e9, "3.0G"),
    ] {
        assert_eq!(short(number), text);
    }
}

#[test]
fn the_pool_in_trouble_stands_first() {
    let lines = drawn(&looked(), &state(TopView::Pools), (80, 24));
    let at = |name: &str| lines.iter().position(|line| line.starts_with(name)).unwrap();
    assert!(at("shop ") < at("billing "), "{lines:#?}");
    let mut by_name = state(TopView::Pools);
    by_name.key(Key::Char('s'));
    let lines = drawn(&looked(), &by_name, (80, 24));
    let at = |name: &str| lines.iter().position(|line| line.starts_with(name)).unwrap();
    assert!(at("billing ") < at("shop "), "{lines:#?}");
}
