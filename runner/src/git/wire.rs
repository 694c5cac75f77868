//! The smart HTTP protocol (version 0): list refs, fetch a pack, update refs.
//!
//! A fetch is two requests: the client offers all its commits together with `done`. A push is two
//! requests as well; its list of refs has the tip of every branch.

use git2::Oid;
use tokio_util::sync::CancellationToken;

use super::pkt::{Pkt, PktReader, flush, line, unexpected};
use super::transport::{Answer, Service, Session, doubtful};
use super::{GitError, Remote, Until};

/// The limit of a list of refs, in bytes: about half a million refs.
const MAX_ADVERTISEMENT: u64 = 32 << 20;

/// The limit of a server's report about a push, in bytes.
const MAX_REPORT: u64 = 4 << 20;

/// The number of bytes of a server's messages that are passed on.
const MAX_WORDS: usize = 2000;

/// The client's name in the protocol.
const AGENT: &str = concat!("agent=rdev/", env!("CARGO_PKG_VERSION"));

/// The server's refs.
#[derive(Debug, Clone, Default)]
pub(super) struct Advertised {
    /// Full names with their objects.
    pub(super) refs: Vec<(String, Oid)>,
    capabilities: Vec<String>,
}

impl Advertised {
    /// The object of a ref.
    pub(super) fn find(&self, name: &str) -> Option<Oid> {
        self.refs.iter().find(|(other, _)| other == name).map(|(_, id)| *id)
    }

    /// Whether the server applies a push of two refs, one of them deleted, wholly or not at all.
    pub(super) fn is_atomic(&self) -> bool {
        self.can("atomic") && self.can("delete-refs")
    }

    /// What it would list after these updates.
    pub(super) fn after(&self, updates: &[Update<'_>]) -> Self {
        let mut after = self.clone();
        for update in updates {
            after.refs.retain(|(name, _)| name != update.name);
            after.refs.extend(update.new.map(|new| (update.name.to_owned(), new)));
        }
        after
    }

    fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}

/// One ref to update, if it has not moved.
pub(super) struct Update<'a> {
    pub(super) name: &'a str,
    /// `None`: it is created.
    pub(super) old: Option<Oid>,
    /// `None`: it is removed.
    pub(super) new: Option<Oid>,
}

/// The server's answer about one ref.
pub(super) enum Verdict {
    /// It updated the ref.
    Done,
    /// It did not, for this reason (one line).
    Refused(String),
}

/// The server's answer to a push.
pub(super) struct Report {
    /// By ref name.
    pub(super) verdicts: Vec<(String, Verdict)>,
    /// The messages of hooks and of the server, in lines.
    pub(super) words: String,
}

/// Lists the refs that `service` shows.
pub(super) fn advertised(
    remote: &Remote,
    service: Service,
    cancel: &CancellationToken,
) -> Result<Advertised, GitError> {
    let session = Session::new(remote, cancel)?;
    let mut lines = PktReader::new(session.get(service)?, MAX_ADVERTISEMENT);
    match lines.next()? {
        Pkt::Data(first) if first.starts_with(b"# service=") => {}
        _ => return Err(unexpected("its list of refs has no valid start")),
    }
    if lines.next()? != Pkt::Flush {
        return Err(unexpected("its list of refs has no valid start"));
    }
    let found = read_refs(&mut lines)?;
    lines.into_source().drain();
    Ok(found)
}

fn read_refs(lines: &mut PktReader<Answer<'_>>) -> Result<Advertised, GitError> {
    let mut found = Advertised::default();
    let mut first = true;
    while let Pkt::Data(data) = lines.next()? {
        let text = data.strip_suffix(b"\n").unwrap_or(data);
        if let Some(message) = text.strip_prefix(b"ERR ") {
            return Err(unexpected(&words(message)));
        }
        let mut parts = text.splitn(2, |byte| *byte == 0);
        let (entry, capabilities) = (parts.next().unwrap_or_default(), parts.next());
        if first {
            first = false;
            let capabilities = String::from_utf8_lossy(capabilities.unwrap_or_default());
            found.capabilities = capabilities.split(' ').map(str::to_owned).collect();
            if found
                .capabilities
                .iter()
                .any(|c| c.starts_with("object-format=") && c != "object-format=sha1")
            {
                return Err(unexpected("repositories with SHA-256 ids are not supported"));
            }
        }
        if entry.starts_with(b"shallow ") {
            continue;
        }
        let (id, name) = entry
            .split_at_checked(40)
            .and_then(|(id, name)| Some((std::str::from_utf8(id).ok()?, name.strip_prefix(b" ")?)))
            .ok_or_else(|| unexpected("its list of refs has an invalid line"))?;
        let id =
            Oid::from_str(id).map_err(|_| unexpected("its list of refs has an invalid line"))?;
        // Names that are not UTF-8 cannot be a branch of ours.
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if !id.is_zero() && name.starts_with("refs/") && !name.ends_with("^{}") {
            found.refs.push((name.to_owned(), id));
        }
    }
    Ok(found)
}

