//! Pkt-lines, the framing of git's protocol: four hexadecimal digits of length, then data.

use super::GitError;

/// The longest pkt-line, its length digits included.
const MAX_LINE: usize = 65_520;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pkt<'a> {
    /// `0000`: the end of a section.
    Flush,
    /// Its data, without the length; a text line still has its newline.
    Data(&'a [u8]),
}

/// Reads pkt-lines from pieces of any size.
pub(super) struct PktReader<S> {
    source: S,
    buffer: Vec<u8>,
    at: usize,
    read: u64,
    limit: u64,
}

/// A source of pieces.
pub(super) trait Pieces {
    /// Appends the next piece to `buffer`. Returns false at the end.
    fn append_to(&mut self, buffer: &mut Vec<u8>) -> Result<bool, GitError>;
}

impl<S: Pieces> PktReader<S> {
    /// Reads at most `limit` bytes from `source`.
    pub(super) fn new(source: S, limit: u64) -> Self {
        Self { source, buffer: Vec::new(), at: 0, read: 0, limit }
    }

    /// The next line; an answer that ends before it is an error.
    pub(super) fn next(&mut self) -> Result<Pkt<'_>, GitError> {
        self.fill(4)?;
        let digits = &self.buffer[self.at..self.at + 4];
        let length = std::str::from_utf8(digits)
            .ok()
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .ok_or_else(|| unexpected("its answer is not in git's protocol"))?;
        match length {
            0 => {
                self.at += 4;
                Ok(Pkt::Flush)
            }
            4..=MAX_LINE => {
                self.fill(length)?;
                let from = self.at + 4;
                self.at += length;
                Ok(Pkt::Data(&self.buffer[from..self.at]))
            }
            _ => Err(unexpected("its answer has a line of an impossible length")),
        }
    }

    /// Returns the source, without the data that was read ahead.
    pub(super) fn into_source(self) -> S {
        self.source
    }

    /// Reads until the buffer has `needed` bytes from `at` on.
    fn fill(&mut self, needed: usize) -> Result<(), GitError> {
        if self.buffer.len() - self.at >= needed {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        while self.buffer.len() < needed {
            let before = self.buffer.len();
            if !self.source.append_to(&mut self.buffer)? {
                return Err(GitError::unreachable("its answer ended too early"));
            }
            self.read += (self.buffer.len() - before) as u64;
            if self.read > self.limit {
                return Err(unexpected("its answer is too long"));
            }
        }
        Ok(())
    }
}

/// An error for a server that does not follow git's protocol.
pub(super) fn unexpected(what: &str) -> GitError {
    GitError::broken("talking to the git server", what)
}

/// Adds a line with `data` to `out`. `data` is ours, and short.
pub(super) fn line(out: &mut Vec<u8>, data: &str) {
    debug_assert!(data.len() + 4 <= MAX_LINE);
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data.as_bytes());
}

/// Ends a section.
pub(super) fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytewise(Vec<u8>);

    impl Pieces for Bytewise {
        fn append_to(&mut self, buffer: &mut Vec<u8>) -> Result<bool, GitError> {
            if self.0.is_empty() {
                return Ok(false);
            }
            buffer.push(self.0.remove(0));
            Ok(true)
        }
    }

    fn reader(bytes: &[u8]) -> PktReader<Bytewise> {
        PktReader::new(Bytewise(bytes.to_vec()), 1000)
    }

    #[test]
    fn lines_are_read_whatever_the_pieces_are() {
        let mut bytes = Vec::new();
        line(&mut bytes, "hello\n");
        flush(&mut bytes);
        line(&mut bytes, "");
        let mut reader = reader(&bytes);
        assert_eq!(reader.next().expect("a line"), Pkt::Data(b"hello\n"));
        assert_eq!(reader.next().expect("a flush"), Pkt::Flush);
        assert_eq!(reader.next().expect("an empty line"), Pkt::Data(b""));
        assert!(reader.next().expect_err("the end").is_transient());
    }

    #[test]
    fn an_answer_that_is_not_pkt_lines_is_refused() {
        for bad in [&b"<html>"[..], b"0001", b"0003", b"fff1aaaa", b"-001", b"\xff\xff\xff\xff"] {
            assert!(matches!(reader(bad).next(), Err(GitError::Broken { .. })), "{bad:?}");
        }
        for cut in [&b""[..], b"00", b"0009hell"] {
            assert!(reader(cut).next().expect_err("cut").is_transient(), "{cut:?}");
        }
        let long =
            b"0ff0".iter().copied().chain(std::iter::repeat_n(b'x', 4096)).collect::<Vec<_>>();
        assert!(matches!(reader(&long).next(), Err(GitError::Broken { .. })));
    }
}
