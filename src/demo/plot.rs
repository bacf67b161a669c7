//! The timeline in letters: throughput as bars, the slowest answer as a line, the window marked between them.
//!
//! Readable at 80 columns, without colours, in any font that has block elements.

use super::observe::Bucket;

/// Characters left of the drawing: a label and the axis.
const MARGIN: usize = 9;
/// Rows of the throughput bars.
const ROWS: u64 = 6;
/// Bars in eighths of a character, empty first.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Rows of the latency line: where each starts, in microseconds, the slowest first.
const DECADES: [(u64, &str); 5] =
    [(10_000_000, "10 s"), (1_000_000, "1 s"), (100_000, "100 ms"), (10_000, "10 ms"), (1_000, "1 ms")];

/// A stretch of time that is marked below the bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The letter that marks it.
    pub(crate) letter: char,
    /// What the letter means.
    pub(crate) name: &'static str,
    /// From here, in milliseconds after the zero of the time axis.
    pub(crate) from_ms: i64,
    /// Up to here.
    pub(crate) to_ms: i64,
}

/// What is drawn.
#[derive(Debug)]
pub(crate) struct Timeline<'a> {
    /// One column each.
    pub(crate) buckets: &'a [Bucket],
    /// Milliseconds a column stands for.
    pub(crate) step_ms: u64,
    /// Where the first column starts, in milliseconds after the zero of the time axis.
    pub(crate) from_ms: i64,
    /// What is marked.
    pub(crate) marks: &'a [Mark],
}

/// How many columns of which length show this stretch in a terminal of this width: at least 100 ms each.
pub(crate) fn scale(stretch_ms: u64, width: usize) -> (u64, usize) {
    let columns = width.saturating_sub(MARGIN).max(1) as u64;
    let step_ms = stretch_ms.div_ceil(columns).div_ceil(100).max(1) * 100;
    (step_ms, usize::try_from(stretch_ms.div_ceil(step_ms)).unwrap_or(1))
}

/// The drawing, line by line.
pub(crate) fn draw(timeline: &Timeline<'_>) -> Vec<String> {
    let mut lines = vec![format!("transactions in each {} ms", timeline.step_ms)];
    lines.extend(bars(timeline.buckets));
    lines.push(marks(timeline));
    lines.push(legend(timeline.marks));
    lines.push("slowest answer".to_owned());
    lines.extend(line(timeline.buckets));
    lines.extend(axis(timeline));
    lines.into_iter().map(|l| l.trim_end().to_owned()).collect()
}

/// The count that fills a whole column, and whether some are higher: what was queued during a standstill is
/// caught up in a short peak, which must not flatten all the rest.
fn ceiling(buckets: &[Bucket]) -> (u64, bool) {
    let mut counts: Vec<u64> = buckets.iter().map(|b| b.count).filter(|c| *c > 0).collect();
    counts.sort_unstable();
    let usual = counts.get(counts.len() / 2).copied().unwrap_or(0);
    let highest = counts.last().copied().unwrap_or(0).max(1);
    let most = (usual * 5 / 2).max(1);
    (highest.min(most), highest > most)
}

fn bars(buckets: &[Bucket]) -> Vec<String> {
    let (top, is_cut) = ceiling(buckets);
    (0..ROWS)
        .rev()
        .map(|row| {
            let label = match row {
                r if r == ROWS - 1 => format!("{}{top}", if is_cut { ">" } else { "" }),
                0 => "0".to_owned(),
                _ => String::new(),
            };
            let cells = buckets.iter().map(|bucket| {
                // At least one eighth for what is not nothing, so that a trickle differs from a standstill.
                let eighths = (bucket.count * ROWS * 8 / top).max(u64::from(bucket.count > 0));
                EIGHTHS[usize::try_from(eighths.saturating_sub(row * 8).min(8)).unwrap_or(8)]
            });
            format!("{label:>7} │{}", String::from_iter(cells))
        })
        .collect()
}

fn line(buckets: &[Bucket]) -> Vec<String> {
    DECADES
        .iter()
        .enumerate()
        .map(|(row, (from, label))| {
            let above = row.checked_sub(1).map_or(u64::MAX, |r| DECADES[r].0);
            let last = row == DECADES.len() - 1;
            let cells = buckets.iter().map(|bucket| {
                let worst = bucket.worst_us;
                if bucket.count == 0 || worst >= above || (worst < *from && !last) {
                    ' '
                } else if worst < from * 2 {
                    '▁'
                } else if worst < from * 5 {
                    '━'
                } else {
                    '▔'
                }
            });
            format!("{label:>7} │{}", String::from_iter(cells))
        })
        .collect()
}

