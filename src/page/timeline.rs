//! A receipt as a drawing: the phases, the clients held over time, the distribution of the stalls. SVG that stands alone.
//!
//! Pure: the JSON of a receipt goes in, text comes out. Whatever stands in the receipt is text in the drawing and nothing else.

use std::fmt::Write as _;

use serde::Deserialize;

use super::html::escape;

/// The size of the drawing, and where its parts are, in pixels.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 930.0;
const BAND: (f64, f64) = (96.0, 126.0);
const HELD: (f64, f64) = (160.0, 300.0);
const STALLS: (f64, f64) = (360.0, 470.0);

/// The colour of each phase; what is not here is grey.
const COLOURS: [(&str, &str); 10] = [
    ("preflight", "#9db4c0"),
    ("recording", "#7f96a3"),
    ("draining", "#e9c46a"),
    ("holding", "#f4a261"),
    ("applying", "#e76f51"),
    ("aborting", "#b23a48"),
    ("healing", "#6a994e"),
    ("releasing", "#a7c957"),
    ("recovered", "#5e60ce"),
    ("closed", "#dddddd"),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Receipt {
    id: String,
    databases: Vec<String>,
    form: String,
    owner: String,
    started_at: String,
    outcome: String,
    reason: String,
    elapsed_ms: u64,
    held_total: u64,
    held_peak: u64,
    stall_p50_ms: u64,
    stall_p99_ms: u64,
    stall_max_ms: u64,
    edges: Vec<Edge>,
    samples: Vec<Sample>,
    stalls: Vec<Bucket>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Edge {
    at_ms: u64,
    phase: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Sample {
    at_ms: u64,
    held: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bucket {
    up_to_ms: u64,
    count: u64,
}

/// The drawing of a receipt, as the console's JSON has it.
///
/// # Errors
/// If it is no receipt.
pub fn svg(receipt: &serde_json::Value) -> Result<String, serde_json::Error> {
    let receipt = Receipt::deserialize(receipt)?;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">"
    );
    let _ = writeln!(out, "<title>{}</title>", escaped(&format!("window {}", receipt.id)));
    let _ = writeln!(out, "<rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
    head(&receipt, &mut out);
    let last = receipt.edges.iter().map(|edge| edge.at_ms).chain(receipt.samples.iter().map(|sample| sample.at_ms));
    let scale = Scale { end: last.max().unwrap_or(0).max(receipt.elapsed_ms).max(1) };
    phases(&receipt, &scale, &mut out);
    held(&receipt, &scale, &mut out);
    stalls(&receipt, &mut out);
    out.push_str("</svg>\n");
    Ok(out)
}

/// From milliseconds after the start to pixels.
struct Scale {
    end: u64,
}

impl Scale {
    fn x(&self, at_ms: u64) -> f64 {
        LEFT + (RIGHT - LEFT) * (at_ms.min(self.end) as f64) / (self.end as f64)
    }
}

fn head(receipt: &Receipt, out: &mut String) {
    let title = format!("window {} on {}: {}", receipt.id, receipt.databases.join(", "), receipt.outcome);
    text(out, (LEFT, 30.0), "class=\"ink\" font-size=\"18\" font-weight=\"bold\"", &cut(&title, 90));
    let about = format!("{} by {}, started {}", receipt.form, receipt.owner, receipt.started_at);
    text(out, (LEFT, 52.0), "class=\"faint\" fill=\"#444444\"", &cut(&about, 130));
    text(out, (LEFT, 72.0), "class=\"bad\" fill=\"#b23a48\"", &cut(&receipt.reason, 130));
}

fn phases(receipt: &Receipt, scale: &Scale, out: &mut String) {
    let ends = receipt.edges.iter().skip(1).map(|edge| edge.at_ms).chain([scale.end]);
    for (edge, end) in receipt.edges.iter().zip(ends) {
        let (from, to) = (scale.x(edge.at_ms), scale.x(end));
        let colour = COLOURS.iter().find(|(phase, _)| *phase == edge.phase).map_or("#bbbbbb", |(_, colour)| colour);
        let (top, bottom) = BAND;
        let took = format!("{}: {} ms", edge.phase, end.saturating_sub(edge.at_ms));
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"><title>{}</title></rect>",
            (to - from).max(1.0),
            bottom - top,
            escaped(&took)
        );
        // Where there is room for it.
        if to - from > 7.0 * edge.phase.chars().count() as f64 {
            text(out, (from + 4.0, top + 19.0), "class=\"on\"", &edge.phase);
        }
    }
    let (top, bottom) = (BAND.1, HELD.1);
    for part in 0..=4_u64 {
        let at = scale.end / 4 * part + scale.end % 4 * part / 4;
        let x = scale.x(at);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" class=\"grid\" stroke=\"#e5e5e5\"/>"
        );
        text(out, (x, bottom + 16.0), "class=\"faint\" text-anchor=\"middle\" fill=\"#444444\"", &format!("{at} ms"));
    }
}

fn held(receipt: &Receipt, scale: &Scale, out: &mut String) {
    let (top, bottom) = HELD;
    let label = format!("clients held: {} at most, {} in all", receipt.held_peak, receipt.held_total);
    text(out, (LEFT, top - 8.0), "class=\"ink\"", &label);
    axis(out, bottom);
    let most = receipt.samples.iter().map(|sample| sample.held).max().unwrap_or(0).max(receipt.held_peak).max(1);
    text(out, (LEFT - 6.0, top + 10.0), "class=\"faint\" text-anchor=\"end\" fill=\"#444444\"", &most.to_string());
    let mut path = format!("M{:.1} {bottom:.1}", scale.x(receipt.samples.first().map_or(0, |sample| sample.at_ms)));
    for sample in &receipt.samples {
        let y = bottom - (bottom - top) * (sample.held as f64) / (most as f64);
        let _ = write!(path, " H{:.1} V{y:.1}", scale.x(sample.at_ms));
    }
    // Held until they are let go: samples tell of changes alone, and the last of them may be long before the end.
    if receipt.samples.last().is_some_and(|sample| sample.held > 0) {
        let let_go = ["releasing", "recovered", "closed"];
        let edge = receipt.edges.iter().find(|edge| let_go.contains(&edge.phase.as_str()));
        let _ = write!(path, " H{:.1}", scale.x(edge.map_or(scale.end, |edge| edge.at_ms).max(last_sample(receipt))));
    }
    let _ =
        writeln!(out, "<path d=\"{path} V{bottom:.1}\" fill=\"#457b9d\" fill-opacity=\"0.35\" stroke=\"#457b9d\"/>");
}

fn last_sample(receipt: &Receipt) -> u64 {
    receipt.samples.last().map_or(0, |sample| sample.at_ms)
}

fn stalls(receipt: &Receipt, out: &mut String) {
    let (top, bottom) = STALLS;
    let label = format!(
        "stalls: {} ms median, {} ms p99, {} ms longest",
        receipt.stall_p50_ms, receipt.stall_p99_ms, receipt.stall_max_ms
    );
    text(out, (LEFT, top - 12.0), "class=\"ink\"", &label);
    axis(out, bottom);
    let most = receipt.stalls.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    let width = (RIGHT - LEFT) / (receipt.stalls.len().max(1) as f64);
    for (at, bucket) in receipt.stalls.iter().enumerate() {
        let x = LEFT + width * (at as f64);
        let height = (bottom - top) * (bucket.count as f64) / (most as f64);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#2a9d8f\">\
             <title>{} up to {} ms</title></rect>",
            x + 1.0,
            bottom - height,
            (width.min(80.0) - 2.0).max(1.0),
            bucket.count,
            bucket.up_to_ms
        );
        if receipt.stalls.len() <= 20 || at % 4 == 0 {
            let place = (x + width.min(80.0) / 2.0, bottom + 16.0);
            text(
                out,
                place,
                "class=\"faint\" text-anchor=\"middle\" fill=\"#444444\"",
                &format!("\u{2264}{}", bucket.up_to_ms),
            );
        }
    }
}

fn axis(out: &mut String, y: f64) {
    let _ =
        writeln!(out, "<line x1=\"{LEFT}\" y1=\"{y}\" x2=\"{RIGHT}\" y2=\"{y}\" class=\"axis\" stroke=\"#444444\"/>");
}

fn text(out: &mut String, (x, y): (f64, f64), attributes: &str, content: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{}</text>", escaped(content));
}

fn cut(content: &str, most: usize) -> String {
    match content.char_indices().nth(most) {
        None => content.to_owned(),
        Some((end, _)) => format!("{}…", content.get(..end).unwrap_or_default()),
    }
}

/// As XML takes it.
fn escaped(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    escape(content, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn drawn(receipt: &serde_json::Value) -> String {
        svg(receipt).unwrap()
    }

    /// Every tag that is opened is closed, and nothing else looks like one.
    fn well_formed(svg: &str) {
        let mut open: Vec<String> = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            let end = rest[at..].find('>').map(|end| at + end).expect("a tag without an end");
            let tag = &rest[at + 1..end];
            rest = &rest[end + 1..];
            let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
            assert!(["svg", "title", "rect", "text", "line", "path"].contains(&name), "<{tag}>");
            if tag.starts_with('/') {
                assert_eq!(open.pop().as_deref(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name.to_owned());
            }
        }
        assert!(open.is_empty(), "{open:?}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_window_is_drawn() {
        let svg = drawn(&json!({
            "id": "w-1", "databases": ["shop"], "form": "apply", "owner": "boss", "outcome": "applied", "elapsed_ms": 1000,
            "held_peak": 8, "held_total": 9, "stall_max_ms": 700,
            "edges": [{"at_ms": 0, "phase": "preflight"}, {"at_ms": 100, "phase": "draining"}, {"at_ms": 300, "phase": "applying"},
                      {"at_ms": 900, "phase": "releasing"}, {"at_ms": 1000, "phase": "closed"}],
            "samples": [{"at_ms": 100, "held": 0}, {"at_ms": 150, "held": 8}, {"at_ms": 950, "held": 0}],
            "stalls": [{"up_to_ms": 300, "count": 1}, {"up_to_ms": 700, "count": 8}],
        }));
        well_formed(&svg);
        for part in
            ["window w-1 on shop: applied", "applying: 600 ms", "8 at most, 9 in all", "8 up to 700 ms", "1000 ms"]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }

    #[test]
    fn who_was_held_is_drawn_until_the_release_although_the_last_sample_is_older() {
        let receipt = |phase: &str| {
            drawn(&json!({
                "elapsed_ms": 1000, "held_peak": 2,
                "edges": [{"at_ms": 0, "phase": "draining"}, {"at_ms": 500, "phase": phase}, {"at_ms": 1000, "phase": "closed"}],
                "samples": [{"at_ms": 0, "held": 0}, {"at_ms": 100, "held": 2}],
            }))
        };
        // 70 to 930 are 0 to 1000 ms: up at 100 ms, and down when they are let go.
        assert!(receipt("releasing").contains("H156.0 V160.0 H500.0 V300.0\""), "{}", receipt("releasing"));
        assert!(receipt("aborting").contains("H156.0 V160.0 H930.0 V300.0\""), "{}", receipt("aborting"));
    }

    #[test]
    fn what_stands_in_a_receipt_is_text() {
        let evil = "</text><script>alert(1)</script>&\"'\u{0}\u{1b}\u{fffe}";
        let svg = drawn(&json!({
            "id": evil, "databases": [evil], "form": evil, "owner": evil, "outcome": evil, "reason": evil, "started_at": evil,
            "edges": [{"at_ms": 0, "phase": evil}, {"at_ms": 9, "phase": "closed"}],
        }));
        well_formed(&svg);
        assert!(svg.contains("&lt;script&gt;") && !svg.contains('\u{0}') && !svg.contains('\u{1b}'));
    }

    #[test]
    fn odd_receipts_are_drawn_too() {
        let most = u64::MAX;
        for receipt in [
            json!({}),
            json!({"edges": [{"at_ms": 5}], "samples": [{"at_ms": most, "held": most}], "stalls": [{"up_to_ms": most, "count": most}]}),
            json!({"edges": [{"at_ms": 9, "phase": "closed"}, {"at_ms": 3, "phase": "draining"}], "reason": "x".repeat(9000)}),
            json!({"unknown": {"to": "us"}, "samples": [], "elapsed_ms": 0}),
        ] {
            let svg = drawn(&receipt);
            well_formed(&svg);
            assert!(svg.len() < 20_000);
        }
        assert!(svg(&json!("no receipt")).is_err());
    }
}
