//! The terminal: how wide it is, whether there is one, and drawing in place.
//!
//! Writing never fails loudly: who closes our output (`| head`) wants no more of it, and the work goes on.

use std::io::{IsTerminal, Write};

use super::live::Style;
use super::table::UNLIMITED;

/// Width where nothing is known.
const USUAL: usize = 80;

/// Writes to standard output.
pub(crate) fn out(text: &str) {
    let mut to = std::io::stdout().lock();
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// Writes to standard error.
pub(crate) fn err(text: &str) {
    let mut to = std::io::stderr().lock();
    let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
}

/// Characters a line on standard output; no limit where it is not a terminal.
pub(crate) fn width_out() -> usize {
    if std::io::stdout().is_terminal() { width() } else { UNLIMITED }
}

/// Characters a line of the terminal: what `COLUMNS` says, or what the terminal says.
pub(crate) fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let asked = || crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns));
    said.or_else(asked).filter(|w| (20..10_000).contains(w)).unwrap_or(USUAL)
}

/// Whether bold, dim and colours are wanted: `NO_COLOR` is the usual way to say no.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Told apart on standard error, where that can be.
pub(crate) fn bold(text: &str) -> String {
    match View::choose(false) {
        View::Drawn(_, Style::Ansi) => format!("\x1b[1m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Redrawn in place, this wide.
    Drawn(usize, Style),
    /// One line an event.
    Lines,
}

impl View {
    /// Redrawn where standard error is a terminal that can do so, and nobody asked for plain lines.
    pub(crate) fn choose(plain: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|t| t == "dumb" || t.is_empty());
        if plain || dumb || !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        // One less than there is: a full last column makes some terminals wrap.
        Self::Drawn(width() - 1, if colours() { Style::Ansi } else { Style::Plain })
    }
}

/// Lines on standard error that replace the ones drawn before.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    drawn: usize,
}

impl Screen {
    /// Draws these lines over the last ones.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        err(&redraw(self.drawn, lines));
        self.drawn = lines.len();
    }

    /// Takes away what is drawn.
    pub(crate) fn clear(&mut self) {
        self.draw(&[]);
    }

    /// Writes a line that stays, above what is drawn.
    pub(crate) fn say(&mut self, line: &str) {
        self.draw(&[line.to_owned()]);
        self.drawn = 0;
    }
}

/// What replaces `before` lines by these.
fn redraw(before: usize, lines: &[String]) -> String {
    let mut text = if before > 0 { format!("\x1b[{before}A\r\x1b[J") } else { String::new() };
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_goes_back_over_what_was_drawn() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(redraw(0, &lines), "a\nb\n");
        assert_eq!(redraw(2, &lines), "\x1b[2A\r\x1b[Ja\nb\n");
    }
}
