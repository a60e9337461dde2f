//! Tables that line up, and lists of fields.

use std::fmt::{self, Display, Write as _};

/// Rows under a header, each column as wide as its widest cell.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With this header.
    pub fn new(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|&cell| cell.to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| {
                let width = |line: &Vec<String>| line.get(column).map_or(0, |cell| cell.chars().count());
                lines().map(width).max().unwrap_or(0)
            })
            .collect();
        for line in lines() {
            let mut padded = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                write!(padded, "{cell:<width$}  ")?;
            }
            writeln!(f, "{}", padded.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values, the values under one another.
#[derive(Default)]
pub struct Fields {
    fields: Vec<(String, String)>,
}

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.fields.push((name.to_owned(), printable(&value.to_string())));
        self
    }

    /// Adds a field unless its value is empty.
    pub fn some(&mut self, name: &str, value: impl Display) -> &mut Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.add(name, value);
        }
        self
    }
}

impl Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .fields
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value) in &self.fields {
            writeln!(f, "{}", format!("{name:<width$}  {value}").trim_end())?;
        }
        Ok(())
    }
}

/// `1 entry`, `2 entries`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Nothing that came over the wire may move the cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_blanks() {
        let mut table = Table::new(&["ID", "HINT"]);
        table.row(["spiffe://a/b".to_owned(), String::new()]);
        table.row(["é".to_owned(), "x\u{1b}[2J".to_owned()]);
        assert_eq!(
            table.to_string(),
            "ID            HINT\nspiffe://a/b\né             x\u{fffd}[2J\n"
        );
    }

    #[test]
    fn values_stand_under_one_another() {
        let mut fields = Fields::default();
        fields.add("id", "a").some("hint", "").add("selector", "unix:uid:0");
        assert_eq!(fields.to_string(), "id        a\nselector  unix:uid:0\n");
    }
}
