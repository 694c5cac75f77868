//! A DNS query over UDP, to one server, for tests: what a name really leads to.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// What a server has answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    /// 0 is well, 2 the server failed, 3 there is no such name, 5 refused.
    pub code: u8,
    /// What it found, a CNAME and what that leads to in this order.
    pub answers: Vec<Found>,
}

/// A record in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its name, without a final dot.
    pub name: String,
    /// `A`, `AAAA`, `CNAME`, or `TYPE` and a number.
    pub kind: String,
    /// Seconds.
    pub ttl: u32,
    /// An address or a name without a final dot; nothing for other kinds.
    pub content: String,
}

impl Resolved {
    /// What the records of a kind say.
    pub fn contents(&self, kind: &str) -> Vec<&str> {
        let of = self.answers.iter().filter(|found| found.kind == kind);
        of.map(|found| found.content.as_str()).collect()
    }
}

/// Asks for a name's records of a kind (`A`, `AAAA`, `CNAME`, `SOA`). Blocks; a lost packet is
/// asked for again, for six seconds at most.
///
/// # Errors
/// When nothing comes, or what comes is no answer.
///
/// # Panics
/// For another kind.
pub fn resolve(server: SocketAddr, name: &str, kind: &str) -> Result<Resolved> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let id: u16 = rand::random();
    let query = query(id, name, kind)?;
    let mut last = Error::from(ErrorKind::TimedOut);
    for _ in 0..3 {
        socket.send(&query)?;
        let mut packet = [0; 4096];
        match socket.recv(&mut packet) {
            Ok(length) => return read(&packet[..length], id),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn query(id: u16, name: &str, kind: &str) -> Result<Vec<u8>> {
    let kind: u16 = match kind {
        "A" => 1,
        "CNAME" => 5,
        "SOA" => 6,
        "AAAA" => 28,
        other => panic!("{other} is not a kind that tests ask for"),
    };
    let mut packet = Vec::from(id.to_be_bytes());
    // No flags; one question, no records.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        packet.push(length.ok_or_else(|| Error::other("the name is not valid"))?);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    Ok(packet)
}

fn read(packet: &[u8], id: u16) -> Result<Resolved> {
    let broken = || Error::new(ErrorKind::InvalidData, "no DNS answer");
    let mut reader = Reader { packet, at: 0 };
    let mut resolved = || {
        if reader.short()? != id {
            return None;
        }
        let flags = reader.short()?;
        let (questions, answers) = (reader.short()?, reader.short()?);
        reader.at = 12;
        for _ in 0..questions {
            reader.name()?;
            reader.take(4)?;
        }
        let found = (0..answers).map(|_| reader.record()).collect::<Option<Vec<Found>>>()?;
        Some(Resolved { code: (flags & 15) as u8, answers: found })
    };
    resolved().ok_or_else(broken)
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let bytes = self.packet.get(self.at..self.at + count)?;
        self.at += count;
        Some(bytes)
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name, whose end may stand at an earlier place of the packet.
    fn name(&mut self) -> Option<String> {
        let mut labels = Vec::new();
        let mut back = None;
        // No name has more labels and pointers than this: one that points at itself ends.
        for _ in 0..256 {
            let length = usize::from(self.take(1)?[0]);
            if length == 0 {
                self.at = back.unwrap_or(self.at);
                return Some(labels.join("."));
            }
            if length >= 0xc0 {
                let low = usize::from(self.take(1)?[0]);
                back = back.or(Some(self.at));
                self.at = (length & 0x3f) << 8 | low;
                continue;
            }
            labels.push(String::from_utf8_lossy(self.take(length)?).into_owned());
        }
        None
    }

    fn record(&mut self) -> Option<Found> {
        let name = self.name()?;
        let kind = self.short()?;
        self.take(2)?;
        let ttl = u32::from(self.short()?) << 16 | u32::from(self.short()?);
        let length = usize::from(self.short()?);
        let end = self.at + length;
        let (kind, content) = match kind {
            1 => {
                let bytes: [u8; 4] = self.take(4)?.try_into().ok()?;
                ("A".to_owned(), Ipv4Addr::from(bytes).to_string())
            }
            5 => ("CNAME".to_owned(), self.name()?),
            28 => {
                let bytes: [u8; 16] = self.take(16)?.try_into().ok()?;
                ("AAAA".to_owned(), Ipv6Addr::from(bytes).to_string())
            }
            other => (format!("TYPE{other}"), String::new()),
        };
        self.at = end;
        Some(Found { name, kind, ttl, content })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_pointers_and_a_broken_one_is_an_error() {
        let mut packet = query(7, "www.example.com", "A").expect("a query");
        let header = 12;
        packet[2] = 0x84;
        packet[7] = 2;
        // www.example.com CNAME web.example.com, by pointers to the question.
        packet.extend([0xc0, header, 0, 5, 0, 1, 0, 0, 1, 44, 0, 6, 3]);
        packet.extend(b"web");
        packet.extend([0xc0, header + 4]);
        packet.extend([0xc0, 45, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
        let resolved = read(&packet, 7).expect("an answer");
        assert_eq!(resolved.code, 0);
        assert_eq!(resolved.contents("CNAME"), ["web.example.com"]);
        assert_eq!(resolved.contents("A"), ["192.0.2.7"]);
        assert_eq!(resolved.answers[1].name, "web.example.com");
        assert_eq!(resolved.answers[0].ttl, 300);
        assert!(read(&packet, 8).is_err(), "an answer to another question");
        for length in 0..packet.len() {
            assert!(read(&packet[..length], 7).is_err(), "{length} bytes of it");
        }
        let mut endless = query(7, "a.example.com", "A").expect("a query");
        endless[7] = 1;
        let at = u8::try_from(endless.len()).expect("a short packet");
        endless.extend([0xc0, at]);
        assert!(read(&endless, 7).is_err(), "a name that points at itself");
        assert!(query(7, "a..b", "A").is_err() && query(7, &"a".repeat(64), "A").is_err());
    }
}
