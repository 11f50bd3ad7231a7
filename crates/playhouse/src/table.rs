//! Rows of text with aligned columns.

use unicode_width::UnicodeWidthStr;

/// One field of a row.
pub(crate) struct Cell {
    text: String,
    mood: Mood,
}

/// The condition that the colour of a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// No condition.
    Plain,
    /// A good condition.
    Good,
    /// A condition on the way to a good one.
    Busy,
    /// A condition that needs attention.
    Bad,
}

/// Returns the lines of `rows`, with columns two spaces apart. The last cell of a row may have any
/// length: it makes no column wider, so that free text and columns can be mixed.
pub(crate) fn align(rows: &[Vec<Cell>], colour: bool) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        let counted = &row[..row.len().saturating_sub(1)];
        widths.resize(widths.len().max(counted.len()), 0);
        for (width, cell) in widths.iter_mut().zip(counted) {
            *width = cell.width().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            cell.write(colour, &mut text);
            if column + 1 < row.len() {
                let gap = widths[column] - cell.width() + 2;
                text.extend(std::iter::repeat_n(' ', gap));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

// === impl Cell ===

impl Cell {
    /// Returns a coloured cell.
    pub(crate) fn new(text: impl Into<String>, mood: Mood) -> Self {
        Self { text: text.into(), mood }
    }

    fn width(&self) -> usize {
        self.text.width()
    }

    fn write(&self, colour: bool, out: &mut String) {
        let code = match self.mood {
            Mood::Good => "32",
            Mood::Busy => "33",
            Mood::Bad => "31",
            Mood::Plain => "",
        };
        if colour && !code.is_empty() {
            *out += &format!("\x1b[{code}m{}\x1b[0m", self.text);
        } else {
            *out += &self.text;
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mood::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_and_colours_take_no_room() {
        let rows = [
            vec!["NAME".into(), "STATE".into(), "NOTE".into()],
            vec!["é".into(), Cell::new("up", Mood::Good), "a long text at the end".into()],
            vec!["free text, longer than any name".into()],
            vec![],
        ];
        let plain = "NAME  STATE  NOTE\n\
                     é     up     a long text at the end\n\
                     free text, longer than any name\n\n";
        assert_eq!(align(&rows, false), plain);
        assert_eq!(align(&rows, true), plain.replace("up", "\x1b[32mup\x1b[0m"));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let rows = [vec!["節点".into(), "up".into()], vec!["node".into(), "up".into()]];
        assert_eq!(align(&rows, false), "節点  up\nnode  up\n");
    }
}
