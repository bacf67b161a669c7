//! What keys have come to: the view, its order, the filter, how far it is scrolled. Pure.

use std::time::Duration;

use super::views::{Column, columns};
use crate::cli::args::TopView;

/// A key that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    Left,
    Right,
    Tab,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Back,
    /// Ctrl-C: raw mode makes it a key.
    Interrupt,
}

/// What is to be done after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    Draw,
    /// Look now, for another view or at another pace.
    Look,
    Quit,
}

/// The views in the order of their keys.
pub(super) const VIEWS: [(TopView, &str); 4] = [
    (TopView::Pools, "pools"),
    (TopView::Clients, "clients"),
    (TopView::Servers, "servers"),
    (TopView::Windows, "windows"),
];

/// Lines that a page key moves by.
const PAGE: usize = 10;

/// The longest filter.
const FILTER_MAX: usize = 60;

/// How it is looked at.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) view: TopView,
    /// For each view: which column orders it, if any does, and whether the largest comes first.
    sorts: [(Option<usize>, bool); 4],
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) typing: bool,
    pub(super) scroll: usize,
    /// Whether the picture stands still.
    pub(super) still: bool,
    pub(super) help: bool,
    pub(super) every: Duration,
}

impl State {
    pub(super) fn new(view: TopView, filter: Option<String>, every: Duration) -> Self {
        let filter = filter.unwrap_or_default().chars().take(FILTER_MAX).collect();
        Self { view, sorts: [(None, true); 4], filter, typing: false, scroll: 0, still: false, help: false, every }
    }

    fn place(&self) -> usize {
        VIEWS.iter().position(|(view, _)| *view == self.view).unwrap_or_default()
    }

    /// The column that orders the view, and whether the largest comes first.
    pub(super) fn sort(&self) -> (Option<&'static Column>, bool) {
        let (column, descending) = self.sorts.get(self.place()).copied().unwrap_or_default();
        (column.and_then(|at| columns(self.view).get(at)), descending)
    }

