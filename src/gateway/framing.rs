//! WebSocket frames of the server's side (RFC 6455 §5): what a client said, and what it is told.
//!
//! `head` reads what stands before a payload and refuses what may not, `gather` puts together what
//! arrives in parts. A frame that is whole where it was read is unmasked and handed out there, so
//! that a connection owns memory only while something of a message is still to come.
//!
//! **Invariant.** What is handed out, and the fault that ends it, depends on the bytes alone and
//! never on how the network cut them.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod gather;
mod head;
#[cfg(test)]
mod tests;

use crate::protocol::CloseCode;
pub use gather::{Frames, Heard};
pub use head::Limits;

/// The longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_BYTES_MAX: usize = 125;

/// What a client said.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A message.
    Text {
        /// Its text.
        text: &'a str,
        /// The bytes that were read for it, the heads of all its frames included.
        cost: u32,
    },
    /// A question whether the server lives; its answer carries the same bytes.
    Ping(&'a [u8]),
    /// An answer to a ping, or nothing but a sign of life.
    Pong(&'a [u8]),
    /// The last that is heard of this client, with its code if it gave one.
    Close(Option<u16>),
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It breaks RFC 6455.
    Protocol,
    /// Text, or the reason of a close, that is not UTF-8.
    NotUtf8,
    /// A frame or message over its limit, or one that comes in crumbs.
    TooBig,
    /// A binary message, where only text is spoken.
    Unsupported,
}

impl Fault {
    /// What the client is told.
    pub fn code(self) -> CloseCode {
        match self {
            Self::Protocol => CloseCode::Protocol,
            Self::NotUtf8 => CloseCode::NotUtf8,
            Self::TooBig => CloseCode::TooBig,
            Self::Unsupported => CloseCode::Unsupported,
        }
    }
}

/// The frames of one connection. Between messages it owns no buffer.
#[derive(Debug, Default)]
pub struct Decoder(Frames);

impl Decoder {
    /// Takes the next message or control frame out of `input`, which is fresh from the socket and
    /// unmasked in place, and leaves there what comes behind. `None`: all of it is used up, and of
    /// a frame that is not whole yet the beginning is kept inside. `bytes_max`: of a frame, and of
    /// a message in many.
    ///
    /// What was handed out of memory of its own is let go with the next call, so that one calls
    /// this until there is nothing more.
    ///
    /// # Errors
    /// The connection is over, and nothing more is to be taken out of it.
    pub fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i mut [u8],
        bytes_max: u32,
    ) -> Result<Option<Incoming<'a>>, Fault> {
        let limits = Limits { message_bytes: bytes_max as usize, binary: false };
        Ok(match self.0.next(input, limits)? {
            None => None,
            Some(Heard::Text { text, cost }) => Some(Incoming::Text { text, cost }),
            Some(Heard::Ping(payload)) => Some(Incoming::Ping(payload)),
            Some(Heard::Pong(payload)) => Some(Incoming::Pong(payload)),
            Some(Heard::Close(code)) => Some(Incoming::Close(code)),
            Some(Heard::Binary(_)) => return Err(Fault::Unsupported),
        })
    }

    /// Keeps bytes that were read and are not to be handled now: the next call of
    /// [`Self::next`] sees them before its own, and may have none of its own.
    pub fn keep(&mut self, rest: &[u8]) {
        self.0.keep(rest);
    }

    /// Whether bytes are kept that [`Self::next`] has not looked at.
    pub fn has_kept(&self) -> bool {
        self.0.has_kept()
    }

    /// Bytes that were read and are not part of anything that was handed out.
    pub fn unpaid(&self) -> u32 {
        self.0.unpaid()
    }
}

/// Writes a text frame.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, head::TEXT, text);
}

/// Writes a binary frame.
pub fn put_binary(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, head::BINARY, payload);
}

/// Writes a ping of at most 125 bytes.
pub fn put_ping(out: &mut Vec<u8>, payload: &[u8]) {
    put_control(out, head::PING, payload);
}

/// Writes the answer to a ping.
pub fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put_control(out, head::PONG, payload);
}

/// Writes a close frame with the code's reason.
pub fn put_close(out: &mut Vec<u8>, code: CloseCode) {
    let mut payload = code.number().to_be_bytes().to_vec();
    payload.extend_from_slice(code.reason().as_bytes());
    put_control(out, head::CLOSE, &payload);
}

/// Answers a close frame: with the code that it had, if any (RFC 6455 §5.5.1).
pub fn put_goodbye(out: &mut Vec<u8>, code: Option<u16>) {
    match code {
        Some(code) => put_control(out, head::CLOSE, &code.to_be_bytes()),
        None => put_control(out, head::CLOSE, &[]),
    }
}

fn put_control(out: &mut Vec<u8>, code: u8, payload: &[u8]) {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX, "{} bytes", payload.len());
    put(out, code, payload);
}

/// A whole frame that is not masked, its length in the shortest form.
fn put(out: &mut Vec<u8>, code: u8, payload: &[u8]) {
    let first = head::FIN | code;
    out.reserve(payload.len() + 10);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(short), _) if short < head::LENGTH_16 => out.extend_from_slice(&[first, short]),
        (_, Ok(middle)) => {
            let [high, low] = middle.to_be_bytes();
            out.extend_from_slice(&[first, head::LENGTH_16, high, low]);
        }
        _ => {
            out.extend_from_slice(&[first, head::LENGTH_64]);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}
