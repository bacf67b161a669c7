//! Frames and receipts, as they are seen.

use super::*;

fn status(pairs: &[(&str, &str)]) -> Status {
    let rows = pairs.iter().map(|(k, v)| vec![Some((*k).to_owned()), Some((*v).to_owned())]).collect();
    Status::from_rows(&Rows { columns: vec!["key".into(), "value".into()], rows, tag: String::new() })
}

const DRAINING: &[(&str, &str)] = &[
    ("id", "w-1"),
    ("database", "bench"),
    ("phase", "draining"),
    ("drain_limit_ms", "2000"),
    ("apply_limit_ms", "4000"),
    ("hold_limit_ms", "10000"),
    ("drain_ms", "500"),
    ("hold_ms", "500"),
    ("elapsed_ms", "520"),
    ("tenure_limit_ms", "25000"),
    ("tenure_left_ms", "20000"),
    ("held_now", "31"),
    ("held_peak", "32"),
    ("open_transactions", "2"),
    (
        "blockers",
        r#"[{"user":"app","application_name":"pg\u001b[2J","addr":"127.0.0.1","port":4711,"state":"active","age_ms":480,"statement":"UPDATE a"},
            {"user":"b"},{"user":"c"},{"user":"d"},{"user":"e"}]"#,
    ),
];

#[test]
fn a_frame_as_it_is_seen() {
    let expect = [
        "window w-1 on bench, 0.52 s",
        "  preflight > [draining] > holding > applying > healing > releasing",
        "  drain  ██████░░░░░░░░░░░░░░░░░░  0.50 s of 2.00 s",
        "  apply  ░░░░░░░░░░░░░░░░░░░░░░░░  0.00 s of 4.00 s",
        "  hold   ██░░░░░░░░░░░░░░░░░░░░░░  0.50 s of 10.0 s",
        "  tenure █████░░░░░░░░░░░░░░░░░░░  5.00 s of 25.0 s",
        "  held    31 now, 32 at most    open transactions 2",
        "  waits for app · pg\\u{1b}[2J · 127.0.0.1:4711 · active · 0.48 s · UPDATE a",
        "  waits for b",
        "  waits for c",
        "  and 2 more",
    ];
    assert_eq!(frame(&status(DRAINING), 80, Style::Plain), expect);
}

#[test]
fn every_frame_has_as_many_lines_and_none_is_too_wide() {
    let full = status(DRAINING);
    let aborting = status(&[("phase", "aborting"), ("drain_ms", "9000"), ("drain_limit_ms", "2000")]);
    for state in [&full, &aborting, &Status::default()] {
        for width in [10, 40, 79, 200] {
            let lines = frame(state, width, Style::Plain);
            assert_eq!(lines.len(), 11);
            assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}: {lines:#?}");
        }
    }
    assert!(frame(&aborting, 100, Style::Plain)[1].ends_with("> [aborting]"));
    assert!(frame(&aborting, 100, Style::Plain)[2].ends_with("over"));
}

#[test]
fn ansi_adds_only_bold_and_dim() {
    let plain = frame(&status(DRAINING), 80, Style::Plain).join("\n").replace(['[', ']'], "");
    let ansi = frame(&status(DRAINING), 80, Style::Ansi).join("\n");
    let bare = ansi.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "").replace('[', "");
    assert_eq!(bare, plain);
    assert!(ansi.contains("\x1b[1mdraining\x1b[0m"));
}

#[test]
fn nonsense_in_the_answer_is_shown_as_nothing() {
    let odd = status(&[("drain_ms", "soon"), ("blockers", "{"), ("apply_ms", "-3"), ("hold_ms", "NaN")]);
    assert_eq!((odd.number("drain_ms"), odd.number("apply_ms"), odd.number("hold_ms")), (None, None, None));
    assert_eq!(frame(&odd, 80, Style::Plain).len(), 11);
}

#[test]
fn a_window_is_shown_whole_without_json() {
    let preflight = r#"[{"check":"hours","verdict":"ok","subject":"","reason":"always"},
        {"check":"sessions","verdict":"refuse","subject":"app\u001b","reason":"beside"}]"#;
    let lines =
        whole(&status(&[("id", "w"), ("preflight", preflight), ("blockers", r#"[{"user":"a"}]"#), ("receipt", "{}")]));
    let lines: Vec<_> = lines.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let refused = ("", "refuse sessions (app\\u{1b}): beside");
    assert_eq!(lines, [("id", "w"), ("preflight", "ok hours: always"), refused, ("blockers", "waits for a")]);
}

#[test]
fn a_verdict_is_one_sentence() {
    let of = |pairs: &[(&str, &str)]| verdict(&status(pairs));
    assert_eq!(
        of(&[
            ("outcome", "applied"),
            ("elapsed_ms", "140"),
            ("held_total", "24"),
            ("stall_max_ms", "50"),
            ("cut", "0")
        ]),
        "applied in 140 ms: 24 requests were held, the longest for 50 ms, nobody was disconnected"
    );
    assert_eq!(
        of(&[("outcome", "applied"), ("elapsed_ms", "9")]),
        "applied in 9 ms: nobody had to wait, nobody was disconnected"
    );
    assert!(of(&[("outcome", "applied"), ("held_total", "1"), ("cut", "2")]).ends_with("2 cut, as the policy says"));
    assert!(of(&[("outcome", "already_applied")]).contains("nothing was done"));
}

#[test]
fn receipts() {
    let closed = status(&[
        ("id", "w-1"),
        ("outcome", "aborted"),
        ("reason", "drain: 1 transaction still open"),
        ("drain_ms", "2000"),
        ("drain_limit_ms", "2000"),
        ("stall_p50_ms", "1900"),
        ("stall_p99_ms", "2000"),
        ("stall_max_ms", "2001"),
        ("blockers", r#"[{"user":"app","age_ms":2100}]"#),
        ("receipt", ""),
    ]);
    let lines = receipt(&closed);
    let value = |key: &str| lines.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap();
    assert_eq!(value("drain"), "2.00 s of 2.00 s");
    assert_eq!(value("stall"), "1.90 s median, 2.00 s p99, 2.00 s longest");
    assert_eq!(value("blockers"), "waits for app · 2.10 s");
    assert_eq!(receipt_json(&closed)["drain_ms"], 2000);
    let own = status(&[("receipt", r#"{"outcome":"applied"}"#)]);
    assert_eq!(receipt_json(&own).to_string(), r#"{"outcome":"applied"}"#);
}

#[test]
fn where_there_is_little_room_the_figures_stay_and_the_bar_gives_way() {
    let lines = frame(&status(DRAINING), 39, Style::Plain);
    assert!(lines[2].ends_with("0.50 s of 2.00 s") && lines[2].contains('█'), "{}", lines[2]);
    assert!(lines[5].ends_with("5.00 s of 25.0 s"), "{}", lines[5]);
    assert!(frame(&status(DRAINING), 30, Style::Plain)[2].ends_with("0.50 s of 2.00 s"));
}
