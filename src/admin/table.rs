//! Tables that the console answers, and how their values travel: as text, or in the binary form that a driver asked for.

use bytes::BytesMut;

use crate::wire::extended::{self, Field};

/// The type of a column, as PgBouncer tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `text`
    Text,
    /// `int4`
    Int,
    /// `int8`
    Long,
    /// `numeric`, without a fraction.
    Numeric,
}

impl Kind {
    /// As Postgres names it.
    #[cfg(test)]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Int => "int4",
            Self::Long => "int8",
            Self::Numeric => "numeric",
        }
    }

    /// OID and size. Source: `pg_type.dat`.
    const fn wire(self) -> (u32, i16) {
        match self {
            Self::Text => (25, -1),
            Self::Int => (23, 4),
            Self::Long => (20, 8),
            Self::Numeric => (1700, -1),
        }
    }

    /// The binary form; a number that is out of its type's range becomes the nearest that is not.
    fn binary(self, text: &str) -> Vec<u8> {
        let number = text.parse::<i128>().unwrap_or_default();
        match self {
            Self::Text => text.as_bytes().to_vec(),
            Self::Int => i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            Self::Long => i64::try_from(number).unwrap_or(i64::MAX).to_be_bytes().to_vec(),
            Self::Numeric => numeric(u64::try_from(number).unwrap_or_default()),
        }
    }
}

/// A whole number as `numeric_send` writes it: count of digits to the base 10000, weight of the first, sign, scale, digits.
fn numeric(mut number: u64) -> Vec<u8> {
    let mut digits = vec![];
    while number > 0 {
        digits.push(u16::try_from(number % 10_000).unwrap_or_default());
        number /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or_default();
    let head = [count, count.saturating_sub(1), 0, 0];
    head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

/// One column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether PgBouncer does not have it.
    pub(super) ours: bool,
}

/// A column of text.
pub(super) const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text, ours: false }
}

/// A column of small numbers.
pub(super) const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int, ours: false }
}

/// A column of large numbers.
pub(super) const fn long(name: &'static str) -> Column {
    Column { name, kind: Kind::Long, ours: false }
}

/// A column of counters.
pub(super) const fn numeric_of(name: &'static str) -> Column {
    Column { name, kind: Kind::Numeric, ours: false }
}

impl Column {
    /// One that PgBouncer does not have.
    pub(super) const fn ours(self) -> Self {
        Self { ours: true, ..self }
    }
}

/// A value; `None` is NULL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell(pub(super) Option<String>);

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

impl From<std::borrow::Cow<'_, str>> for Cell {
    fn from(text: std::borrow::Cow<'_, str>) -> Self {
        Self(Some(text.into_owned()))
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        Self(text)
    }
}

impl From<bool> for Cell {
    fn from(yes: bool) -> Self {
        u8::from(yes).into()
    }
}

/// Numbers become text.
macro_rules! numbers {
    ($($type:ty),+) => {
        $(impl From<$type> for Cell {
            fn from(number: $type) -> Self {
                Self(Some(number.to_string()))
            }
        })+
    };
}

numbers!(u8, u16, i32, u64, usize);

/// A row of [`Cell`]s.
macro_rules! row {
    ($($value:expr),+ $(,)?) => {
        vec![$($crate::admin::table::Cell::from($value)),+]
    };
}

pub(super) use row;

/// A table to be sent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Writes the rows from one on, up to a number of them. Returns how many there were.
    pub(super) fn write_rows(&self, from: usize, limit: usize, formats: &Formats, out: &mut BytesMut) -> usize {
        let rows = self.rows.iter().skip(from).take(limit);
        rows.map(|row| {
            let cells = row.iter().zip(&self.columns).enumerate();
            let values = cells.map(|(at, (cell, column))| {
                let text = cell.0.as_deref()?;
                Some(match formats.of(at) {
                    0 => text.as_bytes().to_vec(),
                    _ => column.kind.binary(text),
                })
            });
            extended::data_row(values, out);
        })
        .count()
    }
}

/// The format of each column, as `Bind` says it: none for text, one for all, or one for each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Formats(pub(super) Vec<i16>);

impl Formats {
    fn of(&self, column: usize) -> i16 {
        let only = (self.0.len() == 1).then_some(0);
        self.0.get(only.unwrap_or(column)).copied().unwrap_or_default()
    }
}

/// Writes the RowDescription of these columns.
pub(super) fn describe(columns: &[Column], formats: &Formats, out: &mut BytesMut) {
    let fields = columns.iter().enumerate().map(|(at, column)| {
        let (oid, size) = column.kind.wire();
        Field { name: column.name, oid, size, format: formats.of(at) }
    });
    extended::row_description(fields, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_forms() {
        for (kind, text, bytes) in [
            (Kind::Text, "é", &b"\xc3\xa9"[..]),
            (Kind::Int, "7", &[0, 0, 0, 7]),
            (Kind::Int, "99999999999", &[0x7f, 0xff, 0xff, 0xff]),
            (Kind::Long, "258", &[0, 0, 0, 0, 0, 0, 1, 2]),
            (Kind::Numeric, "0", &[0, 0, 0, 0, 0, 0, 0, 0]),
            // 1 0002 0003: three digits to the base 10000.
            (Kind::Numeric, "100020003", &[0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3]),
            (Kind::Numeric, "20000", &[0, 2, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0]),
        ] {
            assert_eq!(kind.binary(text), bytes, "{kind:?} {text}");
        }
    }

    #[test]
    fn one_format_is_for_all_columns() {
        assert_eq!(Formats(vec![]).of(3), 0);
        assert_eq!(Formats(vec![1]).of(3), 1);
        assert_eq!((Formats(vec![0, 1]).of(0), Formats(vec![0, 1]).of(1)), (0, 1));
    }
}
