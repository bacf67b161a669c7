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
    /// Keeps the beginning of `text`.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
        let kept = text.get(..KEPT).unwrap_or(text);
        let mut statement = Self::default();
        for (slot, byte) in statement.text.iter_mut().zip(kept) {
            *slot = *byte;
        }
        statement.length = u8::try_from(kept.len()).unwrap_or(u8::MAX);
        statement
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
        for (text, shown) in [
            ("select 1\0", "select 1"),
            ("select\n\t1", "select  1"),
            ("alter role a PASSWORD 'x'", "alter role a PASSWORD [redacted]"),
            ("", ""),
        ] {
            assert_eq!(Statement::new(text.as_bytes()).show(), shown);
        }
        assert_eq!(Statement::new(&[b'x'; 500]).show().len(), KEPT);
        assert!(Statement::new("é".repeat(100).as_bytes()).show().starts_with('é'));
    }
}
