//! Aligned columns.

/// Rows of text under a heading; text is aligned left, numbers right.
pub(crate) struct Table {
    heading: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// A column: its title and whether it holds numbers.
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Text(&'static str),
    Number(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Column::Text(title) | Column::Number(title) => title,
        }
    }
}

impl Table {
    pub fn new(heading: impl Into<Vec<Column>>) -> Self {
        Self { heading: heading.into(), rows: Vec::new() }
    }

    /// Adds a row with a cell for every column.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        self.rows.push(cells.into());
    }

    /// The table as text, each line with its newline and without blanks at its end.
    pub fn render(&self) -> String {
        let titles: Vec<String> = self.heading.iter().map(|column| column.title().to_owned()).collect();
        let width_of = |index: usize| {
            let cells = std::iter::once(&titles).chain(&self.rows).filter_map(|row| row.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..titles.len()).map(width_of).collect();
        let mut text = String::new();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let cells = row.iter().zip(&self.heading).zip(&widths).map(|((cell, column), width)| match column {
                Column::Text(_) => format!("{cell:<width$}"),
                Column::Number(_) => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new([Column::Text("NAME"), Column::Number("N"), Column::Text("")]);
        table.row(["a".to_owned(), "1000".to_owned(), String::new()]);
        table.row(["longer".to_owned(), "5".to_owned(), "x".to_owned()]);
        assert_eq!(table.render(), "NAME       N\na       1000\nlonger     5  x\n");
    }
}
