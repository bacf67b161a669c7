//! What of an idle client goes along when another process takes over: everything but its socket. Pure.
//!
//! Two versions of the program may talk in these words: a field that is new has a default, and one that is gone is passed over.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::prepared::Digest;
use crate::prepared::hints::{Hints, Leaves};

/// Bytes of any kind, as text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Octets(pub Bytes);

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64_STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(de::Error::custom)
    }
}

impl From<&[u8]> for Octets {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

/// Names of settings, and their values.
pub type Pairs = Vec<(Octets, Octets)>;

/// What a statement may leave behind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Left {
    hints: u16,
    settings: Vec<Octets>,
}

impl From<&Leaves> for Left {
    fn from(leaves: &Leaves) -> Self {
        let settings = leaves.settings.iter().map(|name| Octets::from(&**name)).collect();
        Self { hints: leaves.hints.bits(), settings }
    }
}

impl From<Left> for Leaves {
    fn from(left: Left) -> Self {
        let settings = left.settings.iter().map(|name| name.0.as_ref().into()).collect();
        Self { hints: Hints::from_bits(left.hints), settings }
    }
}

/// A prepared statement of the client's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Prepared {
    /// Its name; empty: the unnamed one.
    pub name: Octets,
    /// A Parse behind the name.
    pub body: Octets,
    /// What it may leave on a server; known from the text where there is a name.
    #[serde(default)]
    pub leaves: Left,
    /// What the client was told of its shape.
    #[serde(default)]
    pub told: Option<Digest>,
}

/// What of a client's session follows it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Luggage {
    /// The settings that Postgres reports.
    pub wanted: Pairs,
    /// The same as they were at its log-in.
    pub home: Pairs,
    /// The settings that Postgres does not report.
    pub settings: Option<Pairs>,
    /// The same as they were at its log-in.
    pub first: Option<Pairs>,
    /// The names of settings that Postgres does not list.
    pub hidden: Left,
    /// It asks for the last values of sequences.
    pub asks_sequences: bool,
    /// Its statements.
    pub statements: Vec<Prepared>,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Passport {
    /// Who it is.
    pub user: String,
    /// The database that it asked for.
    pub database: String,
    /// The name that the application gives itself.
    pub application_name: String,
    /// The minor version of the protocol that it speaks.
    pub minor: u16,
    /// The process id that it was told.
    pub pid: i32,
    /// The rest of its cancel key.
    pub secret: Octets,
    /// Its session.
    pub luggage: Luggage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_comes_through_and_what_is_not_known_has_a_default() {
        let octets = |bytes: &[u8]| Octets::from(bytes);
        let pairs = vec![(octets(b"DateStyle"), octets(b"ISO, \xff"))];
        let mut leaves = Leaves { hints: Hints::LOCKS, ..Leaves::default() };
        leaves.settings.push(b"app.tenant"[..].into());
        let passport = Passport {
            user: "ann".into(),
            database: "shop".into(),
            application_name: "it".into(),
            minor: 2,
            pid: 77,
            secret: octets(&[0, 1, 255]),
            luggage: Luggage {
                wanted: pairs.clone(),
                home: pairs.clone(),
                settings: Some(pairs),
                first: None,
                hidden: Left::from(&leaves),
                asks_sequences: true,
                statements: vec![Prepared {
                    name: octets(b"s1"),
                    body: octets(b"SELECT 1\0\0\0"),
                    leaves: Left::from(&leaves),
                    told: None,
                }],
            },
        };
        let text = serde_json::to_string(&passport).unwrap();
        assert_eq!(serde_json::from_str::<Passport>(&text).unwrap(), passport);
        assert_eq!(Leaves::from(passport.luggage.hidden), leaves);
        let least =
            r#"{"user":"a","database":"d","application_name":"","minor":0,"pid":1,"secret":"","luggage":{},"more":1}"#;
        assert_eq!(serde_json::from_str::<Passport>(least).unwrap().luggage, Luggage::default());
        assert!(serde_json::from_str::<Passport>(&least.replace(r#""secret":"""#, r#""secret":"?""#)).is_err());
    }
}
