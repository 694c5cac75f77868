//! Output: data to stdout, everything else to stderr.

use std::fmt::Display;
use std::io::{self, Write};

use serde_json::Value;

/// Writes one line of data.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Writes one JSON value, on one line.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    line(value)
}

/// Writes one line for people to stderr. It is no failure if nobody reads it.
pub(crate) fn note(text: impl Display) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Announces a new key on stderr, before its text goes to stdout.
pub(crate) fn new_key_note(id: &str) {
    note(format_args!("key {}; it is shown only this once, keep it safe:", clean(id)));
}

/// Removes control characters (except line ends and tabs) from foreign text, so that it cannot
/// control the terminal.
pub(crate) fn clean(text: &str) -> String {
    let shown = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let hidden = |c: &char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(shown).filter(|c| !hidden(c)).collect()
}

/// Aligns `rows` below `head`, with two spaces between columns; the last column is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let written = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![written(&mut head.iter().copied())];
    lines.extend(rows.iter().map(|row| written(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_spaces() {
        let rows =
            [vec!["a".to_owned(), "ready".to_owned()], vec!["bäcker".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME    STATE\na       ready\nbäcker");
    }

    #[test]
    fn foreign_text_cannot_control_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n\tc\u{202e}d\u{9b}"), "a[2Jb\n\tcd");
    }
}
