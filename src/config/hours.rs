//! When windows may be started: days and times of the week, in UTC.
//!
//! Pure: the time is an argument, in seconds since 1970-01-01 UTC.

use super::value::Parsed;
use std::time::Duration;

/// What it looks like, for mistakes.
const EXPECTED: &str =
    "days and times in UTC, like \"Mon-Fri 02:00,10:00,18:00-18:30 UTC\" (a time alone lasts 30 minutes)";
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u64 = 24 * 60;
const WEEK: u64 = 7 * DAY;
/// How many minutes a time lasts that is given without its end.
const ALONE: u64 = 30;

/// When windows may be started; none given is always.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Hours {
    /// Minutes of the week from Monday 00:00: the first one, and how many. One may go on over the end of the week.
    slots: Vec<(u64, u64)>,
    text: String,
}

impl Hours {
    /// Reads `Mon-Fri 02:00,10:00-10:30 UTC`; other days may follow. Times without days are every day's.
    ///
    /// # Errors
    /// What it looks like.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let (mut slots, mut days, mut timed) = (Vec::new(), Vec::new(), true);
        for word in text.split([',', ';', ' ', '\t', '\n']).filter(|word| !word.is_empty()) {
            if word.eq_ignore_ascii_case("utc") {
                continue;
            }
            if word.starts_with(|c: char| c.is_ascii_digit()) {
                let (start, minutes) = time(word)?;
                let of_days = if days.is_empty() { (0..7).collect() } else { days.clone() };
                slots.extend(of_days.iter().map(|day| (day * DAY + start, minutes)));
                timed = true;
            } else {
                if std::mem::take(&mut timed) {
                    days.clear();
                }
                days.extend(day_range(word)?);
            }
        }
        // Days without a time.
        if timed { Ok(Self { slots, text: text.trim().to_owned() }) } else { Err(EXPECTED) }
    }

    /// Whether a window may start now.
    #[must_use]
    pub fn allow(&self, unix_seconds: u64) -> bool {
        self.until(unix_seconds).is_zero()
    }

    /// How long it is until a window may start; zero if it may now.
    #[must_use]
    pub fn until(&self, unix_seconds: u64) -> Duration {
        // 1970-01-01 was a Thursday.
        let now = (unix_seconds / 60 + 3 * DAY) % WEEK;
        let wait = |(start, minutes): &(u64, u64)| {
            let since = (now + WEEK - start) % WEEK;
            if since < *minutes { Duration::ZERO } else { Duration::from_secs((WEEK - since) * 60 - unix_seconds % 60) }
        };
        self.slots.iter().map(wait).min().unwrap_or_default()
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Parsed for Hours {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        *self = Self::read(text)?;
        Ok(())
    }

    fn text(&self) -> String {
        self.text.clone()
    }
}

/// `Mon` or `Mon-Fri`, also over the end of the week.
fn day_range(word: &str) -> Result<Vec<u64>, &'static str> {
    let day = |name: &str| (0_u64..).zip(DAYS).find(|(_, day)| name.eq_ignore_ascii_case(day)).map(|(ix, _)| ix);
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let (first, last) = (day(first).ok_or(EXPECTED)?, day(last).ok_or(EXPECTED)?);
    Ok((0..=(last + 7 - first) % 7).map(|n| (first + n) % 7).collect())
}

/// `02:00` or `02:00-02:30`, also over midnight: its first minute and how many.
fn time(word: &str) -> Result<(u64, u64), &'static str> {
    let minute = |text: &str| {
        let (hours, minutes) = text.split_once(':').ok_or(EXPECTED)?;
        let number = |text: &str, most| {
            let fits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u64>().ok().filter(|n| fits && *n <= most).ok_or(EXPECTED)
        };
        let (hours, minutes) = (number(hours, 24)?, number(minutes, 59)?);
        Some(hours * 60 + minutes).filter(|minute| *minute <= DAY).ok_or(EXPECTED)
    };
    let Some((from, to)) = word.split_once('-') else { return Ok((minute(word)? % DAY, ALONE)) };
    let (from, to) = (minute(from)? % DAY, minute(to)?);
    let minutes = (to + DAY - from) % DAY;
    Ok((from, if minutes == 0 { DAY } else { minutes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday, 2026-11-23, 00:00 UTC.
    const MONDAY: u64 = 1_795_392_000;

    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        MONDAY + ((day * 24 + hour) * 60 + minute) * 60
    }

    #[test]
    fn days_and_times() {
        let office = "Mon-Fri 02:00,10:00,18:00 UTC";
        for (text, when, wait_minutes) in [
            ("", at(6, 3, 0), 0),
            (office, at(0, 2, 0), 0),
            (office, at(4, 18, 29), 0),
            (office, at(0, 2, 30), 450),
            (office, at(4, 18, 30), 3330),
            (office, at(5, 10, 10), 2390),
            ("sat 22:00-02:00", at(5, 23, 0), 0),
            ("sat 22:00-02:00", at(6, 1, 59), 0),
            ("sat 22:00-02:00", at(6, 2, 0), 9840),
            ("sun 23:45", at(0, 0, 10), 0),
            ("04:00-05:00", at(3, 4, 59), 0),
            ("fri-mon 00:00-24:00", at(0, 12, 0), 0),
            ("fri-mon 00:00-24:00", at(1, 0, 0), 4320),
            ("mon,wed 01:00; sun 02:00", at(2, 1, 5), 0),
            ("mon,wed 01:00; sun 02:00", at(6, 2, 5), 0),
            ("mon,wed 01:00; sun 02:00", at(0, 2, 5), 2815),
        ] {
            let hours = Hours::read(text).unwrap();
            assert_eq!(hours.until(when), Duration::from_secs(wait_minutes * 60), "{text} {when}");
            assert_eq!(hours.allow(when), wait_minutes == 0, "{text}");
            assert_eq!(hours.as_str(), text);
        }
        assert_eq!(Hours::read("mon 00:01").unwrap().until(MONDAY + 1), Duration::from_secs(59));
    }

    #[test]
    fn mistakes() {
        for text in ["Mon", "Mon-Foo 02:00", "02", "25:00", "02:60", "02:00 CET", "Mon 02:00-", "24:01", "02:00,Tue"] {
            assert!(Hours::read(text).is_err(), "{text}");
        }
    }
}
