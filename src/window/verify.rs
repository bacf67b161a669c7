//! Whether what a change promised is there: the answers to `verify`, judged before COMMIT. Pure.
//!
//! A statement that answers with rows holds if there is at least one and the first column of each is the boolean true.
//! One that answers with none (SET, DO ..) holds if it does not fail.

use crate::wire::tags::server as tag;

/// Postgres' number for the type boolean. Source: `pg_type.dat`.
const BOOL: u32 = 16;

/// Reads the messages that answer `verify`, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Judge {
    /// The statement that is being answered, from 0.
    statement: usize,
    /// The rows that it has answered, if it answers rows at all, and whether its first column is a boolean.
    rows: Option<(usize, bool)>,
    objection: Option<String>,
}

impl Judge {
    /// Looks at one message.
    pub fn see(&mut self, tag: u8, body: &[u8]) {
        match tag {
            tag::ROW_DESCRIPTION => self.rows = Some((0, first_type(body) == Some(BOOL))),
            tag::DATA_ROW => self.row(body),
            tag::COMMAND_COMPLETE => {
                if self.rows.is_some_and(|(count, _)| count == 0) {
                    self.object("answers no row");
                }
                self.rows = None;
                self.statement += 1;
            }
            _ => {}
        }
    }

    fn row(&mut self, body: &[u8]) {
        let Some((count, boolean)) = &mut self.rows else { return };
        *count += 1;
        let (count, boolean) = (*count, *boolean);
        let what = match first_value(body) {
            _ if !boolean => "answers something else than a boolean".to_owned(),
            Some(b"t") => return,
            Some(_) => format!("is false in row {count}"),
            None => format!("is null in row {count}"),
        };
        self.object(&what);
    }

    fn object(&mut self, what: &str) {
        let statement = self.statement + 1;
        self.objection.get_or_insert_with(|| format!("verify does not hold: statement {statement} {what}"));
    }

    /// Why it does not hold: the first reason. `None`: it holds.
    #[must_use]
    pub fn objection(self) -> Option<String> {
        self.objection
    }
}

/// The type of the first column of a RowDescription.
fn first_type(body: &[u8]) -> Option<u32> {
    let name_end = body.get(2..)?.iter().position(|byte| *byte == 0)? + 3;
    // The table's number and the column's stand before it.
    let bytes = body.get(name_end + 6..name_end + 10)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The first value of a DataRow, as text.
fn first_value(body: &[u8]) -> Option<&[u8]> {
    let length = i32::from_be_bytes(body.get(2..6)?.try_into().ok()?);
    body.get(6..6 + usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(oid: u32) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend(b"holds\0");
        body.extend([0; 6]);
        body.extend(oid.to_be_bytes());
        body.extend([0; 8]);
        body
    }

    fn row(value: Option<&str>) -> Vec<u8> {
        let mut body = vec![0, 1];
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(value.unwrap_or_default().as_bytes());
        body
    }

    /// The type of the first column, and the rows' first values.
    type Rows<'a> = (u32, &'a [Option<&'a str>]);

    fn judged(statements: &[Option<Rows<'_>>]) -> Option<String> {
        let mut judge = Judge::default();
        for statement in statements {
            if let Some((oid, rows)) = statement {
                judge.see(tag::ROW_DESCRIPTION, &description(*oid));
                rows.iter().for_each(|value| judge.see(tag::DATA_ROW, &row(*value)));
            }
            judge.see(tag::COMMAND_COMPLETE, b"X\0");
        }
        judge.objection()
    }

    #[test]
    fn what_holds_and_what_does_not() {
        let (yes, no) = (Some("t"), Some("f"));
        for (statements, objection) in [
            (vec![Some((BOOL, &[yes] as &[_]))], None),
            (vec![Some((BOOL, &[yes, yes])), None, Some((BOOL, &[yes]))], None),
            (vec![None], None),
            (vec![], None),
            (vec![Some((BOOL, &[]))], Some("statement 1 answers no row")),
            (vec![Some((BOOL, &[yes])), Some((BOOL, &[yes, no, None]))], Some("statement 2 is false in row 2")),
            (vec![None, Some((BOOL, &[None]))], Some("statement 2 is null in row 1")),
            (vec![Some((25, &[yes]))], Some("statement 1 answers something else than a boolean")),
        ] {
            let expected = objection.map(|text| format!("verify does not hold: {text}"));
            assert_eq!(judged(&statements), expected, "{statements:?}");
        }
    }

    #[test]
    fn messages_that_are_cut_short_hold_nothing() {
        for cut in 0..description(BOOL).len() {
            let mut judge = Judge::default();
            judge.see(tag::ROW_DESCRIPTION, &description(BOOL)[..cut.min(16)]);
            judge.see(tag::DATA_ROW, &row(Some("t"))[..cut.min(6)]);
            assert!(judge.objection().is_some(), "{cut}");
        }
    }
}
