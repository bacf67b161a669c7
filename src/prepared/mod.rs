//! Prepared statements that follow a client from server to server: what is the same statement ([`catalog`]), which names a
//! client has given ([`names`]), what a server has ([`slots`], [`unnamed`]), what is about to end some of that ([`ending`]), what may have to be sent to it again ([`replay`]), what a
//! text may leave behind ([`hints`]) and what it does with statements itself ([`uses`]).
//!
//! Pure: `session::translate` drives them with the messages of a relay. A client's name stands for a statement, a
//! statement has one name of ours on every server, and a server is given a statement when a client first needs it there.
//! Effects count when Postgres has confirmed them; until then a name is good in its own batch only, because an
//! error there would skip what follows.

pub mod catalog;
pub mod ending;
pub mod hints;
pub mod names;
pub mod replay;
pub mod slots;
pub mod unnamed;
pub mod uses;

use std::hash::{DefaultHasher, Hasher as _};

/// What a Describe has told: of a statement its parameter types and result columns, of a portal the columns alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Digest {
    parameters: Option<u64>,
    columns: u64,
}

impl Digest {
    /// Whether what was told is true of what is there; `None`: not enough is known of that.
    #[must_use]
    pub fn holds(self, there: Self) -> Option<bool> {
        match (self.columns == there.columns, self.parameters, there.parameters) {
            (false, ..) => Some(false),
            (true, None, _) => Some(true),
            (true, Some(told), Some(there)) => Some(told == there),
            (true, Some(_), None) => None,
        }
    }

    /// Whether the parameters were told too.
    #[must_use]
    pub const fn is_of_statement(self) -> bool {
        self.parameters.is_some()
    }

    /// What is known after this was told later.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        Self { parameters: later.parameters.or(self.parameters), columns: later.columns }
    }
}

/// Collects a [`Digest`] from the messages that answer a Describe.
#[derive(Clone, Debug, Default)]
pub struct Digesting {
    parameters: Option<u64>,
    columns: DefaultHasher,
}

impl Digesting {
    /// The body of a ParameterDescription.
    pub fn parameters(&mut self, body: &[u8]) {
        let mut parameters = DefaultHasher::new();
        parameters.write(body);
        self.parameters = Some(parameters.finish());
    }

    /// The body of a RowDescription, or nothing for NoData. Names, types and modifiers count; where a column comes from
    /// does not. Source: `equalRowTypes` in `tupdesc.c`, by which Postgres decides that a plan's result has changed.
    pub fn columns(&mut self, body: Option<&[u8]>) {
        let Some((count, mut rest)) = body.and_then(|body| body.split_first_chunk::<2>()) else {
            return self.columns.write_u8(0);
        };
        self.columns.write(count);
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            let (name, fixed) = rest.split_at(end + 1);
            let Some((fixed, next)) = fixed.split_first_chunk::<18>() else { break };
            // Behind the table's oid and the column's number: type, length, modifier.
            self.columns.write(name);
            self.columns.write(fixed.get(6..16).unwrap_or_default());
            rest = next;
        }
    }

    /// What it comes to.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest { parameters: self.parameters, columns: self.columns.finish() }
    }
}

/// The length of the string at the front of `bytes`, without its closing zero; `None` if that has not arrived.
#[must_use]
pub fn string(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|&byte| byte == 0).and_then(|end| bytes.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(fields: &[(&str, u32, u16, u32)]) -> Digest {
        let mut body = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for (name, table, number, of_type) in fields {
            body.extend([name.as_bytes(), b"\0"].concat());
            body.extend(table.to_be_bytes());
            body.extend(number.to_be_bytes());
            body.extend(of_type.to_be_bytes());
            body.extend([0, 4, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        }
        let mut digesting = Digesting::default();
        digesting.columns(Some(&body));
        digesting.digest()
    }

    #[test]
    fn a_shape_is_names_and_types_in_their_order() {
        let shape = columns(&[("a", 1, 1, 23), ("b", 1, 2, 25)]);
        assert_eq!(shape, columns(&[("a", 9, 1, 23), ("b", 9, 7, 25)]), "another table, the same columns");
        assert_ne!(shape, columns(&[("a", 1, 1, 20), ("b", 1, 2, 25)]), "another type");
        assert_ne!(shape, columns(&[("b", 1, 2, 25), ("a", 1, 1, 23)]), "another order");
        assert_ne!(shape, columns(&[("a", 1, 1, 23)]), "one less");
        let mut none = Digesting::default();
        none.columns(None);
        assert_ne!(none.digest(), columns(&[]), "no result is not a result without columns");
    }

    #[test]
    fn what_was_told_of_a_portal_says_nothing_of_parameters() {
        let of_statement = |types: &[u8], name| Digest {
            parameters: {
                let mut digesting = Digesting::default();
                digesting.parameters(types);
                digesting.digest().parameters
            },
            ..columns(&[(name, 1, 1, 23)])
        };
        let (portal, other) = (columns(&[("a", 1, 1, 23)]), columns(&[("b", 1, 1, 23)]));
        let statement = of_statement(b"int", "a");
        assert_eq!((portal.holds(portal), portal.holds(other)), (Some(true), Some(false)));
        assert_eq!(
            (portal.holds(statement), statement.holds(portal), statement.holds(other)),
            (Some(true), None, Some(false))
        );
        assert_eq!(statement.holds(of_statement(b"text", "a")), Some(false));
        assert_eq!(statement.then(other), of_statement(b"int", "b"));
    }
}
