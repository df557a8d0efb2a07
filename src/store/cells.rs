//! Rows as they are, whichever database they are of, and a check sum over many of them.

use ring::digest::{Context, SHA256};

/// What is in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing.
    Null,
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Cell {
    /// For people, as far as it names a row.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Null => "NULL".to_owned(),
            Self::Integer(number) => number.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
        }
    }

    /// About how much memory it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Null | Self::Integer(_) => 0,
                Self::Text(text) => text.len(),
                Self::Bytes(bytes) => bytes.len(),
            }
    }
}

/// How many rows there were, and their SHA-256 in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    /// How many.
    pub(super) rows: u64,
    sha256: Vec<u8>,
}

/// Rows that are summed up, one after the other.
pub(super) struct Summing {
    rows: u64,
    digest: Context,
}

impl Summing {
    /// None yet.
    pub(super) fn begin() -> Self {
        Self { rows: 0, digest: Context::new(&SHA256) }
    }

    /// One more. Kinds and lengths go in too, so that no two rows look alike.
    pub(super) fn add(&mut self, row: &[Cell]) {
        self.rows += 1;
        for cell in row {
            let number;
            let (kind, bytes) = match cell {
                Cell::Null => (0, [].as_slice()),
                Cell::Integer(integer) => {
                    number = integer.to_be_bytes();
                    (1, number.as_slice())
                }
                Cell::Text(text) => (2, text.as_bytes()),
                Cell::Bytes(bytes) => (3, bytes.as_slice()),
            };
            self.digest.update(&[kind]);
            self.digest.update(&(bytes.len() as u64).to_be_bytes());
            self.digest.update(bytes);
        }
        self.digest.update(&[255]);
    }

    /// All of them.
    pub(super) fn end(self) -> Sum {
        Sum { rows: self.rows, sha256: self.digest.finish().as_ref().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn sum(rows: &[&[Cell]]) -> Sum {
        let mut summing = Summing::begin();
        for row in rows {
            summing.add(row);
        }
        summing.end()
    }

    #[test]
    fn rows_that_differ_have_another_sum() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let (ab, a, b, empty) = (text("ab"), text("a"), text("b"), text(""));
        let different: [&[&[Cell]]; 8] = [
            &[],
            &[&[]],
            &[&[ab.clone(), empty.clone()]],
            &[&[a.clone(), b.clone()]],
            &[from_ref(&a), from_ref(&b)],
            &[from_ref(&b), from_ref(&a)],
            &[&[ab, Cell::Null]],
            &[&[Cell::Bytes(b"ab".to_vec()), empty]],
        ];
        for (n, one) in different.iter().enumerate() {
            for (m, other) in different.iter().enumerate() {
                assert_eq!(n == m, sum(one) == sum(other), "{one:?} {other:?}");
            }
        }
        assert_eq!(sum(&[&[Cell::Integer(7)], &[Cell::Null]]).rows, 2);
    }
}
