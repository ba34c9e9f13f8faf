//! Tables in Markdown that are also tables to read as they are, and numbers in them.

use std::fmt::Write;

/// A table; the first `labels` columns are words, the others numbers, aligned to the right.
#[derive(Clone, Debug)]
pub struct Table {
    labels: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(labels: usize, header: &[&str]) -> Table {
        Table { labels, rows: vec![header.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; `|` in a cell would end it, so it is written as Markdown wants it.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect());
    }

    /// How many rows there are below the header.
    pub fn rows(&self) -> usize {
        self.rows.len() - 1
    }

    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// The table, with a line break at the end.
    pub fn to_text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                text.push_str("| ");
                // Writing to a string does not fail.
                let _ = match column < self.labels {
                    true => write!(text, "{cell:<width$} "),
                    false => write!(text, "{cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if number == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    let end = if column < self.labels { "-" } else { ":" };
                    text.push_str(&format!("|{}{end}", "-".repeat(width + 1)));
                }
                text.push_str("|\n");
            }
        }
        text
    }
}

/// A count with commas: `1,234,567`.
pub fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that mean something, and no more behind the point than that takes.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => count(value),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.01 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The same of what may not be there.
pub fn maybe(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), short)
}

/// A share of one in percent.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.1} %", value * 100.0))
}

/// Bytes as record sizes are called: `64 B`, `16 KiB`.
pub fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 && b.is_multiple_of(1 << 20) => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 && b.is_multiple_of(1 << 10) => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_cannot_break_out() {
        let mut table = Table::new(1, &["what", "appends/s"]);
        assert!(table.is_empty());
        table.row(["a|b".to_owned(), count(1234567.0)]);
        table.row(["µs".to_owned(), "5".to_owned()]);
        let expected = "\
| what | appends/s |
|------|----------:|
| a\\|b | 1,234,567 |
| µs   |         5 |
";
        assert_eq!(table.to_text(), expected);
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let shown: Vec<_> =
            [0.0, 0.00123, 0.123, 9.999, 12.34, 99.96, 999.4, 1234.5].map(short).into();
        assert_eq!(shown, ["0.00", "0.0012", "0.12", "10.0", "12.3", "100", "999", "1,234"]);
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1e6), "1,000,000");
        assert_eq!(maybe(None), "-");
        assert_eq!(percent(Some(0.1234)), "12.3 %");
        assert_eq!(
            [64, 1024, 16384, 1 << 20, 1500].map(size).join(" "),
            "64 B 1 KiB 16 KiB 1 MiB 1500 B"
        );
    }
}
