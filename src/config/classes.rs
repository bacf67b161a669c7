//! Role classes: who may be cut for a schema change, who must not be interrupted, and who does not count.
//!
//! Pure. The rules are read from one list in the configuration; the first rule that fits decides.

use super::value::Parsed;

/// How somebody is treated who stands in a window's way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Does not count: preflight does not speak of it. A transaction of it is waited for like any other.
    Ignore,
    /// Must not be interrupted: while it has a transaction, no window starts, and it is never cut.
    Refuse,
    /// Is waited for, up to the bound, and never cut.
    Wait,
    /// Its statement may be cancelled.
    Cancel,
    /// It may be disconnected.
    Terminate,
}

/// What rules begin with.
const WORDS: [(&str, Class); 5] = [
    ("ignore", Class::Ignore),
    ("refuse", Class::Refuse),
    ("wait", Class::Wait),
    ("cancel", Class::Cancel),
    ("terminate", Class::Terminate),
];

/// What a rule looks like, for mistakes.
const EXPECTED: &str = "rules like \"ignore user=nagios\" or \"cancel application='night job*' database=bench\": \
    ignore, refuse, wait, cancel or terminate, then user, database or application";

impl Class {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Refuse => "refuse",
            Self::Wait => "wait",
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
        }
    }

    /// Whether it may be cut.
    #[must_use]
    pub const fn may_be_cut(self) -> bool {
        matches!(self, Self::Cancel | Self::Terminate)
    }
}

/// Somebody who is to be classed.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The role that it logged in as.
    pub user: &'a str,
    /// The database's entry.
    pub database: &'a str,
    /// What it calls itself.
    pub application: &'a str,
}

/// One rule: each condition that is given must fit.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    class: Class,
    user: Option<String>,
    database: Option<String>,
    application: Option<String>,
}

/// All rules, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Classes {
    rules: Vec<Rule>,
    text: String,
}

impl Classes {
    /// Reads a comma list of rules.
    ///
    /// # Errors
    /// What a rule looks like.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let rules = split(text, ',')?.iter().map(|rule| Rule::read(rule)).collect::<Result<_, _>>()?;
        Ok(Self { rules, text: text.trim().to_owned() })
    }

    /// The class of somebody; none where no rule fits.
    #[must_use]
    pub fn of(&self, who: Who<'_>) -> Option<Class> {
        self.rules.iter().find(|rule| rule.fits(who)).map(|rule| rule.class)
    }

    /// Whether any rule allows to cut somebody.
    #[must_use]
    pub fn may_cut(&self) -> bool {
        self.rules.iter().any(|rule| rule.class.may_be_cut())
    }
}

impl Parsed for Classes {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        *self = Self::read(text)?;
        Ok(())
    }

    fn text(&self) -> String {
        self.text.clone()
    }
}

impl Rule {
    fn read(text: &str) -> Result<Self, &'static str> {
        let words = split(text, ' ')?;
        let (first, conditions) = words.split_first().ok_or(EXPECTED)?;
        let class = WORDS.iter().find(|(word, _)| first.eq_ignore_ascii_case(word)).ok_or(EXPECTED)?.1;
        let mut rule = Self { class, user: None, database: None, application: None };
        for condition in conditions {
            let (key, value) = condition.split_once('=').ok_or(EXPECTED)?;
            let place = match key {
                "user" => &mut rule.user,
                "database" => &mut rule.database,
                "application" | "application_name" => &mut rule.application,
                _ => return Err(EXPECTED),
            };
            let value = unquoted(value);
            if place.is_some() || value.is_empty() {
                return Err(EXPECTED);
            }
            *place = Some(value.to_owned());
        }
        // A rule for everybody must be written as one: user=*.
        if conditions.is_empty() { Err(EXPECTED) } else { Ok(rule) }
    }

    fn fits(&self, who: Who<'_>) -> bool {
        let fits = |pattern: &Option<String>, value| pattern.as_ref().is_none_or(|pattern| like(pattern, value));
        fits(&self.user, who.user) && fits(&self.database, who.database) && fits(&self.application, who.application)
    }
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(value)
}

/// Splits at a separator that is not in quotes; leaves out blank parts.
fn split(text: &str, at: char) -> Result<Vec<String>, &'static str> {
    let (mut parts, mut part, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if c == at || (at == ' ' && c.is_whitespace()) => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    if quote.is_some() {
        return Err(EXPECTED);
    }
    Ok(parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// Whether a value fits a pattern in which `*` is anything.
fn like(pattern: &str, value: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == value };
    let Some(mut left) = value.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who<'a>(user: &'a str, database: &'a str, application: &'a str) -> Who<'a> {
        Who { user, database, application }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let text = "ignore user=nagios, refuse application='night job*' database=bench, wait user=report*,\
             terminate database=bench user=batch, cancel application=\"a, b\"";
        let classes = Classes::read(text).unwrap();
        for (user, database, application, expected) in [
            ("nagios", "bench", "x", Some(Class::Ignore)),
            ("app", "bench", "night job 7", Some(Class::Refuse)),
            ("app", "other", "night job 7", None),
            ("reporting", "other", "", Some(Class::Wait)),
            ("batch", "bench", "night jobs", Some(Class::Refuse)),
            ("batch", "bench", "", Some(Class::Terminate)),
            ("app", "", "a, b", Some(Class::Cancel)),
            ("app", "bench", "psql", None),
        ] {
            assert_eq!(classes.of(who(user, database, application)), expected, "{user} {database} {application}");
        }
        assert!(classes.may_cut());
        assert!(!Classes::read("ignore user=a, wait user=*").unwrap().may_cut());
        assert_eq!(Classes::read(&classes.text).unwrap(), classes, "what is shown can be read back");
        assert_eq!(Classes::read("").unwrap(), Classes::default());
    }

    #[test]
    fn mistakes() {
        for text in [
            "ignore",
            "shoot user=a",
            "ignore a",
            "ignore user=",
            "ignore user=''",
            "ignore user=a user=b",
            "ignore host=a",
            "ignore user='a",
        ] {
            assert!(Classes::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, value, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("*", "", true),
            ("a*b*c", "axxbyc", true),
            ("a*b*c", "axxc", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(like(pattern, value), fits, "{pattern} {value}");
        }
    }
}