/// Fetches what `wants` need beyond `haves`. `sink` gets the pack in pieces.
pub(super) fn fetch_pack(
    remote: &Remote,
    server: &Advertised,
    wants: &[Oid],
    haves: &[Oid],
    cancel: &CancellationToken,
    mut sink: impl FnMut(&[u8]) -> Result<(), GitError>,
) -> Result<(), GitError> {
    if !server.can("side-band-64k") {
        return Err(unexpected("it is too old: it has no side-band-64k"));
    }
    let mut capabilities = "side-band-64k".to_owned();
    // Not `no-progress`: progress messages keep the connection alive while the server packs.
    for capability in ["ofs-delta", "thin-pack"] {
        if server.can(capability) {
            capabilities.push(' ');
            capabilities.push_str(capability);
        }
    }
    let mut body = Vec::new();
    for (n, want) in wants.iter().enumerate() {
        match n {
            0 => line(&mut body, &format!("want {want} {capabilities} {AGENT}\n")),
            _ => line(&mut body, &format!("want {want}\n")),
        }
    }
    flush(&mut body);
    for have in haves {
        line(&mut body, &format!("have {have}\n"));
    }
    line(&mut body, "done\n");

    let session = Session::new(remote, cancel)?;
    let mut lines = PktReader::new(session.ask(&body)?, u64::MAX);
    loop {
        match lines.next()? {
            Pkt::Flush => break,
            Pkt::Data([1, pack @ ..]) => sink(pack)?,
            Pkt::Data([2, ..]) => {}
            Pkt::Data([3, message @ ..]) => {
                return Err(GitError::unreachable(format!("it stopped: {}", words(message))));
            }
            Pkt::Data(data) if data.starts_with(b"ERR ") => {
                return Err(unexpected(&words(&data[4..])));
            }
            Pkt::Data(data) if data.starts_with(b"ACK ") || data.starts_with(b"NAK") => {}
            Pkt::Data(_) => return Err(unexpected("its answer to a fetch is not valid")),
        }
    }
    lines.into_source().drain();
    Ok(())
}

/// Requests `updates`, of which the server applies all or none if it is to be `atomic`, with the
/// pack that `pack` writes (none when refs are only removed).
pub(super) fn send_updates(
    remote: &Remote,
    server: &Advertised,
    updates: &[Update<'_>],
    (atomic, until): (bool, Until),
    cancel: &CancellationToken,
    pack: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), GitError>) -> Result<(), GitError>,
) -> Result<Report, GitError> {
    if !server.can("report-status") {
        return Err(unexpected("it is too old: it has no report-status"));
    }
    let side_band = server.can("side-band-64k");
    let mut capabilities = "report-status".to_owned();
    for capability in ["side-band-64k", "delete-refs", "ofs-delta"] {
        if server.can(capability) {
            capabilities.push(' ');
            capabilities.push_str(capability);
        }
    }
    if atomic {
        capabilities.push_str(" atomic");
    }
    let mut head = Vec::new();
    for (n, update) in updates.iter().enumerate() {
        let side = |id: Option<Oid>| id.unwrap_or(Oid::ZERO_SHA1);
        let (old, new, name) = (side(update.old), side(update.new), update.name);
        match n {
            0 => line(&mut head, &format!("{old} {new} {name}\0 {capabilities} {AGENT}")),
            _ => line(&mut head, &format!("{old} {new} {name}")),
        }
    }
    flush(&mut head);

    let mut upload = Session::new(remote, cancel)?.upload();
    upload.write(&head)?;
    pack(&mut |piece| upload.write(piece))?;
    let mut lines = PktReader::new(upload.finish()?, MAX_REPORT);
    let mut report = ReportReader::default();
    let read = if side_band {
        report.read_side_band(&mut lines, until)
    } else {
        report.read_plain(&mut lines)
    };
    read.map_err(doubtful)?;
    lines.into_source().leave();
    report.finish()
}

/// Collects the parts of a report.
#[derive(Default)]
struct ReportReader {
    status: Vec<u8>,
    /// How much of it [`ReportReader::is_done`] has read.
    read: usize,
    /// That part of it has a line which says anything but that a ref was updated.
    objects: bool,
    words: Vec<u8>,
}

