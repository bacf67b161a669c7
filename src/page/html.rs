//! HTML that is put together without a way around the escaping: text is only ever added through [`Html::text`] or an
//! attribute's value, and both are escaped; markup is only ever `&'static str`.

/// HTML in the making.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    pub(super) const fn new() -> Self {
        Self(String::new())
    }

    /// Markup of our own.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Something from anywhere, as text.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        escape(text, &mut self.0);
        self
    }

    /// What was put together elsewhere.
    pub(super) fn add(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// A drawing of [`super::timeline`], which escapes by itself.
    pub(super) fn drawing(&mut self, svg: &str) -> &mut Self {
        self.0.push_str(svg);
        self
    }

    /// `<name class="class">text</name>`
    pub(super) fn element(&mut self, name: &'static str, class: &'static str, text: &str) -> &mut Self {
        self.raw("<").raw(name);
        if !class.is_empty() {
            self.raw(" class=\"").raw(class).raw("\"");
        }
        self.raw(">").text(text).raw("</").raw(name).raw(">")
    }

    /// `<a href="folder/part">text</a>`, with the part as one part of a path.
    pub(super) fn link(&mut self, (folder, part, rest): (&'static str, &str, &'static str), text: &str) -> &mut Self {
        self.raw("<a href=\"").raw(folder).text(&encoded(part)).raw(rest).raw("\">").text(text).raw("</a>")
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            // Nothing that steers: control characters, and those that turn the direction of what follows.
            c if c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
                // No characters of XML, which a drawing is.
                || matches!(c, '\u{fffe}' | '\u{ffff}') =>
            {
                out.push('\u{fffd}');
            }
            c => out.push(c),
        }
    }
}

/// One part of a path: everything but letters, digits and `-._~` in per cent. Source: RFC 3986, 2.3.
fn encoded(part: &str) -> String {
    let keeps = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte: u8| if keeps(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    part.bytes().map(one).collect()
}

/// What [`encoded`] was made from; none where it is no text.
pub(super) fn decoded(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(part.len()), part.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A whole page: its title, how often it loads itself anew, what stands in it.
pub(super) fn page(title: &str, refresh: Option<&'static str>, body: &Html) -> String {
    let mut out = Html::new();
    out.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.raw("<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"robots\" content=\"noindex\">\n");
    if let Some(seconds) = refresh {
        out.raw("<meta http-equiv=\"refresh\" content=\"").raw(seconds).raw("\">\n");
    }
    out.element("title", "", title).raw("\n<style>").raw(super::STYLE).raw("</style>\n</head>\n<body>\n");
    out.add(body).raw("</body>\n</html>\n");
    out.finish()
}

/// How a column is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Text.
    Left,
    /// A number.
    Right,
}

/// A table that scrolls by itself where it is wider than the screen.
pub(super) struct Sheet {
    html: Html,
    sides: Vec<Side>,
}

impl Sheet {
    pub(super) fn new(heads: &[(&'static str, Side)]) -> Self {
        let mut html = Html::new();
        html.raw("<div class=\"sheet\" tabindex=\"0\"><table><thead><tr>");
        for (head, side) in heads {
            html.raw(if *side == Side::Right { "<th class=\"n\">" } else { "<th>" }).text(head).raw("</th>");
        }
        html.raw("</tr></thead><tbody>\n");
        Self { html, sides: heads.iter().map(|(_, side)| *side).collect() }
    }

    pub(super) fn row(&mut self, cells: &[Html]) {
        self.html.raw("<tr>");
        for (cell, side) in cells.iter().zip(&self.sides) {
            self.html.raw(if *side == Side::Right { "<td class=\"n\">" } else { "<td>" }).add(cell).raw("</td>");
        }
        self.html.raw("</tr>\n");
    }

    pub(super) fn finish(mut self) -> Html {
        self.html.raw("</tbody></table></div>\n");
        self.html
    }
}

/// Longer texts are broken: one long name must not push all other columns out of sight.
const CELL_MAX: usize = 32;

/// A cell with text.
pub(super) fn cell(text: &str) -> Html {
    let mut html = Html::new();
    if text.chars().count() > CELL_MAX {
        html.element("span", "long", text)
    } else {
        html.text(text)
    };
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text() {
        let mut html = Html::new();
        html.element("b", "x", "<script>alert('1')</script>&\"\u{0}\u{1b}\u{202e}é");
        let text = html.finish();
        assert_eq!(
            text,
            "<b class=\"x\">&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}\u{fffd}é</b>"
        );
    }

    #[test]
    fn a_long_name_is_broken() {
        assert_eq!(cell(&"x".repeat(32)).finish(), "x".repeat(32));
        assert_eq!(cell(&"é".repeat(33)).finish(), format!("<span class=\"long\">{}</span>", "é".repeat(33)));
    }

    #[test]
    fn a_part_of_a_path_stays_one_part() {
        for part in ["w-1", "a/b?c=d#e", "\"><script>", "é %", ""] {
            let there = encoded(part);
            assert!(there.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)), "{there}");
            assert_eq!(decoded(&there).as_deref(), Some(part));
        }
        assert_eq!(encoded("a:b"), "a%3Ab");
        for bad in ["%", "%f", "%zz", "%ff", "%+1"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
