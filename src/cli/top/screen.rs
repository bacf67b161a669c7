//! The terminal while we have it: raw, its other screen, no cursor. Given back when this is dropped, and before a panic is told.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size};
use crossterm::{cursor, execute};

use super::state::Key;

/// Size where nothing is known.
const USUAL: (usize, usize) = (80, 24);

/// Ours, until it is dropped.
pub(super) struct Screen {
    /// Whether it is given back: a second time would move the cursor over what has been told since.
    back: Arc<AtomicBool>,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        let back = Arc::new(AtomicBool::new(false));
        let (before, told) = (std::panic::take_hook(), Arc::clone(&back));
        std::panic::set_hook(Box::new(move |panic| {
            give_back(&told);
            before(panic);
        }));
        enable_raw_mode()?;
        // From here on it is given back, whatever fails.
        let screen = Self { back };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        let known = size().ok().map(|(columns, rows)| (usize::from(columns), usize::from(rows)));
        known.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(USUAL)
    }

    /// Replaces what is there by these lines; in one piece, so that nothing flickers.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            text.push_str(if at > 0 { "\r\n" } else { "" });
            text.push_str(line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&self.back);
        // Ours would do no harm, but it is not wanted any more.
        if !std::thread::panicking() {
            drop(std::panic::take_hook());
        }
    }
}

fn give_back(done: &AtomicBool) {
    if done.swap(true, Ordering::Relaxed) {
        return;
    }
    let _ = execute!(io::stdout(), cursor::Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// The key that was pressed, if it means something.
pub(super) fn key(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(_) if key.modifiers.contains(KeyModifiers::CONTROL) => return None,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Tab => Key::Tab,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Back,
        _ => return None,
    })
}
