//! Settings that Postgres reports (ParameterStatus), and those that follow a client from server to server.
//!
//! A client's values are adopted from what the server itself reports, never compared as the client wrote them:
//! otherwise 'utf-8' against `UTF8` would cost a `set_config` at every transaction (PgBouncer#776, #879).

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};

/// Settings that a client may choose and that are carried along when it changes servers. All are reported by
/// every supported Postgres, so that changes are seen without reading any SQL.
pub const TRACKED: [&str; 6] =
    ["client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Those of them by which Postgres reads the literals of a statement.
const READING: [&str; 5] = ["client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "standard_conforming_strings"];

/// The key of all marks: nobody can choose values that collide.
static KEY: OnceLock<RandomState> = OnceLock::new();

/// The name under which a tracked setting is known, whatever the case that it was written in.
#[must_use]
pub fn tracked(name: &[u8]) -> Option<&'static str> {
    TRACKED.into_iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Names and values, in the order of their first report.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    all: Vec<(Bytes, Bytes)>,
    /// Which tracked names there are and what their values are, in one number: two that are equal in it agree. Kept up to date
    /// at each change, of which there are few; compared at each transaction.
    mark: u64,
    /// The same of those by which literals are read.
    reading: u64,
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Parameters {}

impl Parameters {
    /// The value of a setting.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&Bytes> {
        self.all.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Notes several that are not known yet, without copying them.
    pub fn share(&mut self, parameters: impl Iterator<Item = (&'static str, Bytes)>) {
        self.all.extend(parameters.map(|(name, value)| (Bytes::from_static(name.as_bytes()), value)));
        self.all.shrink_to_fit();
        self.remark();
    }

    /// Notes a value.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        match self.all.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) if known == value => return,
            // A copy of its own: a slice of the read buffer would keep all of that alive.
            Some((_, known)) => *known = Bytes::copy_from_slice(value),
            None => self.all.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))),
        }
        if TRACKED.iter().any(|known| known.as_bytes() == name) {
            self.remark();
        }
    }

    fn remark(&mut self) {
        self.mark = self.mark_of(&TRACKED);
        self.reading = self.mark_of(&READING);
    }

    fn mark_of(&self, names: &[&str]) -> u64 {
        marked(names.iter().map(|name| self.value(name.as_bytes())))
    }

    /// By which settings literals are read, in one number.
    #[must_use]
    pub const fn reading(&self) -> u64 {
        self.reading
    }

    /// Notes the body of a ParameterStatus. Returns false if it is not one.
    pub fn report(&mut self, body: &[u8]) -> bool {
        let mut parts = body.split(|&byte| byte == 0);
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            return false;
        };
        self.set(name, value);
        true
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.all.iter().map(|(name, value)| (name, value))
    }

    /// The statement that gives `server` the tracked values that `self`, a client, has; `None` if they agree.
    #[must_use]
    pub fn difference(&self, server: &Self) -> Option<Bytes> {
        if self.mark == server.mark {
            return None;
        }
        let differs = |name: &Bytes, value: &Bytes| server.value(name) != Some(value) && tracked(name).is_some();
        set_config(self.iter().filter(|(name, value)| differs(name, value)))
    }

    /// Takes over the server's values of the tracked settings that this client has.
    pub fn adopt(&mut self, server: &Self) {
        for (name, value) in &mut self.all {
            if let Some(theirs) = server.value(name)
                && theirs != value
            {
                *value = theirs.clone();
            }
        }
        self.remark();
    }
}

/// A number that stands for no settings at all, another one for each of these.
#[must_use]
pub fn unlike_any(one: (u64, u64)) -> u64 {
    KEY.get_or_init(RandomState::new).hash_one(one)
}

/// Values in one number, which nobody outside can choose.
pub(super) fn marked<'a>(values: impl Iterator<Item = Option<&'a Bytes>>) -> u64 {
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    values.for_each(|value| value.hash(&mut hasher));
    hasher.finish()
}

/// The statement that gives a session these settings, in this order; `None` if there are none.
pub(super) fn set_config<'a>(settings: impl Iterator<Item = (&'a Bytes, &'a Bytes)>) -> Option<Bytes> {
    let mut sql = BytesMut::new();
    for (name, value) in settings {
        sql.put_slice(if sql.is_empty() { b"SELECT " } else { b", " });
        sql.put_slice(b"pg_catalog.set_config(");
        quote(name, &mut sql);
        sql.put_slice(b", ");
        quote(value, &mut sql);
        sql.put_slice(b", false)");
    }
    (!sql.is_empty()).then(|| sql.freeze())
}

/// A dollar-quoted literal: it needs no escapes, whatever `standard_conforming_strings` is.
pub(super) fn quote(text: &[u8], out: &mut BytesMut) {
    let mut tag = String::from("$v$");
    while text.windows(tag.len()).any(|window| window == tag.as_bytes()) || text.ends_with(b"$v") {
        tag.insert(1, 'v');
        if tag.len() > text.len() + 4 {
            break;
        }
    }
    out.put_slice(tag.as_bytes());
    out.put_slice(text);
    out.put_slice(tag.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        let mut found = Parameters::default();
        for (name, value) in pairs {
            found.set(name.as_bytes(), value.as_bytes());
        }
        found
    }

    #[test]
    fn only_tracked_values_that_differ_are_set() {
        let server = parameters(&[("TimeZone", "UTC"), ("application_name", "a"), ("server_version", "15")]);
        assert_eq!(parameters(&[("TimeZone", "UTC"), ("server_version", "16")]).difference(&server), None);
        assert_eq!(
            parameters(&[("TimeZone", "CET"), ("application_name", "b'c")]).difference(&server).unwrap(),
            "SELECT pg_catalog.set_config($v$TimeZone$v$, $v$CET$v$, false), \
             pg_catalog.set_config($v$application_name$v$, $v$b'c$v$, false)"
        );
    }

    #[test]
    fn no_value_ends_its_own_quotes() {
        for text in ["$v$", "$vv$ $v$", "a$v", "$v$); DROP TABLE t; --", "$"] {
            let mut out = BytesMut::new();
            quote(text.as_bytes(), &mut out);
            let out = std::str::from_utf8(&out).unwrap();
            let tag = &out[..=out[1..].find('$').unwrap() + 1];
            let inner = out.strip_prefix(tag).unwrap().strip_suffix(tag).unwrap();
            assert_eq!(inner, text);
            assert!(!format!("{inner}$").contains(tag), "{out}");
        }
    }

    #[test]
    fn a_client_adopts_what_the_server_made_of_its_value() {
        let mut client = parameters(&[("client_encoding", "utf-8")]);
        client.adopt(&parameters(&[("client_encoding", "UTF8"), ("TimeZone", "UTC")]));
        assert_eq!(client, parameters(&[("client_encoding", "UTF8")]));
    }

    #[test]
    fn a_report_is_two_strings() {
        let mut found = Parameters::default();
        assert!(found.report(b"TimeZone\0UTC\0"));
        assert!(!found.report(b"TimeZone"));
        assert_eq!(found.value(b"TimeZone").unwrap(), "UTC");
    }
}
