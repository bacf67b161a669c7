//! The status page: what an operator sees with a browser and nothing else. Plain HTML from the server, nothing fetched,
//! nothing to be clicked but links.
//!
//! Pure: tables of text go in, a page comes out; [`timeline`] draws receipts for the command line too. Whatever stands in
//! those tables came from outside (names, addresses, SQL), so it reaches a page through `html` alone, which escapes it.

mod card;
mod format;
mod html;
mod overview;
mod receipt;
pub mod timeline;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use overview::{Overview, overview};
pub use receipt::{receipt, unknown};

/// How every page looks; it stands in the page.
const STYLE: &str = include_str!("style.css");

/// What a browser may do with the page: nothing but show it, in the one style that it brings along. Frames, forms, scripts
/// and everything fetched from elsewhere are refused even if something of the kind got into the page.
#[must_use]
pub fn policy() -> String {
    let digest = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// A table of text, as the console answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// The names of the columns.
    pub columns: Vec<&'static str>,
    /// The rows; NULL is empty.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    /// The value of a row under this name; empty where there is none.
    fn at<'a>(&self, row: &'a [String], column: &str) -> &'a str {
        let place = self.columns.iter().position(|name| *name == column);
        place.and_then(|place| row.get(place)).map_or("", String::as_str)
    }

    /// The same as a number.
    fn number(&self, row: &[String], column: &str) -> u64 {
        self.at(row, column).parse().unwrap_or_default()
    }
}

/// One window: the keys and values of `SHOW WINDOW id`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(pub Vec<(String, String)>);

impl Facts {
    /// The value of this key; empty where there is none.
    fn text(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    fn number(&self, key: &str) -> u64 {
        self.text(key).parse().unwrap_or_default()
    }

    /// A list that is written as JSON.
    fn list(&self, key: &str) -> Vec<serde_json::Value> {
        serde_json::from_str(self.text(key)).unwrap_or_default()
    }

    /// Its receipt, once it has one.
    fn receipt(&self) -> Option<serde_json::Value> {
        serde_json::from_str(self.text("receipt")).ok().filter(serde_json::Value::is_object)
    }
}

/// A field of a JSON object as text.
fn field(value: &serde_json::Value, key: &str) -> String {
    match value.get(key) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The id of a window, from the part of a path that stands for it.
#[must_use]
pub fn id_of(part: &str) -> Option<String> {
    html::decoded(part)
}

/// A drawing of a window's receipt, to be kept; none while it runs.
#[must_use]
pub fn drawing(facts: &Facts) -> Option<String> {
    timeline::svg(&facts.receipt()?).ok()
}

#[cfg(test)]
mod tests;
