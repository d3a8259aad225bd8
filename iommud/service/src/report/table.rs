//! Aligned columns.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A table that is being written.
#[derive(Debug)]
pub struct Table {
    rows: Vec<(Vec<String>, Vec<String>)>,
    /// Which columns are aligned at the right.
    right: Vec<bool>,
}

impl Table {
    /// A table with these heads. A head that ends in a blank is of a column of numbers.
    pub fn new(heads: &[&str]) -> Self {
        let right = heads.iter().map(|head| head.ends_with(' ')).collect();
        let heads = heads.iter().map(|head| head.trim_end().to_string()).collect();
        Self { rows: alloc::vec![(heads, Vec::new())], right }
    }

    /// Adds a row, with lines to be put under it.
    pub fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push((cells, notes));
    }

    /// The table as text, or `none` if it has no rows.
    pub fn finish(self, none: &str) -> String {
        if self.rows.len() == 1 {
            return alloc::format!("{none}\n");
        }
        let widths: Vec<usize> = (0..self.right.len())
            .map(|column| {
                self.rows.iter().map(|(cells, _)| width(cells, column)).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for (cells, notes) in &self.rows {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let pad = widths.get(column).map_or(0, |width| width - cell.chars().count());
                let right = self.right.get(column) == Some(&true);
                let (before, after) = if right { (pad, 0) } else { (0, pad) };
                line.extend(core::iter::repeat_n(' ', before));
                line.push_str(cell);
                line.extend(core::iter::repeat_n(' ', after + 2));
            }
            text.push_str(line.trim_end());
            text.push('\n');
            for note in notes {
                text.push_str("    ");
                text.push_str(note);
                text.push('\n');
            }
        }
        text
    }
}

fn width(cells: &[String], column: usize) -> usize {
    cells.get(column).map_or(0, |cell| cell.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(&["NAME", "BYTES ", "STATE"]);
        table.row(alloc::vec!["ring".into(), "4096".into(), "ok".into()], Vec::new());
        table
            .row(alloc::vec!["a".into(), "65536".into(), String::new()], alloc::vec!["why".into()]);
        let text = table.finish("none");
        assert_eq!(text, "NAME  BYTES  STATE\nring   4096  ok\na     65536\n    why\n");
        assert_eq!(Table::new(&["NAME"]).finish("no rows"), "no rows\n");
    }
}
