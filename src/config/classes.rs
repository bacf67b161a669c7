//! Role classes: who may be cut for a schema change, who must not be interrupted, and who does not count.
//!
//! Pure. The rules are read from one list in the configuration; the first rule that fits decides.

use super::crowd::{Conditions, Who, split};
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

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    class: Class,
    whom: Conditions,
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
        let rules = split(text, ',').ok_or(EXPECTED)?.iter().map(|rule| Rule::read(rule)).collect::<Result<_, _>>()?;
        Ok(Self { rules, text: text.trim().to_owned() })
    }

    /// The class of somebody; none where no rule fits.
    #[must_use]
    pub fn of(&self, who: Who<'_>) -> Option<Class> {
        self.rules.iter().find(|rule| rule.whom.fit(who)).map(|rule| rule.class)
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
        let words = split(text, ' ').ok_or(EXPECTED)?;
        let (first, conditions) = words.split_first().ok_or(EXPECTED)?;
        let class = WORDS.iter().find(|(word, _)| first.eq_ignore_ascii_case(word)).ok_or(EXPECTED)?.1;
        // A rule for everybody must be written as one: user=*.
        Ok(Self { class, whom: Conditions::read(conditions).ok_or(EXPECTED)? })
    }
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
}
