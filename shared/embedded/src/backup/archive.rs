//! The file of a backup: a gzipped tar archive in which every flipped bit shows.
//!
//! It has three gzip members, so `tar -xzf` reads it too. The first is empty, and its comment says
//! that this is a backup, and its format. The second has the archive. The third is empty, and its
//! comment has the SHA-256 of everything before it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::BackupError;

/// The format that this program writes, and the newest that it reads.
const FORMAT: u32 = 1;

/// The header of a gzip member with a comment, up to the comment.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0x10, 0, 0, 0, 0, 0, 0xff];

/// The rest of an empty gzip member: an empty block, its checksum and its length.
const EMPTY: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// How the comment of the first member begins; the format follows.
const MAGIC: &str = "rdev backup ";

/// How the comment of the last member begins; the digest follows in hexadecimal.
const DIGEST: &str = "sha256 ";

/// The length of the last member.
const LAST: u64 = (HEAD.len() + DIGEST.len() + 64 + 1 + EMPTY.len()) as u64;

/// An archive that is being written.
pub(super) struct Writer {
    tar: tar::Builder<GzEncoder<Hashing>>,
}

struct Hashing {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Writer {
    /// Begins an archive in an empty file.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut hashing = Hashing { file: BufWriter::new(file), digest: Sha256::new() };
        hashing.write_all(&member(&format!("{MAGIC}{FORMAT}")))?;
        // What is large in it is compressed already.
        Ok(Self { tar: tar::Builder::new(GzEncoder::new(hashing, Compression::fast())) })
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &Path) -> io::Result<()> {
        self.entry(path, EntryType::Directory, 0o700, 0, io::empty())
    }

    /// Adds a file with this content.
    pub(super) fn bytes(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.entry(path, EntryType::Regular, 0o600, content.len() as u64, content)
    }

    /// Adds an open file. One that only grows is added as long as it was.
    pub(super) fn file(&mut self, path: &Path, file: &File) -> io::Result<()> {
        let metadata = file.metadata()?;
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o600 } else { 0o700 };
        let content = Whole { left: metadata.len(), of: file };
        self.entry(path, EntryType::Regular, mode, metadata.len(), content)
    }

    fn entry(
        &mut self,
        path: &Path,
        kind: EntryType,
        mode: u32,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, content)
    }

    /// Ends the archive, and syncs it to the disk.
    pub(super) fn finish(self) -> io::Result<()> {
        let mut hashing = self.tar.into_inner()?.finish()?;
        let last = member(&format!("{DIGEST}{}", hex(hashing.digest)));
        hashing.file.write_all(&last)?;
        hashing.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// A complete archive of a format that this program knows, to be read.
///
/// # Errors
/// [`BackupError::Foreign`], [`BackupError::Damaged`] and [`BackupError::Newer`].
pub(super) fn open(path: &Path) -> Result<tar::Archive<impl Read>, BackupError> {
    let reading = |error| BackupError::io(format!("read {}", path.display()), error);
    let mut file = File::open(path).map_err(reading)?;
    let length = file.metadata().map_err(reading)?.len();
    let mut start = Vec::new();
    let most = HEAD.len() + MAGIC.len() + 20;
    (&mut file).take(most as u64).read_to_end(&mut start).map_err(reading)?;
    let magic = [&HEAD[..], MAGIC.as_bytes()].concat();
    let Some(format) = start.strip_prefix(&magic[..]) else {
        return Err(BackupError::Foreign { file: path.to_owned() });
    };
    let format = format.split(|byte| *byte == 0).next().unwrap_or_default();
    let damaged = || BackupError::Damaged { file: path.to_owned() };
    let content = length.checked_sub(LAST).ok_or_else(damaged)?;
    file.seek(SeekFrom::Start(0)).map_err(reading)?;
    let mut digest = Sha256::new();
    let mut rest = BufReader::with_capacity(1 << 16, (&mut file).take(content));
    loop {
        let bytes = rest.fill_buf().map_err(reading)?;
        if bytes.is_empty() {
            break;
        }
        digest.update(bytes);
        let count = bytes.len();
        rest.consume(count);
    }
    let mut last = Vec::new();
    (&mut file).take(LAST + 1).read_to_end(&mut last).map_err(reading)?;
    if last != member(&format!("{DIGEST}{}", hex(digest))) {
        return Err(damaged());
    }
    let format = std::str::from_utf8(format).ok().and_then(|format| format.parse::<u32>().ok());
    match format {
        Some(FORMAT) => {}
        Some(found) => {
            let known = FORMAT as usize;
            return Err(BackupError::Newer { file: path.to_owned(), found: found as usize, known });
        }
        None => return Err(damaged()),
    }
    file.seek(SeekFrom::Start(0)).map_err(reading)?;
    Ok(tar::Archive::new(MultiGzDecoder::new(BufReader::new(file.take(content)))))
}

/// An empty gzip member with a comment.
fn member(comment: &str) -> Vec<u8> {
    [&HEAD[..], comment.as_bytes(), &[0], &EMPTY].concat()
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Exactly so many bytes: a file that became shorter is an error, not a shorter entry, which would
/// shift everything after it.
struct Whole<R> {
    left: u64,
    of: R,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.of.read(&mut into[..most])?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}
