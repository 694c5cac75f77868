//! Splits bytes into lines, with a limit on the length of a line.

/// The longest line, in bytes.
const LONGEST: usize = 1 << 20;

/// Marks the end of a line that was cut.
const CUT: &str = " […]";

/// The line that is being read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Emits each line that `chunk` completes.
    pub(super) fn push(&mut self, chunk: &[u8], mut on_line: impl FnMut(&str)) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.keep(end);
                    self.emit(&mut on_line);
                }
                None => self.keep(piece),
            }
        }
    }

    /// Emits a last line without a line end.
    pub(super) fn end(&mut self, mut on_line: impl FnMut(&str)) {
        if !self.bytes.is_empty() {
            self.emit(&mut on_line);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.bytes.len();
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn emit(&mut self, on_line: &mut impl FnMut(&str)) {
        let bytes = self.bytes.strip_suffix(b"\r").unwrap_or(&self.bytes);
        let line = String::from_utf8_lossy(bytes);
        if self.cut {
            on_line(&format!("{line}{CUT}"))
        } else {
            on_line(&line)
        }
        self.cut = false;
        // The memory of a long line is released; that of a short one is reused.
        if self.bytes.capacity() > 64 * 1024 {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| seen.push(line.to_owned()));
        }
        lines.end(|line| seen.push(line.to_owned()));
        seen
    }

    #[test]
    fn lines_may_arrive_in_pieces_and_the_last_needs_no_end() {
        assert_eq!(read(&[b"a", b"b\nc\r\n", b"\nd"]), ["ab", "c", "", "d"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_is_whole() {
        let long = vec![b'x'; 3 * LONGEST];
        let seen = read(&[&long, b"y\nnext\n"]);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0].len(), LONGEST + CUT.len());
        assert!(seen[0].ends_with(CUT));
        assert_eq!(seen[1], "next");
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_replaced() {
        assert_eq!(read(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }
}
