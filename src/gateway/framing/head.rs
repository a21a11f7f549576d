//! What stands before a payload (RFC 6455 §5.2), and what is refused on sight of it.
//!
//! Bytes are judged in the order in which they come, so that a head that arrives in parts is
//! refused at the same byte as one that is whole, and for the same reason.

use super::{CONTROL_BYTES_MAX, Fault};

pub(super) const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const CODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

pub(super) const CONTINUATION: u8 = 0;
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;

/// Stands for a length of two bytes, which follows, and for one of eight.
pub(super) const LENGTH_16: u8 = 126;
pub(super) const LENGTH_64: u8 = 127;

/// The longest head: two bytes, a length of eight, and the mask.
pub(super) const HEAD_BYTES_MAX: usize = 14;
const MASK_BYTES: usize = 4;

/// What a masked frame has around its payload, at least.
const HEAD_BYTES_MIN: usize = 6;
/// What fragments may add to a message beside its own bytes once more.
const CRUMBS_BYTES_MAX: usize = 4 * 1_024;
/// What they may add to the longest message while its end has not come.
const UNFINISHED_BYTES_MORE: usize = 16 * 1_024;

/// What a client may say.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest message, and frame.
    pub message_bytes: usize,
    /// Whether messages may be binary.
    pub binary: bool,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first, or only, frame of a text.
    Text,
    /// The same of a binary message.
    Binary,
    /// One more frame of a message.
    Continuation,
    Close,
    Ping,
    Pong,
}

impl Kind {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// What the first byte says, which is enough to know whether such a frame may stand here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub kind: Kind,
    /// It is the last frame of its message.
    pub last: bool,
}

impl Opening {
    fn read(byte: u8) -> Result<Self, Fault> {
        let last = byte & FIN != 0;
        let kind = match byte & CODE {
            CONTINUATION => Kind::Continuation,
            TEXT => Kind::Text,
            BINARY => Kind::Binary,
            CLOSE => Kind::Close,
            PING => Kind::Ping,
            PONG => Kind::Pong,
            _ => return Err(Fault::Protocol),
        };
        // No extension was agreed on that would give the reserved bits a meaning.
        if byte & RESERVED != 0 || (kind.is_control() && !last) {
            return Err(Fault::Protocol);
        }
        Ok(Self { kind, last })
    }
}

/// What of a message has come, in frames that are whole.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sum {
    /// There is a message, and it is to be continued.
    pub begun: bool,
    /// Its bytes.
    pub bytes: usize,
    /// The same with the heads of its frames.
    pub raw: usize,
}

impl Sum {
    /// Whether such a frame may follow.
    fn may_open(self, opening: Opening, limits: Limits) -> Result<(), Fault> {
        match opening.kind {
            Kind::Text | Kind::Binary if self.begun => Err(Fault::Protocol),
            Kind::Continuation if !self.begun => Err(Fault::Protocol),
            Kind::Binary if !limits.binary => Err(Fault::Unsupported),
            _ => Ok(()),
        }
    }

    /// Whether it may be of these lengths.
    fn may_hold(
        self,
        opening: Opening,
        head: usize,
        length: u64,
        limits: Limits,
    ) -> Result<(), Fault> {
        if opening.kind.is_control() {
            return Ok(());
        }
        let most = limits.message_bytes;
        let length = usize::try_from(length).ok().filter(|length| *length <= most);
        let length = length.ok_or(Fault::TooBig)?;
        let (bytes, raw) = (self.bytes + length, self.raw + head + length);
        let crumbs = opening.last && raw > 2 * (bytes + HEAD_BYTES_MIN) + CRUMBS_BYTES_MAX;
        if bytes > most || raw > most + UNFINISHED_BYTES_MORE || crumbs {
            return Err(Fault::TooBig);
        }
        Ok(())
    }
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub opening: Opening,
    /// The mask, as it lies on the first four bytes of the payload.
    pub mask: [u8; MASK_BYTES],
    /// The length of the payload.
    pub length: usize,
    /// The length of the head itself.
    pub bytes: usize,
}

impl Head {
    /// Reads the head that `bytes` begin with, which comes after so much of a message; `None`: it
    /// is not whole.
    pub(super) fn read(bytes: &[u8], after: Sum, limits: Limits) -> Result<Option<Self>, Fault> {
        let Some(first) = bytes.first() else { return Ok(None) };
        let opening = Opening::read(*first)?;
        after.may_open(opening, limits)?;
        let Some(second) = bytes.get(1) else { return Ok(None) };
        let short = second & !MASKED;
        let control = opening.kind.is_control();
        if second & MASKED == 0 || (control && usize::from(short) > CONTROL_BYTES_MAX) {
            return Err(Fault::Protocol);
        }
        let Some((length, at)) = length(short, &bytes[2..])? else { return Ok(None) };
        let head = at + MASK_BYTES;
        after.may_hold(opening, head, length, limits)?;
        let Some(mask) = bytes[at..].first_chunk() else { return Ok(None) };
        // It fits: what may be held is far less.
        Ok(Some(Self { opening, mask: *mask, length: length as usize, bytes: head }))
    }
}

/// The length of a payload in the shortest form, and where the mask begins.
fn length(short: u8, more: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    match short {
        LENGTH_16 => {
            let Some(length) = more.first_chunk() else { return Ok(None) };
            let length = u16::from_be_bytes(*length);
            if length < u16::from(LENGTH_16) {
                return Err(Fault::Protocol);
            }
            Ok(Some((length.into(), 4)))
        }
        LENGTH_64 => {
            let Some(length) = more.first_chunk() else { return Ok(None) };
            let length = u64::from_be_bytes(*length);
            if length <= u16::MAX.into() || length > i64::MAX.unsigned_abs() {
                return Err(Fault::Protocol);
            }
            Ok(Some((length, 10)))
        }
        short => Ok(Some((short.into(), 2))),
    }
}

/// Takes the mask off, eight bytes at a time.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; MASK_BYTES]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
