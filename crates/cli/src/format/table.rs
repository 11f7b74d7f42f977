//! Aligned columns.

use super::escape;

/// Cells at least this wide, the gap included.
const MIN_WIDTH: usize = 10;
/// Blanks between columns.
const GAP: usize = 3;

/// Lays out rows of cells: every column as wide as its widest cell, the last one ragged. Cells are made harmless.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| escape::line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() > column + 1).filter_map(|row| row.get(column));
        cells.map(|cell| (cell.chars().count() + GAP).max(MIN_WIDTH)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', widths[index].saturating_sub(cell.chars().count())));
            }
        }
        text.push('\n');
    }
    text
}

/// Cuts `text` to `width` characters, the last one an ellipsis when something was cut.
pub(crate) fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_are_harmless() {
        let rows = [["ID", "NAME OF IT", "X"], ["0123456789ab", "a\x1bb", "y"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        assert_eq!(align(&rows), "ID             NAME OF IT   X\n0123456789ab   a\\x1bb       y\n");
        assert_eq!(align(&[]), "");
    }

    #[test]
    fn long_text_is_cut_with_an_ellipsis() {
        assert_eq!(ellipsis("\"sh -c 'true'\"", 20), "\"sh -c 'true'\"");
        assert_eq!(ellipsis("abcdefghijklmnopqrstuvwxyz", 20), "abcdefghijklmnopqrs…");
    }
}
