//! Parses server-sent events from the bytes of a response.

use std::time::Duration;

/// The largest event in bytes. The server's events have at most 64 KiB.
const MAX_EVENT: usize = 4 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// `event`; `message` if it is absent.
    pub(crate) event: String,
    /// `data`, its lines joined.
    pub(crate) data: String,
    /// The last `id` so far: the place to resume from.
    pub(crate) id: Option<String>,
}

/// Collects bytes until they make events.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The incomplete last line.
    line: Vec<u8>,
    after_cr: bool,
    event: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    /// The pause before the next connection that the server requests.
    pub(crate) retry: Option<Duration>,
}

impl Frames {
    /// Parses the next bytes and returns the events that they complete. `None` if an event is
    /// larger than [`MAX_EVENT`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    frames.extend(self.take_line(&String::from_utf8_lossy(&line)));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT {
                return None;
            }
        }
        Some(frames)
    }

    fn take_line(&mut self, line: &str) -> Option<Frame> {
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().map(Duration::from_millis).or(self.retry),
            // Comments keep the connection alive; other fields mean nothing.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Frame> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Frame { event, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, data: &str, id: Option<&str>) -> Frame {
        Frame { event: event.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let text = ": hello\nretry: 250\nid: 7\nevent: phase\ndata: {\"a\":\ndata: \"é\"}\n\ndata:x\r\n\r\nevent: none\n\nid: 9\rdata: y\r\r";
        let expected = [
            frame("phase", "{\"a\":\n\"é\"}", Some("7")),
            frame("message", "x", Some("7")),
            frame("message", "y", Some("9")),
        ];
        for size in 1..=text.len() {
            let mut frames = Frames::default();
            let got: Vec<Frame> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|bytes| frames.push(bytes).expect("small events"))
                .collect();
            assert_eq!(got, expected, "in pieces of {size}");
            assert_eq!(frames.retry, Some(Duration::from_millis(250)));
        }
    }

    #[test]
    fn an_event_that_is_cut_off_does_not_count() {
        let mut frames = Frames::default();
        assert_eq!(frames.push(b"id: 1\ndata: x\n"), Some(vec![]));
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut frames = Frames::default();
        let block = vec![b'x'; 1 << 20];
        assert!((0..5).any(|_| frames.push(&block).is_none()));
    }
}
