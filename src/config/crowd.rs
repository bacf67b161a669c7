//! Whom a setting is about: clients of some users, databases, applications.
//!
//! Pure. `user=web database=shop, application='health*'`: a comma between alternatives, blanks between what must fit together.

use super::value::Parsed;

/// Somebody whom a setting may be about.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The role that it logged in as.
    pub user: &'a str,
    /// The database's entry.
    pub database: &'a str,
    /// What it calls itself.
    pub application: &'a str,
}

/// Each condition that is given must fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conditions {
    user: Option<String>,
    database: Option<String>,
    application: Option<String>,
}

impl Conditions {
    /// Reads `key=value` pairs; `None` if one is not such a pair, is there twice, or there is none.
    pub(super) fn read(pairs: &[String]) -> Option<Self> {
        let mut conditions = Self { user: None, database: None, application: None };
        for pair in pairs {
            let (key, value) = pair.split_once('=')?;
            let place = match key {
                "user" => &mut conditions.user,
                "database" => &mut conditions.database,
                "application" | "application_name" => &mut conditions.application,
                _ => return None,
            };
            let value = unquoted(value);
            if place.is_some() || value.is_empty() {
                return None;
            }
            *place = Some(value.to_owned());
        }
        (!pairs.is_empty()).then_some(conditions)
    }

    /// Whether all of them fit.
    pub(super) fn fit(&self, who: Who<'_>) -> bool {
        let fits = |pattern: &Option<String>, value| pattern.as_ref().is_none_or(|pattern| is_like(pattern, value));
        fits(&self.user, who.user) && fits(&self.database, who.database) && fits(&self.application, who.application)
    }
}

/// Some people; nobody by default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Crowd {
    any_of: Vec<Conditions>,
    text: String,
}

impl Crowd {
    /// Reads a comma list.
    fn read_list(text: &str) -> Option<Self> {
        let any_of = split(text, ',')?.iter().map(|one| Conditions::read(&split(one, ' ')?)).collect::<Option<_>>()?;
        Some(Self { any_of, text: text.trim().to_owned() })
    }

    /// Whether somebody belongs to it.
    #[must_use]
    pub fn has(&self, who: Who<'_>) -> bool {
        self.any_of.iter().any(|conditions| conditions.fit(who))
    }

    /// Whether it is nobody.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.any_of.is_empty()
    }
}

impl Parsed for Crowd {
    fn read(&mut self, text: &str) -> Result<(), &'static str> {
        *self = Self::read_list(text).ok_or("people like \"user=web database=shop, application='health*'\"")?;
        Ok(())
    }

    fn text(&self) -> String {
        self.text.clone()
    }
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(value)
}

/// Splits at a separator that is not in quotes; leaves out blank parts.
pub(super) fn split(text: &str, at: char) -> Option<Vec<String>> {
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
        return None;
    }
    Some(parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// Whether a value fits a pattern in which `*` is anything.
#[must_use]
pub fn is_like(pattern: &str, value: &str) -> bool {
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

    #[test]
    fn who_belongs_to_it() {
        let mut crowd = Crowd::default();
        let who = |user, database, application| Who { user, database, application };
        assert!(crowd.is_nobody() && !crowd.has(who("a", "b", "c")));
        crowd.read("user=web database=shop, application='health check*'").unwrap();
        for (user, database, application, belongs) in [
            ("web", "shop", "x", true),
            ("web", "other", "x", false),
            ("other", "other", "health check 7", true),
            ("other", "shop", "x", false),
        ] {
            assert_eq!(crowd.has(who(user, database, application)), belongs, "{user} {database} {application}");
        }
        for text in ["web", "user=", "user=a user=b", "host=a", "user='a", "user=a,web"] {
            assert!(crowd.read(text).is_err(), "{text}");
        }
        crowd.read("").unwrap();
        assert!(crowd.is_nobody());
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
            assert_eq!(is_like(pattern, value), fits, "{pattern} {value}");
        }
    }
}
