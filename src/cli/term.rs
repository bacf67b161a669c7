//! The terminal: how wide it is, whether there is one, and drawing in place.
//!
//! Writing never fails loudly: who closes our output (`| head`) wants no more of it, and the work goes on.

use std::io::{IsTerminal, Write};

use super::live::Style;
use super::table::{UNLIMITED, len};

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

/// Lines of the terminal, and characters in a line: asked anew for each frame, since a window can be made smaller.
fn room() -> (usize, usize) {
    let lines = crossterm::terminal::size().ok().map(|(_, lines)| usize::from(lines)).filter(|lines| *lines > 1);
    (lines.unwrap_or(usize::MAX), width())
}

/// Whether bold, dim and colours are wanted: `NO_COLOR` is the usual way to say no.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Told apart on standard error, where that can be.
pub(crate) fn bold(text: &str) -> String {
    match View::choose(false) {
        View::Drawn(Style::Ansi) => format!("\x1b[1m{text}\x1b[0m"),
        _ => text.to_owned(),
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Redrawn in place.
    Drawn(Style),
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
        Self::Drawn(if colours() { Style::Ansi } else { Style::Plain })
    }
}

/// Lines on standard error that replace the ones drawn before.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// How long the lines are that stand there.
    drawn: Vec<usize>,
}

impl Screen {
    /// Draws what `lines` makes for so many characters a line over what it drew last.
    pub(crate) fn draw(&mut self, lines: impl FnOnce(usize) -> Vec<String>) {
        let (height, width) = room();
        // One less than there is: a full last column makes some terminals wrap.
        let mut lines = lines(width - 1);
        // What has left the screen at its top can never be drawn over.
        lines.truncate(height - 1);
        err(&redraw(rows(&self.drawn, width), &lines));
        self.drawn = lines.iter().map(|line| shown(line)).collect();
    }

    /// Takes away what is drawn.
    pub(crate) fn clear(&mut self) {
        self.draw(|_| Vec::new());
    }

    /// Writes a line that stays, above what is drawn.
    pub(crate) fn say(&mut self, line: &str) {
        let (_, width) = room();
        err(&redraw(rows(&self.drawn, width), &[line.to_owned()]));
        self.drawn.clear();
    }
}

/// How many rows lines of these lengths take where the terminal breaks them.
fn rows(lengths: &[usize], width: usize) -> usize {
    lengths.iter().map(|length| length.div_ceil(width.max(1)).max(1)).sum()
}

/// How many columns a line takes, without what makes it bold or dim.
fn shown(line: &str) -> usize {
    let plain = ["\x1b[0m", "\x1b[1m", "\x1b[2m"].iter().fold(line.to_owned(), |line, code| line.replace(code, ""));
    len(&plain)
}

/// What replaces `before` rows by these lines.
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

    #[test]
    fn what_a_smaller_terminal_has_broken_is_drawn_over_too() {
        assert_eq!(rows(&[79, 40, 0], 80), 3);
        assert_eq!(rows(&[79, 40, 0], 40), 4);
        assert_eq!(rows(&[79, 41, 0], 40), 5);
        assert_eq!(shown("\x1b[2mdrain\x1b[0m \u{65e5}"), 8);
    }
}
