//! The beginning of a client's last statement, for those who look for what keeps a drain from ending.

/// At most this many bytes are kept.
const KEPT: usize = 120;

/// The beginning of a statement. Passwords in it are never shown.
#[derive(Clone)]
pub struct Statement {
    length: u8,
    text: [u8; KEPT],
}

impl Default for Statement {
    fn default() -> Self {
        Self { length: 0, text: [0; KEPT] }
    }
}

impl Statement {
    /// The beginning of `text`.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        let mut statement = Self::default();
        statement.set(text);
        statement
    }

    /// Keeps the beginning of `text` instead, which ends at its first zero.
    pub fn set(&mut self, text: &[u8]) {
        let kept = text.get(..KEPT).unwrap_or(text);
        // Most texts have theirs where they end.
        let kept = kept.strip_suffix(&[0]).unwrap_or(kept);
        let kept = if kept.contains(&0) { kept.split(|&byte| byte == 0).next().unwrap_or_default() } else { kept };
        if let Some(slots) = self.text.get_mut(..kept.len()) {
            slots.copy_from_slice(kept);
        }
        self.length = u8::try_from(kept.len()).unwrap_or(u8::MAX);
    }

    /// As text of one line: control characters become spaces, and where the word "password" stands, all behind it is cut.
    #[must_use]
    pub fn show(&self) -> String {
        let kept = self.text.get(..usize::from(self.length)).unwrap_or_default();
        let mut text: String =
            String::from_utf8_lossy(kept).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Some(at) = text.to_ascii_lowercase().find("password") {
            text.truncate(at + "password".len());
            text.push_str(" [redacted]");
        }
        text
    }
}

impl std::fmt::Debug for Statement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_and_keeps_secrets() {
        let mut statement = Statement::default();
        let mut shows = |text: &[u8]| {
            statement.set(text);
            statement.show()
        };
        // Nothing of one that was longer is left.
        for (text, shown) in [
            ("select a_secret_thing from somewhere\0", "select a_secret_thing from somewhere"),
            ("select 1\0", "select 1"),
            ("select 2\0from somewhere\0", "select 2"),
            ("select\n\t1", "select  1"),
            ("alter role a PASSWORD 'x'", "alter role a PASSWORD [redacted]"),
            ("", ""),
        ] {
            assert_eq!(shows(text.as_bytes()), shown);
        }
        assert_eq!(shows(&[b'x'; 500]).len(), KEPT);
        assert!(shows("é".repeat(100).as_bytes()).starts_with('é'));
    }
}