fn marks(timeline: &Timeline<'_>) -> String {
    let step = timeline.step_ms as i64;
    let cells = (0..timeline.buckets.len() as i64).map(|column| {
        let (from, to) = (timeline.from_ms + column * step, timeline.from_ms + (column + 1) * step);
        // The longest of those that touch this column; ties go to the first.
        let overlap = |m: &Mark| m.to_ms.min(to) - m.from_ms.max(from);
        let best = timeline.marks.iter().filter(|m| overlap(m) > 0).rev().max_by_key(|m| overlap(m));
        best.map_or('─', |m| m.letter)
    });
    format!("{:>7} ┼{}", "", String::from_iter(cells))
}

fn legend(marks: &[Mark]) -> String {
    let known: Vec<String> = marks
        .iter()
        .map(|m| format!("{} {} {} ms", m.letter, m.name, m.to_ms.saturating_sub(m.from_ms).max(0)))
        .collect();
    format!("{:>9}{}", "", known.join("   "))
}

/// The time axis: a label about every ten columns, at whole seconds.
fn axis(timeline: &Timeline<'_>) -> [String; 2] {
    let columns = timeline.buckets.len();
    let every_ms = (timeline.step_ms as i64 * 10).div_euclid(1000).max(1) * 1000;
    let mut ruler = vec!['─'; columns];
    let mut labels = vec![' '; columns];
    let mut at_ms = timeline.from_ms.div_euclid(every_ms) * every_ms;
    loop {
        let column = (at_ms - timeline.from_ms).div_euclid(timeline.step_ms as i64);
        let Ok(at) = usize::try_from(column) else {
            at_ms += every_ms;
            continue;
        };
        if at >= columns {
            break;
        }
        ruler[at] = '┴';
        let text = if at_ms == 0 { "0".to_owned() } else { format!("{:+} s", at_ms / 1000) };
        if at + text.len() <= columns {
            for (cell, c) in labels[at..].iter_mut().zip(text.chars()) {
                *cell = c;
            }
        }
        at_ms += every_ms;
    }
    [format!("{:>7} └{}", "", String::from_iter(ruler)), format!("{:>9}{}", "", String::from_iter(labels))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(list: &[(u64, u64)]) -> Vec<Bucket> {
        list.iter().map(|&(count, worst_us)| Bucket { count, worst_us }).collect()
    }

    #[test]
    fn a_timeline_as_it_is_seen() {
        let list = [(10, 2500), (10, 5000), (5, 900), (0, 0), (0, 0), (1, 2_100_000), (20, 250_000), (11, 10_000)];
        let marks = [
            Mark { letter: 'd', name: "drain", from_ms: 0, to_ms: 40 },
            Mark { letter: 'a', name: "apply", from_ms: 40, to_ms: 260 },
        ];
        let given = buckets(&list);
        let drawn = draw(&Timeline { buckets: &given, step_ms: 100, from_ms: -200, marks: &marks });
        let expect = "\
transactions in each 100 ms
     20 │      █
        │      █
        │      █▂
        │██    ██
        │██▄   ██
      0 │███  ▂██
        ┼──aaa───
         d drain 40 ms   a apply 220 ms
slowest answer
   10 s │
    1 s │     ━
 100 ms │      ━
  10 ms │       ▁
   1 ms │━▔▁
        └──┴─────
           0";
        assert_eq!(drawn.join("\n"), expect);
    }

    #[test]
    fn it_fits_into_80_columns_whatever_it_shows() {
        for stretch in [1, 100, 7_000, 7_199, 30_000, 90_000] {
            let (step_ms, columns) = scale(stretch, 80);
            assert!(step_ms % 100 == 0 && step_ms >= 100);
            assert!(step_ms * columns as u64 >= stretch);
            let given = vec![Bucket { count: 9_999_999, worst_us: 1 }; columns];
            for line in draw(&Timeline { buckets: &given, step_ms, from_ms: -2_000, marks: &[] }) {
                assert!(line.chars().count() <= 80, "{stretch}: {line}");
            }
        }
    }

    #[test]
    fn a_peak_is_cut_off_and_says_so() {
        let given = buckets(&[(10, 1), (10, 1), (10, 1), (500, 1)]);
        let drawn = draw(&Timeline { buckets: &given, step_ms: 100, from_ms: 0, marks: &[] });
        assert_eq!((drawn[1].as_str(), drawn[6].as_str()), ("    >25 │   █", "      0 │████"));
        assert_eq!(drawn[4], "        │▃▃▃█");
    }

    #[test]
    fn nothing_at_all_is_drawn_as_nothing() {
        let given = buckets(&[(0, 0); 30]);
        let drawn = draw(&Timeline { buckets: &given, step_ms: 100, from_ms: 0, marks: &[] });
        assert!(drawn.iter().take(7).all(|l| !l.contains('▁')));
        assert_eq!(draw(&Timeline { buckets: &[], step_ms: 100, from_ms: -100, marks: &[] }).len(), 17);
    }
}