    /// Orders the view by this column, by the name in its head or the console's.
    ///
    /// # Errors
    /// The names that there are.
    pub(super) fn sort_by(&mut self, name: &str) -> Result<(), Vec<&'static str>> {
        let all = columns(self.view);
        let found = all.iter().position(|column| column.title == name || column.keys.contains(&name));
        let found = found.ok_or_else(|| all.iter().map(|column| column.title).collect::<Vec<_>>())?;
        self.set_sort(|sort| *sort = (Some(found), all.get(found).is_some_and(Column::is_number)));
        Ok(())
    }

    fn set_sort(&mut self, change: impl FnOnce(&mut (Option<usize>, bool))) {
        let place = self.place();
        if let Some(sort) = self.sorts.get_mut(place) {
            change(sort);
        }
    }

    /// The next column, or the one before.
    fn move_sort(&mut self, forward: bool) {
        let all = columns(self.view);
        let count = all.len();
        self.set_sort(|(column, descending)| {
            let at = match (*column, forward) {
                (None, true) => 0,
                (None, false) => count - 1,
                (Some(at), true) => (at + 1) % count,
                (Some(at), false) => (at + count - 1) % count,
            };
            (*column, *descending) = (Some(at), all.get(at).is_some_and(Column::is_number));
        });
    }

    fn show(&mut self, view: TopView) -> Next {
        (self.view, self.scroll) = (view, 0);
        Next::Look
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Next {
        if key == Key::Interrupt {
            return Next::Quit;
        }
        if self.typing {
            return self.typed(key);
        }
        match key {
            Key::Char('q') => return Next::Quit,
            Key::Char(digit @ '1'..='4') => {
                let at = digit.to_digit(10).map_or(0, |digit| digit as usize - 1);
                return VIEWS.get(at).map_or(Next::Nothing, |(view, _)| self.show(*view));
            }
            Key::Tab => {
                let next = (self.place() + 1) % VIEWS.len();
                return VIEWS.get(next).map_or(Next::Nothing, |(view, _)| self.show(*view));
            }
            Key::Char('s' | '>') | Key::Right => self.move_sort(true),
            Key::Char('S' | '<') | Key::Left => self.move_sort(false),
            Key::Char('r') => self.set_sort(|(_, descending)| *descending = !*descending),
            Key::Char('u') => self.set_sort(|sort| *sort = (None, true)),
            Key::Char('/') => (self.typing, self.scroll) = (true, 0),
            Key::Char('+') => return self.pace(self.every / 2),
            Key::Char('-') => return self.pace(self.every * 2),
            Key::Char(' ' | 'p') => self.still = !self.still,
            Key::Char('?' | 'h') => self.help = !self.help,
            Key::Escape if self.help => self.help = false,
            Key::Escape => (self.filter, self.scroll) = (String::new(), 0),
            Key::Up | Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            Key::Down | Key::Char('j') => self.scroll = self.scroll.saturating_add(1),
            Key::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            Key::PageDown => self.scroll = self.scroll.saturating_add(PAGE),
            Key::Home => self.scroll = 0,
            Key::End => self.scroll = usize::MAX,
            _ => return Next::Nothing,
        }
        Next::Draw
    }

    fn pace(&mut self, every: Duration) -> Next {
        self.every = every.clamp(Duration::from_millis(125), Duration::from_secs(60));
        Next::Look
    }

    fn typed(&mut self, key: Key) -> Next {
        match key {
            Key::Char(c) if self.filter.chars().count() < FILTER_MAX => self.filter.push(c),
            Key::Back => drop(self.filter.pop()),
            Key::Enter => self.typing = false,
            Key::Escape => (self.typing, self.filter) = (false, String::new()),
            _ => return Next::Nothing,
        }
        Next::Draw
    }

    /// As far as there is something to see.
    pub(super) fn scrolled(&self, rows: usize, room: usize) -> usize {
        self.scroll.min(rows.saturating_sub(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new(TopView::Pools, None, Duration::from_secs(1))
    }

    #[test]
    fn keys_choose_a_view_and_an_order() {
        let mut state = state();
        assert_eq!(state.key(Key::Char('2')), Next::Look);
        assert_eq!(state.view, TopView::Clients);
        assert_eq!(state.key(Key::Tab), Next::Look);
        assert_eq!(state.view, TopView::Servers);
        assert!(state.sort().0.is_none());
        state.key(Key::Char('s'));
        assert_eq!(state.sort().0.unwrap().title, columns(TopView::Servers)[0].title);
        let before = state.sort().1;
        state.key(Key::Char('r'));
        assert_eq!(state.sort().1, !before);
        state.key(Key::Char('S'));
        assert_eq!(state.sort().0.unwrap().title, columns(TopView::Servers).last().unwrap().title);
        // Each view keeps its own.
        state.key(Key::Char('1'));
        assert!(state.sort().0.is_none());
        assert_eq!(state.sort_by("held"), Ok(()));
        assert_eq!(state.sort().0.unwrap().title, "held");
        assert!(state.sort().1, "the largest number first");
        assert!(state.sort_by("colour").unwrap_err().contains(&"database"));
        state.key(Key::Char('u'));
        assert!(state.sort().0.is_none());
    }

    #[test]
    fn a_filter_is_typed() {
        let mut state = state();
        for key in [Key::Char('/'), Key::Char('q'), Key::Char('1'), Key::Char('x'), Key::Back, Key::Enter] {
            assert_eq!(state.key(key), Next::Draw);
        }
        assert_eq!((state.filter.as_str(), state.typing, state.view), ("q1", false, TopView::Pools));
        state.key(Key::Escape);
        assert_eq!(state.filter, "");
        state.key(Key::Char('/'));
        assert_eq!(state.key(Key::Interrupt), Next::Quit, "while it is typed, too");
        for _ in 0..500 {
            state.key(Key::Char('a'));
        }
        assert_eq!(state.filter.len(), FILTER_MAX);
    }

    #[test]
    fn keys_scroll_and_end() {
        let mut state = state();
        state.key(Key::End);
        assert_eq!((state.scrolled(50, 20), state.scrolled(5, 20)), (30, 0));
        state.key(Key::Home);
        state.key(Key::PageDown);
        state.key(Key::Up);
        assert_eq!(state.scrolled(50, 20), 9);
        assert_eq!(state.key(Key::Char('z')), Next::Nothing);
        assert_eq!(state.key(Key::Char('q')), Next::Quit);
        for _ in 0..20 {
            state.key(Key::Char('+'));
        }
        assert_eq!(state.every, Duration::from_millis(125));
    }
}