impl ReportReader {
    fn read_side_band(
        &mut self,
        lines: &mut PktReader<Answer<'_>>,
        until: Until,
    ) -> Result<(), GitError> {
        loop {
            match lines.next()? {
                Pkt::Flush => return Ok(()),
                Pkt::Data([1, data @ ..]) => {
                    self.status.extend_from_slice(data);
                    if until == Until::Updated && self.is_done() {
                        return Ok(());
                    }
                }
                Pkt::Data([2, data @ ..]) => self.words.extend_from_slice(data),
                Pkt::Data([3, message @ ..]) => {
                    return Err(GitError::unreachable(format!("it stopped: {}", words(message))));
                }
                Pkt::Data(_) => return Err(unexpected("its answer to a push is not valid")),
            }
        }
    }

    /// Whether the report is whole and says of each ref that it was updated. Then the push is done:
    /// what may still come is of `post-receive`, which cannot change that and takes its time.
    fn is_done(&mut self) -> bool {
        while !self.objects {
            let rest = &self.status[self.read..];
            let digits = rest.get(..4).map(std::str::from_utf8);
            let Some(digits) = digits else { return false };
            let length = digits.ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let line = match length {
                Some(0) => return true,
                Some(length @ 4..) => rest.get(4..length),
                Some(_) | None => Some(&[][..]),
            };
            let Some(line) = line else { return false };
            self.objects = !line.starts_with(b"unpack ok") && !line.starts_with(b"ok ");
            self.read += length.unwrap_or_default();
        }
        false
    }

    fn read_plain(&mut self, lines: &mut PktReader<Answer<'_>>) -> Result<(), GitError> {
        while let Pkt::Data(data) = lines.next()? {
            self.status.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
            self.status.extend_from_slice(data);
        }
        flush(&mut self.status);
        Ok(())
    }

    fn finish(self) -> Result<Report, GitError> {
        let mut said = self.words;
        let mut verdicts = Vec::new();
        let mut unpacked = false;
        let mut lines = PktReader::new(Rest(Some(self.status)), MAX_REPORT);
        while let Pkt::Data(data) = lines.next().map_err(doubtful)? {
            let text = String::from_utf8_lossy(data);
            let text = text.trim_end_matches('\n');
            if let Some(outcome) = text.strip_prefix("unpack ") {
                unpacked = outcome == "ok";
                if !unpacked {
                    said.extend_from_slice(format!("\nunpack: {outcome}").as_bytes());
                }
            } else if let Some(name) = text.strip_prefix("ok ") {
                verdicts.push((name.to_owned(), Verdict::Done));
            } else if let Some((name, why)) =
                text.strip_prefix("ng ").and_then(|ng| ng.split_once(' '))
            {
                verdicts.push((name.to_owned(), Verdict::Refused(words(why.as_bytes()))));
            }
        }
        let words = words(&said);
        if !unpacked {
            // A full disk or a killed process looks like this and may pass. A ref that is refused
            // for good gets a verdict by its name.
            return Err(GitError::unreachable(format!("it could not store the push: {words}")));
        }
        Ok(Report { verdicts, words })
    }
}

/// A buffer as a source of pieces.
struct Rest(Option<Vec<u8>>);

impl super::pkt::Pieces for Rest {
    fn append_to(&mut self, buffer: &mut Vec<u8>) -> Result<bool, GitError> {
        match self.0.take() {
            Some(rest) if !rest.is_empty() => {
                buffer.extend_from_slice(&rest);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// A server's message for a log: printable, in lines, not too long. A refusal is told as one: a
/// Gitea puts an empty `error:` before and after what it says.
fn words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.split(['\n', '\r']).map(unlabelled).filter(|line| !line.is_empty());
    let mut text = lines.collect::<Vec<_>>().join("\n");
    text.retain(|c| c == '\n' || !c.is_control());
    if text.len() > MAX_WORDS {
        text.truncate(text.floor_char_boundary(MAX_WORDS));
        text.push('…');
    }
    text
}

/// A line without what the programs of git put before an error.
fn unlabelled(line: &str) -> &str {
    let mut line = line.trim_end();
    while let Some(rest) =
        ["remote:", "error:", "fatal:"].iter().find_map(|label| line.strip_prefix(label))
    {
        line = rest.trim_start();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_without_the_labels_of_gits_programs() {
        for (said, told) in [
            (
                "error:\nerror: Not allowed to push to protected branch main\nerror:",
                "Not allowed to push to protected branch main",
            ),
            (
                "error: GH006: Protected branch update failed.\r\nremote: error: A review is required\n",
                "GH006: Protected branch update failed.\nA review is required",
            ),
            ("  a hook's list:\n   - one error: here\n", "  a hook's list:\n   - one error: here"),
            ("fatal: error: error:\n\n", ""),
            ("errors were found\n", "errors were found"),
        ] {
            assert_eq!(words(said.as_bytes()), told);
        }
    }
}
