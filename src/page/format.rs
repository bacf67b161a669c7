//! Figures for the eye.

/// Milliseconds, as exact as the eye needs.
pub(super) fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.2} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} d {} h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

/// Microseconds, as milliseconds where there are enough of them.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        _ => time(us / 1_000),
    }
}

/// A count with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            // A thin space that no line ends at.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// So many of something.
pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Bytes in a second.
pub(super) fn rate(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B/s"),
        1_000..1_000_000 => format!("{:.1} kB/s", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB/s", bytes as f64 / 1e6),
        _ => format!("{:.1} GB/s", bytes as f64 / 1e9),
    }
}

/// The moment of an RFC 3339 time without its fraction, for the eye.
pub(super) fn moment(rfc3339: &str) -> String {
    let whole = rfc3339.split('.').next().unwrap_or_default().trim_end_matches('Z');
    whole.replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_500, "1.50 s"),
            (61_000, "1 min 1 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(time(ms), text);
        }
        assert_eq!((micros(7).as_str(), micros(1_234).as_str(), micros(12_345).as_str()), ("7 µs", "1.2 ms", "12 ms"));
        assert_eq!((count(0).as_str(), count(1_234_567).as_str()), ("0", "1\u{202f}234\u{202f}567"));
        assert_eq!((counted(1, "client").as_str(), counted(0, "client").as_str()), ("1 client", "0 clients"));
        assert_eq!(
            (rate(9).as_str(), rate(1_500).as_str(), rate(2_500_000).as_str()),
            ("9 B/s", "1.5 kB/s", "2.5 MB/s")
        );
        assert_eq!(moment("2026-05-04T03:02:01.123Z"), "2026-05-04 03:02:01");
    }
}
