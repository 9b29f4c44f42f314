//! Framing: one JSON object a line, lines bounded.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest line, its newline included. A register dump of both ports is about 60 KiB.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A line grew past [`MAX_LINE_BYTES`]: the stream cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a control line is longer than {MAX_LINE_BYTES} bytes; close the connection")]
pub struct LineTooLong;

/// Cuts a byte stream into lines, keeping what is not a whole line yet.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// How many of them are known to hold no newline: a line that comes in pieces is looked through once.
    scanned: usize,
}

impl Lines {
    /// Takes in what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its newline, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`LineTooLong`] when the unfinished line is over the bound.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        match self.end_of_line() {
            Some(end) if end < MAX_LINE_BYTES => {
                self.scanned = 0;
                let rest = self.bytes.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.bytes, rest);
                line.truncate(end);
                Ok(Some(line))
            }
            None if self.bytes.len() < MAX_LINE_BYTES => Ok(None),
            _ => Err(LineTooLong),
        }
    }

    /// Whether [`next_line`](Self::next_line) has a whole line.
    pub fn has_line(&mut self) -> bool {
        self.end_of_line().is_some()
    }

    fn end_of_line(&mut self) -> Option<usize> {
        let new = self.bytes.get(self.scanned..).unwrap_or_default();
        let end = new.iter().position(|&byte| byte == b'\n').map(|at| self.scanned + at);
        self.scanned = end.unwrap_or(self.bytes.len());
        end
    }
}

/// A value as one line, newline included.
///
/// # Errors
/// When the value cannot be serialised, which none of this crate's types does.
pub fn encode<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// A value from one line.
///
/// # Errors
/// When the line is not the JSON of a `T`.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Request, StoreMode};

    #[test]
    fn a_line_may_come_in_pieces() {
        let line = encode(&Request::SetStores { stores: StoreMode::Discard }).unwrap();
        assert_eq!(line, b"{\"request\":\"set_stores\",\"stores\":\"discard\"}\n");
        let mut lines = Lines::default();
        for &byte in &line[..line.len() - 1] {
            lines.push(&[byte]);
            assert_eq!(lines.next_line(), Ok(None));
        }
        lines.push(b"\n{\"request\":\"status\"}\nrest");
        let first = lines.next_line().unwrap().unwrap();
        assert_eq!(decode::<Request>(&first).unwrap(), Request::SetStores { stores: StoreMode::Discard });
        let second = lines.next_line().unwrap().unwrap();
        assert_eq!(decode::<Request>(&second).unwrap(), Request::Status);
        assert_eq!(lines.next_line(), Ok(None));
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; MAX_LINE_BYTES]);
        assert_eq!(lines.next_line(), Err(LineTooLong));
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_panic() {
        for nonsense in [&b""[..], b"{}", b"{\"request\":\"explode\"}", b"\xff\xfe", b"[1,2"] {
            assert!(decode::<Request>(nonsense).is_err(), "{nonsense:?}");
        }
    }
}
